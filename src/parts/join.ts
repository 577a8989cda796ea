import { join } from "node:path";
import { attempt, type FileLayer, FileSource } from "../checkpoint/file-layer.js";
import { PhysariumError } from "../errors.js";
import { syncFolder } from "../output/small-file.js";
import type { Digester } from "../record/digest.js";
import { createPiecePool } from "../surgery/piece-pool.js";
import { type PieceWork, pieceWork } from "../surgery/piece-work.js";
import type { Plan, PlannedShard } from "../surgery/plan.js";
import type { ProgressTally } from "../surgery/progress-tally.js";
import type { OperatorSetup } from "../surgery/protocol.js";
import { prepareShard, syncFile } from "../surgery/shard-files.js";
import { runJobs } from "../threads/run-jobs.js";
import { loadKernelModule } from "../wasm.js";
import { fewOf } from "./few.js";
import type { Gathered } from "./gather.js";
import type { DonePart } from "./manifest.js";
import { finishedPath, lengthOf } from "./part-files.js";
import { type PartsFolder, partFile } from "./parts-folder.js";

/** What joining works with; one for all shards. */
export interface JoinContext {
  readonly folder: PartsFolder;
  readonly plan: Plan;
  readonly gathered: Gathered;
  readonly digester: Digester;
  readonly progress: ProgressTally;
  readonly files: FileLayer;
  readonly signal: AbortSignal | undefined;
}

type Stretch = DonePart["shards"][number] & { readonly part: number };

/** Only copies and digests pass through the pool: no kernel is run, its buffers are all that is used of it. */
const BUFFERS = { slotCount: 3, slotByteLength: 8 << 20, maxCols: 1 };

/**
 * Look at every byte that the parts wrote, and put shards together that were cut. Shards that hold what their records
 * say get their place; parts whose bytes are others are no longer done. Throws `VERIFY_PART`, naming those.
 */
export async function joinShards(context: JoinContext): Promise<void> {
  const { folder, plan, gathered, progress, files, signal } = context;
  const stretchesOf = new Map<string, Stretch[]>();
  for (const { part, shards } of gathered.done) {
    for (const shard of shards) {
      const stretches = stretchesOf.get(shard.file) ?? [];
      stretches.push({ ...shard, part });
      stretchesOf.set(shard.file, stretches);
    }
  }
  progress.start(
    "checking",
    plan.shards.flatMap(({ tensors }) => tensors),
  );
  const { params, allowNonFinite } = plan.options;
  const setup: OperatorSetup = {
    flow: "magnitude",
    params,
    sizes: BUFFERS,
    task: "operate",
    allowNonFinite,
    direct: [],
  };
  const pool = await createPiecePool(plan.memory.workers, loadKernelModule("surgery"), setup, files);
  const damaged = new Map<number, string>();
  try {
    for (const shard of plan.shards) {
      const stretches = (stretchesOf.get(shard.file) ?? []).sort((a, b) => a.first_byte - b.first_byte);
      const found: string[] = [];
      const { work, settle } = await openShard(shard, stretches, found, context);
      await runJobs(work, pool, signal);
      for (const name of found) damaged.set(gathered.partOf.get(name)!, name);
      if (found.length === 0) await settle();
    }
  } finally {
    await pool.close();
  }
  if (damaged.size === 0) return;
  const parts = [...damaged.keys()].sort((a, b) => a - b);
  for (const part of parts) {
    const path = partFile(folder, part, "done.json");
    await attempt("removing", path, () => files.rm(path, { force: true }));
  }
  throw new PhysariumError(
    "VERIFY_PART",
    `${folder.folder}: bytes are not what part ${fewOf(parts)} wrote (the first: tensor "${damaged.get(parts[0])}"); ` +
      "run them again, then finish",
    { parts: parts.slice(0, 1000) },
  );
}

/**
 * The pieces of a shard's tensors for a pool, whose digests are held against the records: read where they lie, and
 * copied to where they belong if that is elsewhere. `settle` gives the shard its name once all of them are in.
 */
