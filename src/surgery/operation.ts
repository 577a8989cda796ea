import { join } from "node:path";
import type { ActivationRun } from "../calibration/operate-donor.js";
import { type FileLayer, nodeFiles } from "../checkpoint/file-layer.js";
import { isPhysariumError, refuseStopped } from "../errors.js";
import { DRIVE_BINS } from "../flow/drive-histogram.js";
import type { FlowParams } from "../flow/params.js";
import { publish } from "../output/staged-folder.js";
import { createDigester, type Digester } from "../record/digest.js";
import type {
  ActivationRecord,
  LedgerRecord,
  LedgerWriter,
  SearchRecord,
  ShardRecord,
  TensorRecord,
} from "../record/ledger.js";
import { readReport } from "../record/open-record.js";
import type { Piece } from "../record/pieces.js";
import { RunClock, type RunEntry, writeRuns } from "../record/run-history.js";
import type { SurgeryReport } from "../record/surgery-report.js";
import { runJobs } from "../threads/run-jobs.js";
import { loadKernelModule } from "../wasm.js";
import { completeOperation, type MeasureSections, type RenderDocuments } from "./completion.js";
import type { OnEvent } from "./events.js";
import { explain } from "./explain.js";
import {
  checkSameCalibration,
  openActivation,
  operateActivation,
  refuseNonFinite,
  SHORT_CALIBRATION,
} from "./layer-flow.js";
import type { OperatorSetup } from "./piece-operator.js";
import { createPiecePool, type PiecePool } from "./piece-pool.js";
import { kernelFlow, kernelSizes, type Plan, type PlannedTensor, searchesSurvival } from "./plan.js";
import { ProgressTally } from "./progress-tally.js";
import { ShardBoundaries } from "./shard-boundaries.js";
import { prepareShard, syncFile, wholeShards } from "./shard-files.js";
import { searchSurvival } from "./target-search.js";
import type { TensorProgress } from "./tensor-progress.js";
import { filterWork, type PieceWork, pieceWork } from "./tile-flow.js";
import {
  discardWorkspace,
  openWorkspace,
  releaseWorkspace,
  startLedger,
  type Workspace,
  type WorkspaceOptions,
} from "./workspace.js";

export interface OperateOptions extends Partial<WorkspaceOptions> {
  readonly outputPath: string;
  readonly onEvent?: OnEvent;
  /** Stops the run at once, leaving a state that resumes. */
  readonly signal?: AbortSignal;
  readonly render?: RenderDocuments;
  readonly measure?: MeasureSections;
  /** The file layer; tests break it. Faults are seen by every call only with `workers: 0`. */
  readonly files?: FileLayer;
}

export interface OperationResult {
  readonly outputPath: string;
  /** `already finished`: `resume` found the whole output and did nothing. */
  readonly state: "finished" | "already finished";
  readonly report: SurgeryReport;
}

/**
 * Carry a plan out: build the output beside its final name, record every tensor, flush, rename.
 *
 * The donor is only read. On any error, and on `signal`, what is done stays in `<output>.partial` and `resume` goes on from
 * there; the final name never holds half an output. Throws `USAGE_*`, `DONOR_*`, `IO_*`, `STOPPED`.
 */
export async function operate(plan: Plan, options: OperateOptions): Promise<OperationResult> {
  const { files = nodeFiles, onEvent = () => {}, resume = false, overwrite = false, outputPath } = options;
  const digester = await createDigester();
  const { activation } = plan.options;
  const activationRun = activation === undefined ? undefined : await openActivation(plan, activation, files);
  const opened = await openWorkspace(plan, { outputPath, resume, overwrite }, digester, files, onEvent);
  if (opened.state === "already finished") {
    return {
      outputPath: opened.output.path,
      state: "already finished",
      report: await readReport(opened.output.path, files),
    };
  }
  const operation = new Operation(plan, options, opened.workspace, digester, files, onEvent, activationRun);
  return operation.run();
}

