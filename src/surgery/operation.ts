import { join } from "node:path";
import { type FileLayer, nodeFiles } from "../checkpoint/file-layer.js";
import { isPhysariumError, refuseStopped } from "../errors.js";
import type { FlowParams } from "../flow/params.js";
import { publish } from "../output/operated-folder.js";
import { createDigester, type Digester } from "../record/digest.js";
import type { ActivationRecord, LedgerRecord, LedgerWriter, ShardRecord, TensorRecord } from "../record/ledger.js";
import { readReport } from "../record/open-record.js";
import { RunClock, type RunEntry, writeRuns } from "../record/run-history.js";
import type { SurgeryReport } from "../record/surgery-report.js";
import { completeOperation, type MeasureSections, type RenderCard, type RenderDocuments } from "./completion.js";
import type { OnEvent } from "./events.js";
import { explain } from "./explain.js";
import type { FlowContext, FlowRun } from "./flow-run.js";
import { openFlow } from "./open-flow.js";
import type { Plan, PlannedTensor } from "./plan.js";
import { ProgressTally } from "./progress-tally.js";
import { ShardBoundaries } from "./shard-boundaries.js";
import { prepareShard, wholeShards } from "./shard-files.js";
import { ShardFlusher } from "./shard-flusher.js";
import type { TensorProgress } from "./tensor-progress.js";
import {
  discardWorkspace,
  openWorkspace,
  releaseWorkspace,
  startLedger,
  type Workspace,
  type WorkspaceOptions,
} from "./workspace.js";

/** Where the output goes, whether a stopped run goes on, and what is made beside the weights. */
export interface OperateOptions extends Partial<WorkspaceOptions> {
  readonly outputPath: string;
  readonly onEvent?: OnEvent;
  /** Stops the run at once, leaving a state that resumes. */
  readonly signal?: AbortSignal;
  readonly render?: RenderDocuments;
  readonly measure?: MeasureSections;
  /** The output's README.md; absent, it has the donor's. */
  readonly card?: RenderCard;
  /** The file layer; tests break it. Faults are seen by every call only with `workers: 0`. */
  readonly files?: FileLayer;
}

/** What an operation ended with; `report` has every number. */
export interface OperationResult {
  readonly outputPath: string;
  /** `already finished`: `resume` found the whole output and did nothing. */
  readonly state: "finished" | "already finished";
  readonly report: SurgeryReport;
}

/**
 * Carry a plan out: build the output beside its final name, record every tensor, flush, rename.
 *
 * The donor is only read. On any error, and on `signal`, what is done stays in `<output>.partial` and `resume` goes on
 * from there; the final name never holds half an output. Throws `USAGE_*`, `DONOR_*`, `IO_*`, `STOPPED`.
 */
export async function operate(plan: Plan, options: OperateOptions): Promise<OperationResult> {
  const { files = nodeFiles, onEvent = () => {}, resume = false, overwrite = false, outputPath } = options;
  const digester = await createDigester();
  const flow = await openFlow(plan, files, options.signal);
  try {
    const opened = await openWorkspace(plan, { outputPath, resume, overwrite }, digester, files, onEvent);
    if (opened.state === "already finished") {
      const { path } = opened.output;
      return { outputPath: path, state: "already finished", report: await readReport(path, files) };
    }
    return await new Operation(plan, options, opened.workspace, digester, files, onEvent, flow).run();
  } finally {
    await flow.close();
  }
}

/** One run of an operation, whatever flow it is of: shards, records, flushing, the name. */
class Operation {
  private readonly folder: string;
  private readonly clock: RunClock;
  /** Every tensor's record, from earlier runs and this one. */
  private readonly records = new Map<string, TensorRecord>();
  private readonly shardRecords = new Map<string, ShardRecord>();
  private ledger!: LedgerWriter;
  private readonly progress: ProgressTally;
  private readonly flusher: ShardFlusher;
  /** Told when a tensor is recorded; of the phase that operates. */
  private onRecord: (record: TensorRecord) => Promise<void> = async () => {};

  constructor(
    private readonly plan: Plan,
    private readonly options: OperateOptions,
    private readonly workspace: Workspace,
    private readonly digester: Digester,
    private readonly files: FileLayer,
    private readonly onEvent: OnEvent,
    private readonly flow: FlowRun,
  ) {
    this.folder = workspace.output.partialPath;
    this.clock = new RunClock(plan.memory.workers);
    this.progress = new ProgressTally(onEvent);
    this.flusher = new ShardFlusher(files);
  }

