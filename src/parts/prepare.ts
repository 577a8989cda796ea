import { dirname } from "node:path";
import { attempt, type FileLayer, nodeFiles } from "../checkpoint/file-layer.js";
import { PhysariumError } from "../errors.js";
import { requireDiskSpace } from "../output/disk-space.js";
import { DEFAULT_HEARTBEAT } from "../output/heartbeat.js";
import { takeLock } from "../output/lock.js";
import { inspectOutput } from "../output/operated-folder.js";
import { listOrNothing, outputNames, refuseOverlap } from "../output/place.js";
import { createDigester, type Digester } from "../record/digest.js";
import type { HeaderRecord, SearchRecord } from "../record/ledger.js";
import type { OnEvent } from "../surgery/events.js";
import { compareOperations, fingerprintOf, type NewFingerprint } from "../surgery/fingerprint.js";
import { kernelSizes, type Plan } from "../surgery/plan.js";
import { ProgressTally } from "../surgery/progress-tally.js";
import { TileFlow } from "../surgery/tile-flow.js";
import { newHeader } from "../surgery/workspace.js";
import { PHYSARIUM_VERSION } from "../version.js";
import { cutIntoParts } from "./cut.js";
import { describePart } from "./part-tensors.js";
import { type PartsFolder, PLAN_FILE, partOfFile, partsFolder } from "./parts-folder.js";
import { type PartsPlan, type PlannedPart, readPartsPlan, writePartsPlan } from "./parts-plan.js";
import { runningParts } from "./status.js";

/** How an operation is cut into parts. */
export interface PrepareOptions {
  readonly outputPath: string;
  readonly maxParts: number;
  /** Replace parts that were prepared otherwise, and an output of physarium when it comes to finishing. */
  readonly overwrite?: boolean;
  readonly onEvent?: OnEvent;
  readonly signal?: AbortSignal;
  readonly files?: FileLayer;
}

/** What was prepared: where it stands, and who does what. */
export interface Prepared {
  readonly folder: PartsFolder;
  readonly plan: PartsPlan;
  /** `already prepared`: the same operation in as many parts stood there, and nothing was done. */
  readonly state: "prepared" | "already prepared";
}

/** The most parts there may be: `parts.json` is read by each. */
export const MAX_PARTS = 100_000;

/**
 * Decide everything that is global about an operation and write it down for many machines: who does which tensors, and
 * for a target sparsity the survival, which reads all targets here, once.
 *
 * Throws `USAGE_*`, `DONOR_*`, `IO_*`, `STOPPED`.
 */
export async function prepareParts(plan: Plan, options: PrepareOptions): Promise<Prepared> {
  const { outputPath, maxParts, overwrite = false, onEvent = () => {}, files = nodeFiles } = options;
  refuseActivation(plan);
  if (!Number.isInteger(maxParts) || maxParts < 1 || maxParts > MAX_PARTS) {
    throw new PhysariumError(
      "USAGE_PARAM",
      `--max-parts is ${maxParts}, expected a whole number from 1 to ${MAX_PARTS}`,
    );
  }
  const folder = await partsFolder(outputPath, files);
  await refuseOverlap(await outputNames(folder.folder, files), [plan.donor.path], files);
  await refuseOccupied(plan, options, files);
  const digester = await createDigester();
  const fingerprint = await fingerprintOf(plan, digester, files);
  const header = newHeader(plan, fingerprint);
  const parent = dirname(folder.path);
  await attempt("creating", parent, () => files.mkdir(parent, { recursive: true }));
  const lock = await takeLock(folder.folder, files, DEFAULT_HEARTBEAT);
  try {
    const standing = await lookAt(folder, files);
    if (standing !== undefined) {
      const difference = differenceOf(standing, fingerprint, plan);
      const isSame = difference === "" && standing.max_parts === maxParts && standing.overwrite === overwrite;
      if (isSame) return { folder, plan: standing, state: "already prepared" };
      if (!overwrite) throw preparedOtherwise(folder, standing, difference);
    }
    await clear(folder, files);
    const slices = cutIntoParts(plan.shards, maxParts);
    const cut = slices.flat().filter(({ isWhole }) => !isWhole);
    const joinBytes = cut.reduce((most, { shard }) => Math.max(most, plan.shards[shard].byteLength), 0);
    await requireDiskSpace(folder.folder, plan.bytesToWrite + joinBytes, files);
    const search = await searchOnce(plan, folder, digester, options, onEvent, files);
    const digests = new Map(header.fingerprint.shards.map(({ file, header_digest }) => [file, header_digest]));
    const encoder = new TextEncoder();
    const lines: Uint8Array[] = [];
    let lineStart = 0;
    const parts = slices.map((mine, part): PlannedPart => {
      const described = describePart(part, mine, plan, digests);
      const line = encoder.encode(`${JSON.stringify(described)}\n`);
      lines.push(line);
      const begin = lineStart;
      lineStart += line.byteLength;
      return {
        part,
        byte_length: mine.reduce((sum, { byteLength }) => sum + byteLength, 0),
        tensors: described.shards.reduce((sum, { tensors }) => sum + tensors.length, 0),
        shards: described.shards.map(({ file, whole, first_byte, end_byte }) => ({
          file,
          whole,
          first_byte,
          end_byte,
        })),
        line: [begin, line.byteLength],
      };
    });
    const sizes = kernelSizes(plan);
    const prepared: PartsPlan = {
      format: "physarium-parts",
      format_version: 1,
      physarium_version: PHYSARIUM_VERSION,
      prepared_at: new Date().toISOString(),
      output: folder.path,
      header,
      search: search ?? null,
      fingerprint: fingerprintDigest(header, search?.survival, digester),
      kernel: { slot_byte_length: sizes.slotByteLength, max_cols: sizes.maxCols },
      overwrite,
      max_parts: maxParts,
      part_count: parts.length,
      parts,
    };
    await writePartsPlan(folder, prepared, Buffer.concat(lines), files);
    return { folder, plan: prepared, state: "prepared" };
  } finally {
    await lock.release();
  }
}