class Operation {
  private readonly folder: string;
  private readonly clock: RunClock;
  /** Every tensor's record, from earlier runs and this one. */
  private readonly records = new Map<string, TensorRecord>();
  private readonly shardRecords = new Map<string, ShardRecord>();
  private ledger!: LedgerWriter;
  private readonly progress: ProgressTally;

  constructor(
    private readonly plan: Plan,
    private readonly options: OperateOptions,
    private readonly workspace: Workspace,
    private readonly digester: Digester,
    private readonly files: FileLayer,
    private readonly onEvent: OnEvent,
    private readonly activationRun: ActivationRun | undefined,
  ) {
    this.folder = workspace.output.partialPath;
    this.clock = new RunClock(plan.memory.workers);
    this.progress = new ProgressTally(onEvent);
  }

  async run(): Promise<OperationResult> {
    const { workspace, plan, files } = this;
    let keep = true;
    try {
      await this.recordRun();
      const module = loadKernelModule("surgery");
      this.onEvent({
        event: "started",
        donor: plan.donor.path,
        output: workspace.output.path,
        tensors: plan.donor.tensorCount,
        bytes: plan.donor.totalSize,
        workers: plan.memory.workers,
      });
      if (workspace.stopped !== undefined) await this.checkStopped(module);
      await this.beginLedger();
      // Calibration comes behind the scan: a run that was calibrated had looked.
      if (this.activationRun !== undefined && workspace.stopped?.calibration === undefined) await this.scan();
      const params = await this.findParams(module);
      await this.withPool(module, params, (pool) => this.operateShards(pool));
      this.checkSignal();
      await this.flush();
      this.checkSignal();
      this.onEvent({ event: "finishing", step: "copying side files, gathering figures, writing the report" });
      const report = await completeOperation({
        plan,
        params,
        folder: this.folder,
        outputPath: workspace.output.path,
        ledger: this.ledger,
        digester: this.digester,
        module,
        files,
        checkSignal: () => this.checkSignal(),
        recordEnd: () => this.recordRun(true),
        render: this.options.render,
        measure: this.options.measure,
      });
      this.checkSignal();
      // The lock moves along, so that nobody takes the folder for a stopped run's while it gets its name.
      await publish(workspace.output, files);
      return { outputPath: workspace.output.path, state: "finished", report };
    } catch (error) {
      // Weights that are no numbers will be there on a resume, too: nothing to keep, unless an earlier run left something.
      keep = !isPhysariumError(error, "DONOR_NON_FINITE") || workspace.stopped !== undefined;
      if (keep) await this.recordRun(true).catch(() => {});
      throw await explain(error, plan, workspace, this.records.size, files);
    } finally {
      await this.ledger?.close().catch(() => {});
      if (keep) await releaseWorkspace(workspace, files).catch(() => {});
      else await discardWorkspace(workspace, files).catch(() => {});
    }
  }

  /** Tensors of the stopped run count only if the files still hold what the ledger says. */
  private async checkStopped(module: WebAssembly.Module): Promise<void> {
    const { stopped } = this.workspace;
    const claimed = this.plan.shards.flatMap((shard) => shard.tensors.filter(({ name }) => stopped!.tensors.has(name)));
    this.progress.start("checking", claimed);
    let damaged = 0;
    const jobs = this.jobs(claimed, "check", (progress) => {
      const { tensor } = progress;
      const record = stopped!.tensors.get(tensor.name)!;
      if (progress.digest(this.digester) === record.digest) this.records.set(tensor.name, record);
      else damaged++;
      this.progress.finishTensor(tensor, 0);
    });
    const whole = await wholeShards(this.plan, this.folder, this.files);
    await this.withPool(module, this.plan.options.params, (pool) =>
      runJobs(
        filterWork(jobs, (job) => whole.has(job.shard)),
        pool,
        this.options.signal,
      ),
    );
    this.onEvent({
      event: "note",
      message: `resuming: ${this.records.size} of ${this.plan.donor.tensorCount} tensors are done and unchanged${damaged > 0 ? `, ${damaged} will be done again` : ""}`,
    });
  }

