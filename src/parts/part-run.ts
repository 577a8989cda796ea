import { hostname } from "node:os";
import { attempt, type FileLayer, nodeFiles } from "../checkpoint/file-layer.js";
import { FolderSource } from "../checkpoint/folder-source.js";
import { isPhysariumError, PhysariumError } from "../errors.js";
import type { Heartbeat } from "../output/heartbeat.js";
import { lockHolder } from "../output/lock.js";
import { writeSmallFile } from "../output/small-file.js";
import { createDigester, type Digester } from "../record/digest.js";
import { type LedgerRecord, LedgerWriter, type TensorRecord } from "../record/ledger.js";
import { readLedger } from "../record/read-ledger.js";
import type { OnEvent } from "../surgery/events.js";
import type { FlowContext, OutputPlace } from "../surgery/flow-run.js";
import { type PlannedShard, type PlannedTensor, planMemory, type TilePlan } from "../surgery/plan.js";
import { ProgressTally } from "../surgery/progress-tally.js";
import { checkFilesUnchanged } from "../surgery/shard-files.js";
import { TileFlow } from "../surgery/tile-flow.js";
import { type DonePart, readDone, writeManifest } from "./manifest.js";
import { checkShard, openStretch, placesOfDone, publishStretches, unfinishedPath } from "./part-files.js";
import { takeSharedLock, watching } from "./part-lock.js";
import { type PartStretch, type PartTensors, plannedShards } from "./part-tensors.js";
import { finishLock, type PartsFolder, partFile, partLock, partsFolder } from "./parts-folder.js";
import { checkVersion, optionsOf, type PartsPlan, readPartsPlan, readPartTensors } from "./parts-plan.js";
import { recordFailure } from "./retry.js";
import { joinedFrom, noParts } from "./status.js";

/** How one part is done on this machine. */
export interface RunPartOptions {
  readonly workers?: number;
  readonly onEvent?: OnEvent;
  /** Stops the run at once; what is written stays, and the next run of the part goes on from there. */
  readonly signal?: AbortSignal;
  readonly heartbeat?: Heartbeat;
  readonly files?: FileLayer;
}

/** What a run of a part ended with. */
export interface PartResult {
  readonly part: number;
  /** `already done`: the part was done and is unchanged. `joined`: finish has made the output of it. */
  readonly state: "done" | "already done" | "joined";
  readonly done?: DonePart;
}

/**
 * Do one part: what a node does. Run again, it looks whether the part is done and unchanged and does what is missing.
 *
 * Throws `USAGE_PARTS*`, `USAGE_LOCKED`, `DONOR_*`, `IO_*`, `STOPPED`; whatever stops it behind the lock is noted in
 * `part-I.failed.json`.
 */
export async function runPart(outputPath: string, part: number, options: RunPartOptions = {}): Promise<PartResult> {
  const { files = nodeFiles, onEvent = () => {}, workers, signal, heartbeat } = options;
  const folder = await partsFolder(outputPath, files);
  const plan = await readPartsPlan(folder, files, part);
  if (plan === undefined) {
    if ((await joinedFrom(folder, files)) === undefined) throw noParts(folder);
    return { part, state: "joined" };
  }
  checkVersion(plan, folder);
  const planned = plan.parts[part];
  if (planned === undefined) {
    throw new PhysariumError(
      "USAGE_PARTS_INDEX",
      `--part is ${part}, expected a whole number from 0 to ${plan.part_count - 1}: ${folder.planPath} has ` +
        `${plan.part_count} parts`,
      { part, part_count: plan.part_count },
    );
  }
  const lock = await takeSharedLock(partLock(folder, part), {
    files,
    signal,
    ...(heartbeat === undefined ? {} : { heartbeat }),
    onWait: (seconds) =>
      onEvent({
        event: "note",
        message: `part ${part}: ${watching(seconds)}`,
      }),
  });
  try {
    await refuseWhileJoining(folder, files);
    const tensors = await readPartTensors(folder, planned, files);
    const stop = AbortSignal.any([signal, lock.lost].filter((one) => one !== undefined));
    const digester = await createDigester();
    return await new PartRun(folder, plan, tensors, workers, stop, digester, files, onEvent).run();
  } catch (error) {
    const explained = lock.lost?.aborted ? lockLost(folder, part, error) : explainStop(part, error);
    await recordFailure(folder, plan, part, explained, files);
    throw explained;
  } finally {
    await lock.release().catch(() => {});
  }
}

/** Parts and finish exclude each other: each takes its own lock first, then looks at the other's. */
async function refuseWhileJoining(folder: PartsFolder, files: FileLayer): Promise<void> {
  const holder = await lockHolder(finishLock(folder), files);
  if (holder === undefined || !holder.isAlive) return;
  throw new PhysariumError(
    "USAGE_LOCKED",
    `${folder.folder}: physarium parts finish (process ${holder.pid} on ${holder.host}) is joining the parts just now`,
    { path: folder.folder, pid: holder.pid, host: holder.host },
  );
}

