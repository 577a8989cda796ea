import type { RunnableJob } from "../threads/run-jobs.js";
import { DAMPING, meanEnergyOf, type ScaledGram, scaleGram } from "./algebra/damped.js";
import { isolationOf } from "./algebra/isolation.js";
import { gramOf } from "./baselines/scores.js";
import {
  keepPerRow,
  type PruneMethod,
  type PruneResult,
  type PruneTask,
  type StageRecord,
  type TiledStatistics,
} from "./method.js";
import type { BlockResult, RowBlock, StageOptions } from "./rows/row-block.js";
import { type BlockRunner, inlineBlocks } from "./rows/runner.js";
import { anchorPull } from "./stages/anchor.js";
import { BYTES_PER_TUBE } from "./stages/tube-rows.js";

/**
 * Settings of the activation flow (v2) for one matrix; docs/flows.md has the equations and how the defaults were
 * chosen.
 */
export interface ActivationOptions extends StageOptions {
  /** ρ as a share of the mean of E[x̂²]: what keeps inputs that calibration hardly saw from being trusted. */
  readonly damping: number;
  /**
   * How far the drive moves towards the donor's outputs, and how much of the residual stream's drift the projections
   * that add to it take back: 0 forgets the donor, 1 over-fits small calibration sets.
   */
  readonly alpha: number;
  /** Share of `alpha` with which the drift of the residual stream is taken back. */
  readonly drift: number;
  /** Columns of a tile where the Gram is restricted. */
  readonly tileWidth: number;
  /** Bytes the rows in work may take on one thread; more rows at once make larger products. */
  readonly blockBytes: number;
}

export const ACTIVATION_DEFAULTS: ActivationOptions = {
  damping: DAMPING,
  alpha: 0.75,
  drift: 1,
  anchorSteps: 30,
  iterations: 30,
  beta: 2,
  firstHealSteps: 10,
  sproutHealSteps: 6,
  healSteps: 20,
  sproutRounds: 10,
  sproutShare: 0.06,
  heal: true,
  tileWidth: 256,
  blockBytes: 64 * 2 ** 20,
};

/**
 * Bytes a tube of a block: the tubes themselves, what sprouting keeps to go back to (two arrays of f32, two masks), and
 * the block as it came and goes (three of f32, a mask).
 */
const BLOCK_BYTES_PER_TUBE = BYTES_PER_TUBE + (2 * 4 + 2) + (3 * 4 + 1);
/** Products of fewer rows than this spend more on fetching the coupling than on multiplying. */
const LEAST_ROWS = 16;

/** v2, the activation-aware flow, for one matrix; DESIGN.md §2 and docs/flows.md tell the mathematics. */
export function activationFlow(options: Partial<ActivationOptions> = {}): PruneMethod {
  const settings = { ...ACTIVATION_DEFAULTS, ...options };
  return {
    name: "activation",
    title: "activation flow (v2)",
    reference: "docs/flows.md",
    needs: settings.alpha > 0 ? "both" : "gram",
    steps: "four",
    worksInBlocks: true,
    withOneStream: () => activationFlow({ ...options, alpha: 0 }),
    prune: async (task) => {
      const result = new ResultBuilder(task, settings);
      const runner = task.blocks ?? inlineBlocks(task.engine);
      if (task.tiled === undefined) await operateWhole(task, settings, runner, result);
      else await operateTiles(task, task.tiled, settings, runner, result);
      return result.finish();
    },
  };
}

/** v3: the activation flow, then each layer matched as a whole; docs/flows.md. */
export function matchedFlow(options: Partial<ActivationOptions> = {}): PruneMethod {
  const { withOneStream, ...flow } = activationFlow(options);
  return { ...flow, name: "matched", title: "matched layers (v3)", needs: "both", matches: true };
}

/** Every row against the whole Gram. */
async function operateWhole(
  task: PruneTask,
  options: ActivationOptions,
  runner: BlockRunner,
  result: ResultBuilder,
): Promise<void> {
  const { rows, cols, engine, inputs, weights } = task;
  const { gram, isolation } = await couplingOf(task, options.damping);
  const pull =
    inputs?.cross === undefined || options.alpha === 0
      ? undefined
      : await engine.bind(anchorPull(inputs.gram, inputs.cross, gram.scale, options.alpha), cols, cols);
  const pressureOf = async (top: number, bottom: number): Promise<Float32Array> => {
    const pressure = new Float32Array((bottom - top) * cols);
    await pull!.multiply(weights.subarray(top * cols, bottom * cols), bottom - top, pressure);
    if (inputs?.drift !== undefined) {
      addScaled(pressure, inputs.drift.subarray(top * cols), gram.scale, options.alpha * options.drift);
    }
    return pressure;
  };
  try {
    await operateColumns(task, options, runner, result, {
      left: 0,
      blocks: rowBlocks(rows, cols, options.blockBytes, runner.width),
      gram,
      isolation,
      ...(pull === undefined ? {} : { pressureOf }),
    });
  } finally {
    await pull?.release();
  }
}

