import type { FileLayer } from "../checkpoint/file-layer.js";
import { isPhysariumError, PhysariumError } from "../errors.js";
import type { TensorRecord } from "../record/ledger.js";
import type { Plan, PlannedTensor } from "../surgery/plan.js";
import { atOnce } from "./at-once.js";
import { fewOf } from "./few.js";
import { type DonePart, readDone } from "./manifest.js";
import type { PartsFolder } from "./parts-folder.js";
import type { PartsPlan } from "./parts-plan.js";

/** What all parts say of themselves, held against the plan. */
export interface Gathered {
  /** In the order of the parts. */
  readonly done: readonly DonePart[];
  readonly records: ReadonlyMap<string, TensorRecord>;
  /** The part that wrote a tensor. */
  readonly partOf: ReadonlyMap<string, number>;
  readonly headerDigests: ReadonlyMap<string, string>;
  /** Time that parts spent on each shard: a part's seconds are shared out by bytes. */
  readonly secondsOf: ReadonlyMap<string, number>;
}

/**
 * Read every part's note and hold it against the plan as it is made anew. Throws `USAGE_PARTS_OPEN`, naming the parts
 * that are not done, and `VERIFY_PART` where one speaks of other tensors than were planned for it.
 */
export async function gatherParts(
  folder: PartsFolder,
  parts: PartsPlan,
  plan: Plan,
  files: FileLayer,
): Promise<Gathered> {
  const done = new Array<DonePart>(parts.part_count);
  const open: number[] = [];
  await atOnce(parts.parts, async ({ part }) => {
    const manifest = await readDone(folder, part, files).catch((error: unknown) => {
      if (isPhysariumError(error, "VERIFY_")) return undefined;
      throw error;
    });
    if (manifest?.fingerprint === parts.fingerprint) done[part] = manifest;
    else open.push(part);
  });
  if (open.length > 0) throw notDone(folder, parts, open);
  const records = new Map<string, TensorRecord>();
  const partOf = new Map<string, number>();
  const secondsOf = new Map<string, number>();
  for (const { part, tensors, shards, seconds, byte_length } of done) {
    for (const record of tensors) {
      records.set(record.name, record);
      partOf.set(record.name, part);
    }
    for (const { file, first_byte, end_byte } of shards) {
      const share = byte_length === 0 ? 0 : (seconds * (end_byte - first_byte)) / byte_length;
      secondsOf.set(file, (secondsOf.get(file) ?? 0) + share);
    }
  }
  let planned = 0;
  for (const { tensors } of plan.shards) {
    for (const tensor of tensors) {
      planned++;
      checkRecord(tensor, records.get(tensor.name), partOf.get(tensor.name));
    }
  }
  if (records.size !== planned) {
    throw new PhysariumError(
      "VERIFY_PART",
      `${folder.folder}: its parts speak of ${records.size} tensors, the donor has ${planned}; prepare again with ` +
        "--overwrite",
    );
  }
  const headerDigests = new Map(
    parts.header.fingerprint.shards.map(({ file, header_digest }) => [file, header_digest]),
  );
  return { done, records, partOf, headerDigests, secondsOf };
}

function checkRecord(tensor: PlannedTensor, record: TensorRecord | undefined, part: number | undefined): void {
  const { name, shard, role, dtype, byteOffset, byteLength } = tensor;
  const isPlanned =
    record !== undefined &&
    record.shard === shard &&
    record.role === role &&
    record.dtype === dtype &&
    record.byte_offset === byteOffset &&
    record.byte_length === byteLength;
  if (isPlanned) return;
  const found = record === undefined ? "no part wrote it" : `part ${part} wrote another than was planned`;
  throw new PhysariumError("VERIFY_PART", `${shard}: tensor "${name}": ${found}; prepare again with --overwrite`, {
    tensor: name,
    ...(part === undefined ? {} : { part }),
  });
}

function notDone({ folder, path }: PartsFolder, { part_count }: PartsPlan, open: number[]): PhysariumError {
  open.sort((a, b) => a - b);
  return new PhysariumError(
    "USAGE_PARTS_OPEN",
    `${folder}: ${open.length} of ${part_count} parts are not done (${fewOf(open)}); run them, then finish: ` +
      `physarium parts status ${path} says why`,
    { open: open.length, parts: open.slice(0, 1000) },
  );
}