function explainStop(part: number, error: unknown): unknown {
  if (!isPhysariumError(error, "STOPPED")) return error;
  const kept = "what is written of it is kept; run the same part again, and it goes on from there";
  return new PhysariumError("STOPPED", `part ${part}: stopped; ${kept}`, { part }, error);
}

function lockLost(folder: PartsFolder, part: number, cause: unknown): PhysariumError {
  return new PhysariumError(
    "IO_LOCK_LOST",
    `${partLock(folder, part)}.lock: this machine gave no sign of life for too long, and another took part ${part} ` +
      "over; nothing is lost, both write the same bytes",
    { part },
    cause,
  );
}

/** One run of a part, under its lock. */
class PartRun {
  private readonly shards: readonly PlannedShard[];
  private readonly tiles: TilePlan;
  private readonly flow: TileFlow;
  private readonly records = new Map<string, TensorRecord>();
  private readonly progress: ProgressTally;
  private readonly startedAt = new Date();
  private readonly stretchOf = new Map<string, PartStretch>();
  private ledger: LedgerWriter | undefined;

  constructor(
    private readonly folder: PartsFolder,
    private readonly plan: PartsPlan,
    private readonly part: PartTensors,
    workers: number | undefined,
    private readonly signal: AbortSignal,
    private readonly digester: Digester,
    private readonly files: FileLayer,
    private readonly onEvent: OnEvent,
  ) {
    const { header, kernel } = plan;
    const options = optionsOf(plan, workers);
    const sizes = { slotCount: 3, slotByteLength: kernel.slot_byte_length, maxCols: kernel.max_cols };
    this.shards = plannedShards(part, header.donor.path);
    this.tiles = {
      donor: header.donor,
      options,
      shards: this.shards,
      memory: planMemory(sizes, { ...options, targetSparsity: undefined }, this.tensors.length),
      targetWeights: 0,
    };
    this.flow = new TileFlow(this.tiles, files);
    this.progress = new ProgressTally(onEvent);
    for (const stretch of part.shards) for (const { name } of stretch.tensors) this.stretchOf.set(name, stretch);
  }

  private get tensors(): PlannedTensor[] {
    return this.shards.flatMap(({ tensors }) => tensors);
  }

  async run(): Promise<PartResult> {
    const { folder, part, shards, digester, files } = this;
    // Before the first byte: the shards this machine sees are those that were planned.
    for (const [at, shard] of shards.entries()) await checkShard(shard, part.shards[at], digester, files);
    const before = await this.doneBefore();
    if (before !== undefined) return { part: part.part, state: "already done", done: before };
    try {
      const { donor } = this.plan.header;
      const place = { donor, model: { source: new FolderSource(donor.path, files) } };
      const claimed = await this.claimed();
      // From here on its files may be anything.
      await this.remove("done.json");
      for (const [at, shard] of shards.entries()) {
        await openStretch(folder, place, shard, part.shards[at], digester, files);
      }
      await this.check(claimed);
      const resumed = this.records.size;
      await this.beginLedger();
      await this.operate();
      await checkFilesUnchanged(shards, files);
      await this.ledger!.close();
      this.ledger = undefined;
      await publishStretches(folder, part.shards, files);
      const done = this.describe(resumed);
      await writeManifest(folder, "done.json", done, files);
      for (const kind of ["jsonl", "failed.json"] as const) await this.remove(kind);
      return { part: part.part, state: "done", done };
    } finally {
      await this.ledger?.close().catch(() => {});
      await this.flow.close();
    }
  }

  /** The note of an earlier run that the part is done, where its bytes still are what it says. */
  private async doneBefore(): Promise<DonePart | undefined> {
    const { folder, part, plan, files } = this;
    const done = await this.readDone();
    if (done === undefined) return undefined;
    if (done.fingerprint !== plan.fingerprint) {
      throw new PhysariumError(
        "USAGE_PARTS_MISMATCH",
        `${partFile(folder, part.part, "done.json")}: it belongs to another operation than ${folder.planPath}; ` +
          "prepare again with --overwrite",
        { part: part.part },
      );
    }
    const place = await placesOfDone(folder, part, files);
    if (place === undefined) return undefined;
    const records = new Map(done.tensors.map((record) => [record.name, record]));
    const good = await this.unchanged(records, place);
    if (good.length === this.tensors.length) return done;
    this.onEvent({
      event: "note",
      message:
        `part ${part.part} was done, but ${this.tensors.length - good.length} of its tensors are not what was ` +
        "written",
    });
    return undefined;
  }

  /** A note that cannot be read is none: the part is done again. */
  private async readDone(): Promise<DonePart | undefined> {
    try {
      return await readDone(this.folder, this.part.part, this.files);
    } catch (error) {
      if (!isPhysariumError(error, "VERIFY_")) throw error;
      this.onEvent({ event: "note", message: error.message });
      return undefined;
    }
  }

