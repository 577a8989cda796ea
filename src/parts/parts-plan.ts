import * as v from "valibot";
import { attempt, type FileLayer, FileSource, readSmallFile } from "../checkpoint/file-layer.js";
import { isPhysariumError, PhysariumError } from "../errors.js";
import { writeSmallFile } from "../output/small-file.js";
import type { HeaderRecord, SearchRecord } from "../record/ledger.js";
import { RECORD_SCHEMAS } from "../record/ledger-schema.js";
import { Count, Digest, FileName, readJson, Time, Words } from "../record/read-json.js";
import { type CheckedOptions, checkOptions } from "../surgery/options.js";
import { PHYSARIUM_VERSION } from "../version.js";
import { PartTensors } from "./part-tensors.js";
import type { PartsFolder } from "./parts-folder.js";

/** `parts.json`: everything that all parts have in common, and who does what. */
export interface PartsPlan {
  readonly format: "physarium-parts";
  readonly format_version: 1;
  readonly physarium_version: string;
  readonly prepared_at: string;
  readonly output: string;
  /** The ledger's first record, as one machine would write it: donor, options, version. */
  readonly header: HeaderRecord;
  /** What `--target-sparsity` found, once for all parts. */
  readonly search: SearchRecord | null;
  /** XXH128 of the header's fingerprint and the survival in force: every file of a part carries it. */
  readonly fingerprint: string;
  /** Sizes that every machine's kernels are made for. */
  readonly kernel: { readonly slot_byte_length: number; readonly max_cols: number };
  /** Whether a finished output that stands at the name may be replaced. */
  readonly overwrite: boolean;
  /** How many were asked for at most. */
  readonly max_parts: number;
  /** How many parts there are. A scheduler's own count is not asked: on a retry of one index it says 1. */
  readonly part_count: number;
  readonly parts: readonly PlannedPart[];
}

export interface PlannedPart {
  readonly part: number;
  readonly byte_length: number;
  readonly tensors: number;
  readonly shards: readonly PartShard[];
  /** Where its line stands in tensors.jsonl: first byte and length. */
  readonly line: readonly [number, number];
}

export interface PartShard {
  readonly file: string;
  /** The whole file; else the bytes from `first_byte` to before `end_byte`, for finish to join. */
  readonly whole: boolean;
  readonly first_byte: number;
  readonly end_byte: number;
}

const Part = v.looseObject({
  part: Count,
  byte_length: Count,
  tensors: Count,
  shards: v.array(v.looseObject({ file: FileName, whole: v.boolean(), first_byte: Count, end_byte: Count })),
  line: v.tuple([Count, Count]),
});

/** Without a look at the parts: they are as many as there are runs of them, and each run wants one. */
const Plan = v.looseObject({
  format: v.literal("physarium-parts"),
  format_version: v.literal(1),
  physarium_version: Words,
  prepared_at: Time,
  output: Words,
  header: RECORD_SCHEMAS.header,
  search: v.nullable(RECORD_SCHEMAS.search),
  fingerprint: Digest,
  kernel: v.looseObject({ slot_byte_length: Count, max_cols: Count }),
  overwrite: v.boolean(),
  max_parts: Count,
  part_count: Count,
  parts: v.array(v.unknown()),
});

/** A million parts stay under this. */
const MAX_PLAN_BYTES = 2 ** 29 - 24;

/**
 * The plan of an output in parts; `undefined` where there is none. With `only`, that part alone is looked at, and the
 * others are not to be touched. Throws `USAGE_PARTS_DAMAGED`.
 */