/** What the files of a part carry: equal where donor, options, version and survival are. */
function fingerprintDigest({ fingerprint }: HeaderRecord, survival: number | undefined, digester: Digester): string {
  return digester.digest(new TextEncoder().encode(JSON.stringify([fingerprint, survival ?? null])));
}

/** v2 is a chain of layers; docs/scale.md says what stands in the way of cutting it. */
function refuseActivation({ options }: Plan): void {
  if (options.activation === undefined) return;
  throw new PhysariumError(
    "USAGE_PARTS_FLOW",
    "--flow activation cannot be cut into parts yet: each layer is operated on with the hidden states that the " +
      "layers before it leave, so its parts are no independent jobs; run it on one machine with physarium surgery, " +
      "or take --flow magnitude or balanced (docs/scale.md says what is missing)",
  );
}

async function refuseOccupied(plan: Plan, options: PrepareOptions, files: FileLayer): Promise<void> {
  const { path, partialPath, occupied, partial } = await inspectOutput(options.outputPath, [plan.donor.path], files);
  if (occupied === "foreign") {
    throw new PhysariumError(
      "USAGE_OUTPUT_EXISTS",
      `${path}: the folder is not empty and is no output of physarium, so it is never replaced; choose another output`,
      { path },
    );
  }
  if (partial !== "nothing") {
    throw new PhysariumError(
      "USAGE_UNFINISHED",
      `${partialPath}: an unfinished run on one machine stands there; go on with it, or remove the folder`,
      { path: partialPath },
    );
  }
  if (occupied === "operated" && !options.overwrite) {
    throw new PhysariumError(
      "USAGE_OUTPUT_EXISTS",
      `${path}: there is a finished output; replace it with --overwrite or choose another folder`,
      { path },
    );
  }
}

/** The plan that stands there, if there is one; a folder of somebody else is refused. */
async function lookAt(folder: PartsFolder, files: FileLayer): Promise<PartsPlan | undefined> {
  const names = await listOrNothing(folder.folder, files);
  if (names === undefined) return undefined;
  const ours = new Set([PLAN_FILE, "tensors.jsonl", "locks", "unfinished", "slices", "output", "logs"]);
  const foreign = names.find((name) => !ours.has(name) && partOfFile(name) === undefined && !name.endsWith(".tmp"));
  if (foreign === undefined) return readPartsPlan(folder, files);
  throw new PhysariumError(
    "USAGE_OUTPUT_EXISTS",
    `${folder.folder}: the parts are kept there, but the folder holds something else (${foreign}); move it away`,
    { path: folder.folder, name: foreign },
  );
}

/** In words; empty where both are one operation on one donor. */
function differenceOf({ header }: PartsPlan, now: NewFingerprint, { donor, model }: Plan): string {
  const { differences, touched } = compareOperations(header, now, model);
  return [
    ...differences,
    ...(touched.size === 0 ? [] : [`the donor was written to or copied since: ${[...touched].join(", ")}`]),
    ...(header.donor.path === donor.path ? [] : [`the donor was ${header.donor.path}`]),
  ].join("; ");
}

function preparedOtherwise(
  { folder }: PartsFolder,
  { max_parts, overwrite }: PartsPlan,
  difference: string,
): PhysariumError {
  const how = difference || `in ${max_parts} parts at most${overwrite ? ", with --overwrite" : ""}`;
  return new PhysariumError(
    "USAGE_PARTS_MISMATCH",
    `${folder}: parts were prepared there already, otherwise: ${how}; go on with those, or throw them away ` +
      "with --overwrite",
    { path: folder },
  );
}

/** Throw parts away. The plan goes first: a part that is started meanwhile finds none. */
async function clear(folder: PartsFolder, files: FileLayer): Promise<void> {
  const running = await runningParts(folder, files);
  if (running.length > 0) {
    const [{ part, host, pid }] = running;
    throw new PhysariumError(
      "USAGE_LOCKED",
      `${folder.folder}: ${running.length} of its parts are being worked on just now (part ${part} by process ${pid} ` +
        `on ${host}); stop them first`,
      { path: folder.folder },
    );
  }
  for (const path of [folder.planPath, folder.folder]) {
    await attempt("removing", path, () => files.rm(path, { recursive: true, force: true }));
  }
}

async function searchOnce(
  plan: Plan,
  folder: PartsFolder,
  digester: Digester,
  { signal }: PrepareOptions,
  onEvent: OnEvent,
  files: FileLayer,
): Promise<SearchRecord | undefined> {
  let found: SearchRecord | undefined;
  await new TileFlow(plan, files).prepare({
    folder: folder.unfinished,
    outputPath: folder.path,
    stopped: undefined,
    records: new Map(),
    digester,
    progress: new ProgressTally(onEvent),
    onEvent,
    signal,
    append: async (record) => {
      if (record.kind === "search") found = record;
    },
    finish: async () => {},
  });
  return found;
}