/** C and the isolation of a Gram: projections that read the same input share them. */
async function couplingOf(task: PruneTask, damping: number): Promise<{ gram: ScaledGram; isolation: Float64Array }> {
  const gram = gramOf(task);
  const rho = damping * meanEnergyOf(gram, task.cols);
  const known = couplings.get(gram);
  if (known?.gram.damping === rho) return known;
  const scaled = scaleGram(gram, task.cols, rho);
  const coupling = { gram: scaled, isolation: await isolationOf(scaled.coupling, task.cols, task.engine) };
  couplings.set(gram, coupling);
  return coupling;
}

/** As long as a Gram lives, what was made of it does. */
const couplings = new WeakMap<Float32Array, { gram: ScaledGram; isolation: Float64Array }>();

/**
 * Columns in tiles, each against its own Gram alone. What the finished tiles leave undone (their lack W − X, seen
 * through the Gram's strip between them and the tile) and what the donor's inputs pull become the pressure that moves
 * the tile's drive before it is operated on.
 */
async function operateTiles(
  task: PruneTask,
  statistics: TiledStatistics,
  options: ActivationOptions,
  runner: BlockRunner,
  result: ResultBuilder,
): Promise<void> {
  const { rows, cols, engine, target, weights } = task;
  const damping = options.damping * statistics.meanEnergy || 1;
  const lack = new Float32Array(rows * cols);
  // No group of a pattern is cut in two.
  const group = target.kind === "pattern" ? target.pattern.of : 1;
  const tileWidth = Math.ceil(options.tileWidth / group) * group;
  for (let left = 0; left < cols; left += tileWidth) {
    const right = Math.min(left + tileWidth, cols);
    const width = right - left;
    const strip = await statistics.strip(left, right);
    const gram = scaleGram(strip.gram.subarray(left * width, right * width), width, damping);
    const isolation = await isolationOf(gram.coupling, width, engine);
    const apart = strip.cross?.map((value, at) => options.alpha * (value - strip.gram[at]));
    const pressureOf = async (top: number, bottom: number): Promise<Float32Array> => {
      const height = bottom - top;
      const pressure = new Float32Array(height * width);
      const whole = (matrix: Float32Array) => matrix.subarray(top * cols, bottom * cols);
      const parts = [await engine.multiply(whole(lack), strip.gram, height, cols, width)];
      if (apart !== undefined) parts.push(await engine.multiply(whole(weights), apart, height, cols, width));
      for (const part of parts) addScaled(pressure, part, gram.scale, 1);
      if (strip.drift !== undefined) {
        addScaled(pressure, strip.drift.subarray(top * width), gram.scale, options.alpha * options.drift);
      }
      return pressure;
    };
    await operateColumns(task, options, runner, result, {
      left,
      blocks: rowBlocks(rows, width, options.blockBytes, runner.width),
      gram,
      isolation,
      ...(left > 0 || apart !== undefined ? { pressureOf } : {}),
    });
    for (let row = 0; row < rows; row++) {
      for (let at = row * cols + left, end = row * cols + right; at < end; at++) {
        lack[at] = weights[at] - result.weights[at];
      }
    }
  }
}

/** Columns of a matrix from `left` on that are coupled by `gram`, and how their rows are worked on. */
interface Columns {
  readonly left: number;
  /** `[top, bottom)` of the rows worked on together. */
  readonly blocks: readonly (readonly [number, number])[];
  readonly gram: ScaledGram;
  readonly isolation: Float64Array;
  /** What moves the drive of these rows before anything dies. */
  readonly pressureOf?: (top: number, bottom: number) => Promise<Float32Array>;
}

async function operateColumns(
  { weights, rows, cols, target, signal }: PruneTask,
  options: ActivationOptions,
  runner: BlockRunner,
  result: ResultBuilder,
  { left, blocks, gram, isolation, pressureOf }: Columns,
): Promise<void> {
  const started = performance.now();
  const width = gram.n;
  const keep = target.kind === "sparsity" ? keepPerRow(rows, width, target.sparsity) : undefined;
  const operated: BlockFigures[] = [];
  async function* jobs(): AsyncGenerator<RunnableJob<RowBlock, BlockResult>> {
    for (const [at, [top, bottom]] of blocks.entries()) {
      const drive = new Float32Array((bottom - top) * width);
      for (let row = 0; row < bottom - top; row++) {
        const from = (top + row) * cols + left;
        for (let col = 0; col < width; col++) drive[row * width + col] = weights[from + col] * gram.scale[col];
      }
      const job: RowBlock = {
        rows: bottom - top,
        drive,
        ...(pressureOf === undefined ? {} : { pressure: await pressureOf(top, bottom) }),
        ...(keep === undefined ? {} : { keep: keep.slice(top, bottom) }),
      };
      const done = (block: BlockResult): void => {
        result.take(block, [top, bottom], left, gram.scale);
        const { flow, alive, ...figures } = block;
        operated[at] = figures;
      };
      yield { job, done };
    }
  }
  await runner.operate({ cols: width, coupling: gram.coupling, isolation, target, options }, jobs(), signal);
  result.count(operated, (performance.now() - started) / 1000);
}

