import { type FileLayer, nodeFiles } from "../checkpoint/file-layer.js";
import { DRIVE_BINS } from "../flow/drive-histogram.js";
import type { FlowParams } from "../flow/params.js";
import type { SearchRecord } from "../record/ledger.js";
import { runJobs } from "../threads/run-jobs.js";
import { loadKernelModule } from "../wasm.js";
import type { FlowContext, FlowRun } from "./flow-run.js";
import { directShards } from "./passages.js";
import { createPiecePool, type PiecePool } from "./piece-pool.js";
import { pieceWork } from "./piece-work.js";
import { kernelFlow, kernelSizes, type PlannedTensor, type TilePlan } from "./plan.js";
import type { OperatorSetup } from "./protocol.js";
import { searchSurvival } from "./target-search.js";
import type { TensorProgress } from "./tensor-progress.js";

/**
 * v1 and balanced: every tile by itself, in pieces, through the kernels of a pool of workers that lives as long as a
 * phase.
 */
export class TileFlow implements FlowRun {
  readonly warns: readonly string[] = [];
  private readonly module = loadKernelModule("surgery");

  constructor(
    protected readonly plan: TilePlan,
    protected readonly files: FileLayer = nodeFiles,
  ) {}

  async check(
    tensors: Iterable<PlannedTensor>,
    context: FlowContext,
    checked: (progress: TensorProgress) => void,
  ): Promise<void> {
    const jobs = pieceWork(this.plan, tensors, "check", context, checked);
    await this.withPool(this.plan.options.params, await this.direct(context), (pool) =>
      runJobs(jobs, pool, context.signal),
    );
  }

  /** The parameters as given, or with the survival that meets the target sparsity. */
  async prepare(context: FlowContext): Promise<FlowParams> {
    const { params, targetSparsity } = this.plan.options;
    if (targetSparsity === undefined) return params;
    let found = context.stopped?.search;
    if (found === undefined) {
      found = await this.search(targetSparsity, context);
      await context.append(found);
    }
    const { survival, expected_sparsity } = found;
    context.onEvent({ event: "searched", target_sparsity: targetSparsity, survival, expected_sparsity });
    return { ...params, survival };
  }

  async operate(tensors: AsyncIterable<PlannedTensor>, params: FlowParams, context: FlowContext): Promise<void> {
    const jobs = pieceWork(this.plan, tensors, "operate", context, (progress) => context.finish(progress));
    await this.withPool(params, await this.direct(context), (pool) => runJobs(jobs, pool, context.signal));
  }

  async close(): Promise<void> {}

  private async search(targetSparsity: number, context: FlowContext): Promise<SearchRecord> {
    const { progress, signal } = context;
    const targets = this.plan.shards.flatMap((shard) => shard.tensors.filter(({ role }) => role === "target"));
    progress.start("searching", targets);
    const histogram = new Float64Array(DRIVE_BINS);
    const jobs = pieceWork(this.plan, targets, "operate", context, ({ tensor }) => progress.finishTensor(tensor, 0));
    const count = async (pool: PiecePool) => {
      await runJobs(jobs, pool, signal);
      for (const counted of (await pool.runOnEach({ kind: "take histogram" })) as Float64Array[]) {
        for (let bin = 0; bin < DRIVE_BINS; bin++) histogram[bin] += counted[bin];
      }
    };
    await this.withPool(this.plan.options.params, await this.direct(context), count, "count");
    const { survival, expectedSparsity } = searchSurvival(this.plan, histogram, targetSparsity);
    return {
      kind: "search",
      at: new Date().toISOString(),
      target_sparsity: targetSparsity,
      survival,
      expected_sparsity: expectedSparsity,
    };
  }

  /** Files to read or write past the page cache. */
  protected direct({ folder }: FlowContext): Promise<string[]> {
    return directShards(this.plan, folder, this.files);
  }

  protected async withPool(
    params: FlowParams,
    direct: readonly string[],
    work: (pool: PiecePool) => Promise<void>,
    task: OperatorSetup["task"] = "operate",
  ): Promise<void> {
    const { allowNonFinite } = this.plan.options;
    const flow = kernelFlow(this.plan.options);
    const setup: OperatorSetup = { flow, params, sizes: kernelSizes(this.plan), task, allowNonFinite, direct };
    const pool = await createPiecePool(this.plan.memory.workers, this.module, setup, this.files);
    try {
      await work(pool);
    } finally {
      await pool.close();
    }
  }
}