  async run(): Promise<OperationResult> {
    const { workspace, plan, files, flow } = this;
    let keep = true;
    try {
      await this.recordRun();
      this.onEvent({
        event: "started",
        donor: plan.donor.path,
        output: workspace.output.path,
        tensors: plan.donor.tensorCount,
        bytes: plan.donor.totalSize,
        workers: plan.memory.workers,
      });
      if (workspace.stopped !== undefined) await this.checkStopped();
      await this.beginLedger();
      const params = await flow.prepare(this.context());
      await this.operateShards(params);
      this.checkSignal();
      this.onEvent({ event: "finishing", step: "flushing to disk, gathering figures, writing the report" });
      const report = await completeOperation({
        plan,
        params,
        folder: this.folder,
        outputPath: workspace.output.path,
        ledger: this.ledger,
        digester: this.digester,
        files,
        checkSignal: () => this.checkSignal(),
        flush: () => this.flush(),
        recordEnd: () => this.recordRun(true),
        render: this.options.render,
        measure: this.options.measure,
        card: this.options.card,
      });
      this.checkSignal();
      // The lock moves along, so that nobody takes the folder for a stopped run's while it gets its name.
      await publish(workspace.output, files);
      return { outputPath: workspace.output.path, state: "finished", report };
    } catch (error) {
      // Weights that are no numbers will be there on a resume, too: nothing to keep, unless an earlier run left
      // something.
      keep = !isPhysariumError(error, "DONOR_NON_FINITE") || workspace.stopped !== undefined;
      if (keep) await this.recordRun(true).catch(() => {});
      throw await explain(error, plan, workspace, this.records.size, files);
    } finally {
      await this.flusher.settle();
      await this.ledger?.close().catch(() => {});
      if (keep) await releaseWorkspace(workspace).catch(() => {});
      else await discardWorkspace(workspace, files).catch(() => {});
    }
  }

  private context(): FlowContext {
    const { folder, records, digester, progress, onEvent } = this;
    const { output, stopped } = this.workspace;
    return {
      folder,
      outputPath: output.path,
      stopped,
      records,
      digester,
      progress,
      onEvent,
      signal: this.options.signal,
      append: (record) => this.ledger.append(record),
      finish: (progress, more) => this.finishTensor(progress, more),
      renew: async (progress, more) => {
        const record = progress.record(digester, more);
        records.set(record.name, record);
        await this.ledger.append(record);
      },
    };
  }

  /** Tensors of the stopped run count only if the files still hold what the ledger says. */
  private async checkStopped(): Promise<void> {
    const { plan, workspace, progress, files } = this;
    const recorded = workspace.stopped!.tensors;
    const whole = await wholeShards(plan, this.folder, files);
    const claimed = plan.shards
      .filter(({ file }) => whole.has(file))
      .flatMap((shard) => shard.tensors.filter(({ name }) => recorded.has(name)));
    progress.start("checking", claimed);
    let damaged = 0;
    await this.flow.check(claimed, this.context(), (checked) => {
      const { name } = checked.tensor;
      const record = recorded.get(name)!;
      if (checked.digest(this.digester) === record.digest) this.records.set(name, record);
      else damaged++;
      progress.finishTensor(checked.tensor, 0);
    });
    this.onEvent({
      event: "note",
      message:
        `resuming: ${this.records.size} of ${plan.donor.tensorCount} tensors are done and ` +
        `unchanged${damaged > 0 ? `, ${damaged} will be done again` : ""}`,
    });
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
    kept.push(...(this.flow.keep?.() ?? []));
    // What the plan warns of is said again below; what the flow warned of stays.
    kept.push(...(stopped?.warnings.filter(({ code }) => this.flow.warns.includes(code)) ?? []));
    const at = new Date().toISOString();
    for (const { code, message } of this.plan.warnings) {
      kept.push({ kind: "warning", at, code, message });
      this.onEvent({ event: "warning", code, message });
    }
    this.ledger = await startLedger(this.workspace, kept, this.files);
  }

  private async operateShards(params: FlowParams): Promise<void> {
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
      this.flusher.begin(join(this.folder, file));
      this.onEvent({ event: "shard", file, order, seconds, killed_cumulative });
    });
    this.onRecord = async ({ shard }) => {
      remaining.set(shard, remaining.get(shard)! - 1);
      await boundary.pass();
    };
    await this.flow.operate(this.openTensors(boundary), params, this.context());
    await boundary.pass();
  }

  /**
   * What is still to be done, in file order; a shard stands at full length, with its header, when its first tensor
   * comes.
   */
  private async *openTensors(boundary: ShardBoundaries): AsyncGenerator<PlannedTensor> {
    const { plan, folder, digester, files } = this;
    for (const shard of plan.shards) {
      // Kept shards get their header again, too: a ledger may outlive what a power cut took from the file.
      boundary.headerDigests.set(shard.file, await prepareShard(plan, shard, folder, digester, files));
      await boundary.pass();
      yield* shard.tensors.filter(({ name }) => !this.records.has(name));
    }
  }

  /** Record a tensor that is written. */
  private async finishTensor(progress: TensorProgress, more?: ActivationRecord): Promise<void> {
    const record = progress.record(this.digester, more);
    const { name, role, killed = 0, sparsity = 0 } = record;
    this.records.set(name, record);
    await this.ledger.append(record);
    this.onEvent({ event: "tensor", name, role, killed, sparsity });
    this.progress.finishTensor(progress.tensor, killed);
    await this.onRecord(record);
  }

  private checkSignal(): void {
    refuseStopped(this.options.signal);
  }

  private flush(): Promise<void> {
    return this.flusher.finish(
      this.plan.shards.map(({ file }) => join(this.folder, file)),
      () => this.checkSignal(),
    );
  }

  /** Note this run beside the ledger: when it begins, and how it went once it is over. */
  private async recordRun(ended = false): Promise<RunEntry[]> {
    const runs = [...this.workspace.earlierRuns, this.clock.entry(ended)];
    await writeRuns(this.folder, runs, this.files);
    return runs;
  }
}