/**
 * `[top, bottom)` of blocks of equal size: none above `blockBytes`, as many for each of `width` threads, unless that
 * makes them tiny.
 */
export function rowBlocks(rows: number, cols: number, blockBytes: number, width = 1): [number, number][] {
  const fewest = Math.ceil(rows / Math.max(1, Math.floor(blockBytes / (cols * BLOCK_BYTES_PER_TUBE))));
  const even = Math.ceil(fewest / width) * width;
  const count = Math.max(fewest, Math.min(even, Math.ceil(rows / LEAST_ROWS)));
  const start = (block: number): number => Math.floor((block * rows) / count);
  return Array.from({ length: count }, (_, at) => [start(at), start(at + 1)]);
}

/** pressure += factor · values / scale, column by column. */
function addScaled(pressure: Float32Array, values: Float32Array, scale: Float64Array, factor: number): void {
  const width = scale.length;
  for (let from = 0; from < pressure.length; from += width) {
    for (let col = 0; col < width; col++) pressure[from + col] += (factor * values[from + col]) / scale[col];
  }
}

/** Puts blocks together into the matrix they came from, and their losses and seconds into those of its stages. */
class ResultBuilder {
  readonly weights: Float32Array;
  private readonly alive: Uint8Array;
  private readonly losses = new Map<string, number>();
  private readonly seconds = new Map<string, number>();
  private energy = 0;
  private exchanged = 0;
  private readonly products = { flops: 0, seconds: 0 };

  constructor(
    private readonly task: PruneTask,
    private readonly options: ActivationOptions,
  ) {
    this.weights = new Float32Array(task.rows * task.cols);
    this.alive = new Uint8Array(task.rows * task.cols);
  }

  /** Take a block of rows `[top, bottom)` whose first column is `left`. */
  take(block: BlockResult, [top, bottom]: [number, number], left: number, scale: Float64Array): void {
    const { task, options, weights, alive } = this;
    const width = scale.length;
    for (let row = top; row < bottom; row++) {
      const from = (row - top) * width;
      const to = row * task.cols + left;
      for (let col = 0; col < width; col++) {
        if (block.alive[from + col] === 0) continue;
        alive[to + col] = 1;
        weights[to + col] = options.heal ? block.flow[from + col] / scale[col] : task.weights[to + col];
      }
    }
  }

  /**
   * Add up blocks that took `elapsed` seconds together: side by side each stage has its share of them. Losses are
   * summed row by row in their order, so that the sum does not tell how they were shared out.
   */
  count(blocks: readonly BlockFigures[], elapsed: number): void {
    let busy = 0;
    for (const { stages } of blocks) for (const { seconds } of stages) busy += seconds;
    for (const { energies, exchanged, stages, products } of blocks) {
      this.products.flops += products.flops;
      this.products.seconds += products.seconds;
      this.energy = addInOrder(this.energy, energies);
      this.exchanged += exchanged;
      for (const { stage, losses, seconds } of stages) {
        this.seconds.set(stage, (this.seconds.get(stage) ?? 0) + (seconds / busy) * elapsed);
        if (losses !== undefined) this.losses.set(stage, addInOrder(this.losses.get(stage) ?? 0, losses));
      }
    }
  }

  finish(): PruneResult {
    const living = this.alive.reduce((sum, bit) => sum + bit, 0);
    return {
      weights: this.weights,
      alive: this.alive,
      stages: this.stages(),
      exchangedShare: living === 0 ? 0 : this.exchanged / living,
      products: this.products,
    };
  }

  private stages(): StageRecord[] {
    return [...this.seconds].map(([stage, seconds]) => {
      const loss = this.losses.get(stage);
      return loss === undefined
        ? { stage, seconds }
        : { stage, relativeError: this.energy > 0 ? loss / this.energy : 0, seconds };
    });
  }
}

/** What is left of a block once its weights are in their matrix. */
type BlockFigures = Omit<BlockResult, "flow" | "alive">;

function addInOrder(sum: number, values: Float64Array): number {
  let total = sum;
  for (const value of values) total += value;
  return total;
}