  /** v2: see that every target weight is a number. */
  private scan(): Promise<void> {
    const { plan, files, options } = this;
    this.progress.start(
      "scanning",
      plan.shards.flatMap(({ tensors }) => tensors.filter(({ role }) => role === "target")),
    );
    return refuseNonFinite(plan, files, (bytes) => this.progress.addBytes(bytes), options.signal);
  }

  /** Only what still holds goes into the ledger of this run; shards, side files and the end are recorded anew. */
  private async beginLedger(): Promise<void> {
    const { stopped } = this.workspace;
    const kept: LedgerRecord[] = [];
    if (stopped?.search !== undefined) kept.push(stopped.search);
    if (stopped?.calibration !== undefined) kept.push(stopped.calibration);
    kept.push(...this.records.values());
    for (const shard of this.plan.shards) {
      const record = stopped?.shards.get(shard.file);
      if (record !== undefined && shard.tensors.every(({ name }) => this.records.has(name))) {
        this.shardRecords.set(shard.file, record);
        kept.push(record);
      }
    }
    // What the plan warns of is said again below; what calibration warned of stays.
    kept.push(...(stopped?.warnings.filter(({ code }) => code === SHORT_CALIBRATION) ?? []));
    const at = new Date().toISOString();
    for (const { code, message } of this.plan.warnings) {
      kept.push({ kind: "warning", at, code, message });
      this.onEvent({ event: "warning", code, message });
    }
    this.ledger = await startLedger(this.workspace, kept, this.files);
  }

  /** The parameters in force: as given, or with the survival that meets the target sparsity. */
  private async findParams(module: WebAssembly.Module): Promise<FlowParams> {
    const { plan } = this;
    const { params, targetSparsity } = plan.options;
    if (targetSparsity === undefined || !searchesSurvival(plan.options)) return params;
    let found = this.workspace.stopped?.search;
    if (found === undefined) {
      found = await this.search(module, targetSparsity);
      await this.ledger.append(found);
    }
    const { survival, expected_sparsity } = found;
    this.onEvent({ event: "searched", target_sparsity: targetSparsity, survival, expected_sparsity });
    return { ...params, survival };
  }

  private async search(module: WebAssembly.Module, targetSparsity: number): Promise<SearchRecord> {
    const targets = this.plan.shards.flatMap((shard) => shard.tensors.filter(({ role }) => role === "target"));
    this.progress.start("searching", targets);
    const histogram = new Float64Array(DRIVE_BINS);
    const run = async (pool: PiecePool) => {
      await runJobs(
        this.jobs(targets, "operate", ({ tensor }) => this.progress.finishTensor(tensor, 0)),
        pool,
        this.options.signal,
      );
      for (const counted of (await pool.runOnEach({ kind: "take histogram" })) as Float64Array[]) {
        for (let bin = 0; bin < DRIVE_BINS; bin++) histogram[bin] += counted[bin];
      }
    };
    await this.withPool(module, this.plan.options.params, run, "count");
    const { survival, expectedSparsity } = searchSurvival(this.plan, histogram, targetSparsity);
    return {
      kind: "search",
      at: new Date().toISOString(),
      target_sparsity: targetSparsity,
      survival,
      expected_sparsity: expectedSparsity,
    };
  }