async function openShard(
  shard: PlannedShard,
  stretches: readonly Stretch[],
  damaged: string[],
  context: JoinContext,
): Promise<{ readonly work: AsyncIterable<PieceWork>; settle(): Promise<void> }> {
  const { folder, files, digester, gathered } = context;
  const headerDigest = gathered.headerDigests.get(shard.file)!;
  const staged = join(folder.staged, shard.file);
  const isWhole = stretches.length === 1 && stretches[0].whole;
  if (isWhole) {
    await checkLength(staged, shard.byteLength, stretches[0].part, files);
    await checkHeader(staged, shard, headerDigest, context);
    return { work: pieces(shard, staged, [], damaged, context), settle: async () => {} };
  }
  // Joined by an earlier finish, it is looked at again, and what parts have done anew since is put in its place.
  const slices: string[] = [];
  const unfinished = join(folder.unfinished, shard.file);
  const isJoined = (await lengthOf(staged, files)) === shard.byteLength;
  const sources: { from: number; to: number; path: string }[] = [];
  for (const stretch of stretches) {
    const path = finishedPath(folder, stretch);
    const length = await lengthOf(path, files);
    if (length === undefined && isJoined) continue;
    await checkLength(path, stretch.end_byte - stretch.first_byte, stretch.part, files);
    slices.push(path);
    sources.push({ from: stretch.first_byte, to: stretch.end_byte, path });
  }
  if (slices.length === 0) {
    await checkHeader(staged, shard, headerDigest, context);
    return { work: pieces(shard, staged, [], damaged, context), settle: async () => {} };
  }
  if (isJoined) await attempt("renaming", staged, () => files.rename(staged, unfinished));
  await prepareShard(context.plan, shard, folder.unfinished, digester, files);
  return {
    work: pieces(shard, unfinished, sources, damaged, context),
    settle: async () => {
      await syncFile(unfinished, files);
      await attempt("renaming", unfinished, () => files.rename(unfinished, staged));
      await syncFolder(folder.staged, files);
      for (const path of slices) await attempt("removing", path, () => files.rm(path, { force: true }));
    },
  };
}

async function* pieces(
  shard: PlannedShard,
  path: string,
  sources: readonly { readonly from: number; readonly to: number; readonly path: string }[],
  damaged: string[],
  { plan, gathered, digester, progress, folder }: JoinContext,
): AsyncGenerator<PieceWork> {
  let next = 0;
  const context = { folder: folder.staged, progress, placeOf: () => ({ path, firstByte: 0 }) };
  const work = pieceWork(plan, shard.tensors, "check", context, (checked) => {
    const { name } = checked.tensor;
    if (checked.digest(digester) !== gathered.records.get(name)!.digest) damaged.push(name);
    progress.finishTensor(checked.tensor, 0);
  });
  for await (const { job, done } of work) {
    while (next < sources.length && sources[next].to <= job.byteOffset) next++;
    const source = sources[next];
    const isElsewhere = source !== undefined && job.byteOffset >= source.from && job.byteLength > 0;
    if (!isElsewhere) yield { job: { ...job, kind: "check" }, done };
    else {
      const byteOffset = job.byteOffset - source.from;
      yield {
        job: { ...job, kind: "copy", donorPath: source.path, byteOffset, outputByteOffset: job.byteOffset },
        done,
      };
    }
  }
}

async function checkLength(path: string, expected: number, part: number, files: FileLayer): Promise<void> {
  const length = await lengthOf(path, files);
  if (length === expected) return;
  const found = length === undefined ? "is gone" : `has ${length} bytes, expected ${expected}`;
  throw new PhysariumError(
    "VERIFY_PART",
    `${path}: what part ${part} wrote ${found}; run part ${part} again, then finish`,
    { path, part },
  );
}

async function checkHeader(
  path: string,
  shard: PlannedShard,
  expected: string,
  { plan, digester, files, folder }: JoinContext,
): Promise<void> {
  const source = await FileSource.open(path, files);
  try {
    if (digester.digest(await source.read(0, shard.dataByteOffset)) === expected) return;
  } finally {
    await source.close();
  }
  // The header is the donor's: it is written again from there, and flushed as the part had done.
  await prepareShard(plan, shard, folder.staged, digester, files);
  await syncFile(path, files);
}