  /** Records of an earlier run, whether their bytes are still there or not. */
  private async claimed(): Promise<Map<string, TensorRecord>> {
    const { folder, part, files } = this;
    const ledger = await readLedger(partFile(folder, part.part, "jsonl"), files, true);
    const claimed = new Map(ledger?.tensors ?? []);
    for (const record of (await this.readDone())?.tensors ?? []) claimed.set(record.name, record);
    return claimed;
  }

  private async check(claimed: ReadonlyMap<string, TensorRecord>): Promise<void> {
    if (claimed.size === 0) return;
    for (const record of await this.unchanged(claimed)) this.records.set(record.name, record);
    this.onEvent({
      event: "note",
      message: `resuming: ${this.records.size} of ${this.tensors.length} tensors are done and unchanged`,
    });
  }

  /** Which of these records still say what their bytes are. */
  private async unchanged(
    records: ReadonlyMap<string, TensorRecord>,
    placeOf: FlowContext["placeOf"] = (tensor) => this.placeOf(tensor),
  ): Promise<TensorRecord[]> {
    const tensors = this.tensors.filter(({ name }) => records.has(name));
    const good: TensorRecord[] = [];
    this.progress.start("checking", tensors);
    await this.flow.check(tensors, { ...this.context(), placeOf }, (checked) => {
      const record = records.get(checked.tensor.name)!;
      if (checked.digest(this.digester) === record.digest) good.push(record);
      this.progress.finishTensor(checked.tensor, 0);
    });
    return good;
  }

  private async operate(): Promise<void> {
    const open = this.tensors.filter(({ name }) => !this.records.has(name));
    this.progress.start("operating", open);
    for (const { killed = 0, weights = 0 } of this.records.values()) this.progress.takeOver(killed, weights);
    await this.flow.operate(asynchronously(open), this.tiles.options.params, this.context());
  }

  private context(): FlowContext {
    const { folder, records, digester, progress, onEvent, signal } = this;
    return {
      folder: folder.unfinished,
      placeOf: (tensor) => this.placeOf(tensor),
      outputPath: folder.path,
      stopped: undefined,
      records,
      digester,
      progress,
      onEvent,
      signal,
      append: (record) => this.ledger!.append(record),
      finish: async (written) => {
        const record = written.record(digester);
        const { name, role, killed = 0, sparsity = 0 } = record;
        records.set(name, record);
        await this.ledger!.append(record);
        onEvent({ event: "tensor", name, role, killed, sparsity });
        progress.finishTensor(written.tensor, killed);
      },
    };
  }

  private placeOf({ name }: PlannedTensor): OutputPlace {
    const stretch = this.stretchOf.get(name)!;
    return { path: unfinishedPath(this.folder, stretch), firstByte: stretch.first_byte };
  }

  /** What holds of an earlier run goes into a ledger of the part's own; a killed run goes on by it. */
  private async beginLedger(): Promise<void> {
    const { folder, part, plan, files } = this;
    const path = partFile(folder, part.part, "jsonl");
    const mine = new Set(part.shards.map(({ file }) => file));
    const { fingerprint } = plan.header;
    const header: LedgerRecord = {
      ...plan.header,
      at: this.startedAt.toISOString(),
      // With thousands of parts, all shards in each would be most of what lies there.
      fingerprint: { ...fingerprint, shards: fingerprint.shards.filter(({ file }) => mine.has(file)) },
    };
    const lines = [header, ...this.records.values()].map((record) => `${JSON.stringify(record)}\n`);
    const bytes = new TextEncoder().encode(lines.join(""));
    await writeSmallFile(path, bytes, files);
    this.ledger = await LedgerWriter.open(path, bytes.byteLength, files);
  }

  private describe(resumed: number): DonePart {
    const { part, plan, startedAt, tiles, records } = this;
    const ended = new Date();
    return {
      physarium_version: plan.physarium_version,
      fingerprint: plan.fingerprint,
      part: part.part,
      byte_length: plan.parts[part.part].byte_length,
      host: hostname(),
      pid: process.pid,
      started_at: startedAt.toISOString(),
      ended_at: ended.toISOString(),
      seconds: (ended.getTime() - startedAt.getTime()) / 1000,
      workers: tiles.memory.workers,
      peak_rss_bytes: process.resourceUsage().maxRSS * 1024,
      resumed_tensors: resumed,
      shards: part.shards.map(({ file, whole, first_byte, end_byte }) => ({ file, whole, first_byte, end_byte })),
      tensors: this.tensors.map(({ name }) => records.get(name)!),
    };
  }

  private async remove(kind: "jsonl" | "done.json" | "failed.json"): Promise<void> {
    const path = partFile(this.folder, this.part.part, kind);
    await attempt("removing", path, () => this.files.rm(path, { force: true }));
  }
}

async function* asynchronously<T>(items: Iterable<T>): AsyncGenerator<T> {
  yield* items;
}