  private async operateShards(pool: PiecePool): Promise<void> {
    const remaining = new Map<string, number>();
    const todo: PlannedTensor[] = [];
    for (const shard of this.plan.shards) {
      const open = shard.tensors.filter(({ name }) => !this.records.has(name));
      remaining.set(shard.file, open.length);
      todo.push(...open);
    }
    this.progress.start("operating", todo);
    for (const { killed = 0, weights = 0 } of this.records.values()) this.progress.takeOver(killed, weights);

    const boundary = new ShardBoundaries(this.plan, remaining, this.records, this.shardRecords, async (record) => {
      await this.ledger.append(record);
      const { file, order, seconds, killed_cumulative } = record;
      this.onEvent({ event: "shard", file, order, seconds, killed_cumulative });
    });
    const finishTensor = async (progress: TensorProgress, more?: ActivationRecord) => {
      const record = progress.record(this.digester, more);
      this.records.set(record.name, record);
      await this.ledger.append(record);
      this.onEvent({
        event: "tensor",
        name: record.name,
        role: record.role,
        killed: record.killed ?? 0,
        sparsity: record.sparsity ?? 0,
      });
      // v2 writes whole tensors; the pieces of other flows have been counted on the way.
      if (more !== undefined) this.progress.addBytes(progress.tensor.byteLength);
      this.progress.finishTensor(progress.tensor, record.killed ?? 0);
      remaining.set(record.shard, remaining.get(record.shard)! - 1);
      await boundary.pass();
    };
    const { plan, folder, digester, files, activationRun } = this;
    async function* jobs(operation: Operation): AsyncGenerator<PieceWork> {
      for (const shard of plan.shards) {
        // Kept shards get their header again, too: a ledger may outlive what a power cut took from the file.
        boundary.headerDigests.set(shard.file, await prepareShard(shard, folder, digester, files));
        await boundary.pass();
        const open = shard.tensors.filter(({ name }) => !operation.records.has(name));
        const byKernels = activationRun === undefined ? open : open.filter(({ role }) => role === "carried");
        yield* operation.jobs(byKernels, "operate", (progress) => finishTensor(progress));
      }
    }
    await runJobs(jobs(this), pool, this.options.signal);
    if (activationRun !== undefined && todo.some(({ role }) => role === "target")) {
      const { records, onEvent } = this;
      const known = this.workspace.stopped?.calibration;
      await operateActivation(
        { plan, run: activationRun, folder, records, digester, files, onEvent, signal: this.options.signal },
        async (calibration, warnings) => {
          checkSameCalibration(known, calibration, this.workspace.output.path);
          for (const { code, message } of warnings) {
            onEvent({ event: "warning", code, message });
            if (!this.workspace.stopped?.warnings.some((earlier) => earlier.message === message)) {
              await this.ledger.append({ kind: "warning", at: new Date().toISOString(), code, message });
            }
          }
          if (known !== undefined) return;
          await this.ledger.append({ kind: "calibration", at: new Date().toISOString(), ...calibration });
        },
        finishTensor,
      );
    }
    await boundary.pass();
  }

  /** Jobs of tensors, in file order; `finish` is called once a tensor's last piece is in. */
  private jobs(
    tensors: Iterable<PlannedTensor>,
    kind: "operate" | "check",
    finish: (progress: TensorProgress) => void | Promise<void>,
  ): Generator<PieceWork> {
    const onPiece = ({ byteLength }: Piece) => this.progress.addBytes(byteLength);
    return pieceWork(this.plan, this.folder, tensors, kind, onPiece, finish);
  }

  private checkSignal(): void {
    refuseStopped(this.options.signal);
  }

  /** Everything on the disk before the ledger says so. */
  private async flush(): Promise<void> {
    this.onEvent({ event: "finishing", step: "flushing to disk" });
    for (const shard of this.plan.shards) {
      this.checkSignal();
      await syncFile(join(this.folder, shard.file), this.files);
    }
  }

  /** Note this run beside the ledger: when it begins, and how it went once it is over. */
  private async recordRun(ended = false): Promise<RunEntry[]> {
    const runs = [...this.workspace.earlierRuns, this.clock.entry(ended)];
    await writeRuns(this.folder, runs, this.files);
    return runs;
  }

  private async withPool<T>(
    module: WebAssembly.Module,
    params: FlowParams,
    work: (pool: PiecePool) => Promise<T>,
    task: "operate" | "count" = "operate",
  ): Promise<T> {
    const { allowNonFinite } = this.plan.options;
    const flow = kernelFlow(this.plan.options);
    const setup: OperatorSetup = { flow, params, sizes: kernelSizes(this.plan), task, allowNonFinite };
    const pool = await createPiecePool(this.plan.memory.workers, module, setup, this.files);
    try {
      return await work(pool);
    } finally {
      await pool.close();
    }
  }
}