export async function readPartsPlan(
  { planPath }: PartsFolder,
  files: FileLayer,
  only?: number,
): Promise<PartsPlan | undefined> {
  const refuse = damaged(planPath);
  let plan: v.InferOutput<typeof Plan>;
  try {
    plan = readJson(await readSmallFile(planPath, files, MAX_PLAN_BYTES), Plan, refuse);
  } catch (error) {
    if (isPhysariumError(error, "IO_NOT_FOUND")) return undefined;
    throw error;
  }
  if (plan.parts.length !== plan.part_count) {
    throw refuse(`it names ${plan.parts.length} parts, part_count is ${plan.part_count}`);
  }
  for (const [at, row] of plan.parts.entries()) {
    if (only !== undefined && at !== only) continue;
    const result = v.safeParse(Part, row, { abortEarly: true });
    if (!result.success || result.output.part !== at) throw refuse(`parts.${at} is none that prepare wrote`);
  }
  return plan as PartsPlan;
}

/** Refuse the plan of another version before anything is written. Throws `USAGE_PARTS_MISMATCH`. */
export function checkVersion({ physarium_version }: PartsPlan, { planPath }: PartsFolder): void {
  if (physarium_version === PHYSARIUM_VERSION) return;
  throw new PhysariumError(
    "USAGE_PARTS_MISMATCH",
    `${planPath}: prepared by physarium ${physarium_version}, this is ${PHYSARIUM_VERSION}; run the version that ` +
      "prepared it on every machine, or prepare again with --overwrite",
    { prepared: physarium_version, running: PHYSARIUM_VERSION },
  );
}

/** What surgery was asked for, with this machine's workers and the survival that the search found. */
export function optionsOf({ header, search }: PartsPlan, workers: number | undefined): CheckedOptions {
  const { flow, block_size, n_iter, beta, survival, target_sparsity, include, exclude, allow_non_finite } =
    header.fingerprint;
  const options = checkOptions({
    flow,
    blockSize: block_size,
    nIter: n_iter,
    beta,
    ...(survival === null ? {} : { survival }),
    ...(target_sparsity === null ? {} : { targetSparsity: target_sparsity }),
    ...(include === null ? {} : { include }),
    ...(exclude === null ? {} : { exclude }),
    allowNonFinite: allow_non_finite,
    ...(workers === undefined ? {} : { workers }),
  });
  return search === null ? options : { ...options, params: { ...options.params, survival: search.survival } };
}

/** One part's tensors: its line alone is read, however many parts there are. Throws `USAGE_PARTS_DAMAGED`, `IO_*`. */
export async function readPartTensors(
  { tensorsPath }: PartsFolder,
  { part, line: [begin, byteLength] }: PlannedPart,
  files: FileLayer,
): Promise<PartTensors> {
  const refuse = damaged(tensorsPath);
  const source = await FileSource.open(tensorsPath, files);
  try {
    if (begin + byteLength > source.byteLength) throw refuse(`it ends before the line of part ${part}`);
    const tensors = readJson(await source.read(begin, begin + byteLength), PartTensors, refuse);
    if (tensors.part !== part) throw refuse(`the line of part ${part} speaks of part ${tensors.part}`);
    return tensors;
  } finally {
    await source.close();
  }
}

/** The plan last: where it stands, everything else does. */
export async function writePartsPlan(
  { planPath, tensorsPath, folder, locks, unfinished, slices, staged }: PartsFolder,
  plan: PartsPlan,
  lines: Uint8Array,
  files: FileLayer,
): Promise<void> {
  for (const path of [folder, locks, unfinished, slices, staged]) {
    await attempt("creating", path, () => files.mkdir(path, { recursive: true }));
  }
  await writeSmallFile(tensorsPath, lines, files);
  const { parts, ...head } = plan;
  const rows = parts.map((part) => `  ${JSON.stringify(part)}`).join(",\n");
  const text = `${JSON.stringify(head, null, 1).slice(0, -2)},\n "parts": [\n${rows}\n ]\n}\n`;
  await writeSmallFile(planPath, text, files);
}

function damaged(path: string) {
  return (fault: string, cause?: unknown): PhysariumError =>
    new PhysariumError(
      "USAGE_PARTS_DAMAGED",
      `${path}: ${fault}; the file was edited or damaged, prepare again with --overwrite`,
      { path },
      cause,
    );
}
