import { DAMPING, meanEnergyOf, scaleGram } from "./algebra/damped.js";
import { isolationOf } from "./algebra/isolation.js";
import { gramOf } from "./baselines/scores.js";
import type { RightFactor } from "./engine.js";
import {
  keepPerRow,
  type PruneMethod,
  type PruneResult,
  type PruneTarget,
  type PruneTask,
  type StageRecord,
  type TiledStatistics,
} from "./method.js";
import { anchor, anchorPull } from "./stages/anchor.js";
import { loadForSparsity, loadForSurvival, runFlow } from "./stages/flow.js";
import { heal } from "./stages/heal.js";
import { closeDead, selectEmergent, selectPattern, selectPerRow } from "./stages/select.js";
import { sprout } from "./stages/sprout.js";
import { TubeArena } from "./stages/tube-arena.js";
import {
  BYTES_PER_TUBE,
  openTubes,
  refreshPressure,
  rowEnergies,
  rowLosses,
  type TubeRows,
} from "./stages/tube-rows.js";

export interface ActivationOptions {
  /** ρ as a share of the mean of E[x̂²]: what keeps inputs that calibration hardly saw from being trusted. */
  readonly damping: number;
  /**
   * How far the drive moves towards the donor's outputs, and how much of the residual stream's drift the projections that add to it take back: 0
   * forgets the donor, 1 over-fits small calibration sets.
   */
  readonly alpha: number;
  /** Share of `alpha` with which the drift of the residual stream is taken back. */
  readonly drift: number;
  readonly anchorSteps: number;
  readonly iterations: number;
  readonly beta: number;
  /** Healing steps before sprouting, after each of its rounds, and at the end. */
  readonly firstHealSteps: number;
  readonly sproutHealSteps: number;
  readonly healSteps: number;
  readonly sproutRounds: number;
  /** Share of a row exchanged in the first round of sprouting. */
  readonly sproutShare: number;
  /** Without healing survivors keep the donor's bits; the mask is the same. */
  readonly heal: boolean;
  /** Columns of a tile where the Gram is restricted. */
  readonly tileWidth: number;
  /** Bytes the rows in work may take; more rows at once make larger products. */
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
  blockBytes: 128 * 2 ** 20,
};

/** Bytes a tube while sprouting: the tubes themselves, and what the search keeps to go back to (two arrays of f32, two masks). */
const BLOCK_BYTES_PER_TUBE = BYTES_PER_TUBE + 2 * 4 + 2;

/** v2, the activation-aware flow, for one matrix; DESIGN.md §2 and docs/flows.md tell the mathematics. */
export function activationFlow(options: Partial<ActivationOptions> = {}): PruneMethod {
  const settings = { ...ACTIVATION_DEFAULTS, ...options };
  return {
    name: "activation",
    title: "activation flow (v2)",
    reference: "docs/flows.md",
    needs: settings.alpha > 0 ? "both" : "gram",
    steps: "four",
    prune: (task) => pruneWithActivationFlow(task, settings),
  };
}

/** Arenas between uses: their memory is as large as the largest block so far, and making one costs a page fault a page. */
const arenas: TubeArena[] = [];

async function pruneWithActivationFlow(task: PruneTask, options: ActivationOptions): Promise<PruneResult> {
  const result = new ResultBuilder(task, options);
  const arena = arenas.pop() ?? new TubeArena();
  try {
    if (task.tiled === undefined) await operateWhole(task, options, arena, result);
    else await operateTiles(task, task.tiled, options, arena, result);
  } finally {
    arenas.push(arena);
  }
  return result.finish();
}

/** Every row against the whole Gram. */
async function operateWhole(
  task: PruneTask,
  options: ActivationOptions,
  arena: TubeArena,
  result: ResultBuilder,
): Promise<void> {
  const { rows, cols, engine, inputs, target } = task;
  const gram = scaleGram(gramOf(task), cols, options.damping * meanEnergyOf(gramOf(task), cols));
  const isolation = await isolationOf(gram.coupling, cols, engine);
  const coupling = await engine.bind(gram.coupling, cols, cols);
  const pull =
    inputs?.cross === undefined || options.alpha === 0
      ? undefined
      : await engine.bind(anchorPull(inputs.gram, inputs.cross, gram.scale, options.alpha), cols, cols);
  const keep = target.kind === "sparsity" ? keepPerRow(rows, cols, target.sparsity) : undefined;
  try {
    for (const [top, bottom] of rowBlocks(rows, cols, options.blockBytes)) {
      const donor = task.weights.subarray(top * cols, bottom * cols);
      const { tubes, exchanged } = await operateRows(
        {
          drive: donor.map((weight, at) => weight * gram.scale[at % cols]),
          rows: bottom - top,
          cols,
          coupling,
          isolation,
          target,
          keep: keep?.subarray(top, bottom),
          arena,
          ...(pull === undefined
            ? {}
            : {
                pull: async (pressure: Float32Array) => {
                  await pull.multiply(donor, bottom - top, pressure);
                  if (inputs?.drift !== undefined) {
                    addScaled(pressure, inputs.drift.subarray(top * cols), gram.scale, options.alpha * options.drift);
                  }
                },
              }),
        },
        options,
        result.stages,
      );
      result.take(tubes, top, 0, gram.scale, exchanged);
    }
  } finally {
    await coupling.release();
    await pull?.release();
  }
}

/**
 * Columns in tiles, each against its own Gram alone. What the finished tiles leave undone (their lack W − X, seen through the Gram's strip
 * between them and the tile) and what the donor's inputs pull become the pressure that moves the tile's drive before it is operated on.
 */
async function operateTiles(
  task: PruneTask,
  statistics: TiledStatistics,
  options: ActivationOptions,
  arena: TubeArena,
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
    const coupling = await engine.bind(gram.coupling, width, width);
    const apart = strip.cross?.map((value, at) => options.alpha * (value - strip.gram[at]));
    const keep = target.kind === "sparsity" ? keepPerRow(rows, width, target.sparsity) : undefined;
    try {
      for (const [top, bottom] of rowBlocks(rows, width, options.blockBytes)) {
        const height = bottom - top;
        const drive = new Float32Array(height * width);
        for (let row = 0; row < height; row++) {
          for (let col = 0; col < width; col++) {
            drive[row * width + col] = weights[(top + row) * cols + left + col] * gram.scale[col];
          }
        }
        const pull = async (pressure: Float32Array): Promise<void> => {
          pressure.fill(0);
          const whole = (matrix: Float32Array) => matrix.subarray(top * cols, bottom * cols);
          const parts = [await engine.multiply(whole(lack), strip.gram, height, cols, width)];
          if (apart !== undefined) parts.push(await engine.multiply(whole(weights), apart, height, cols, width));
          for (const part of parts) addScaled(pressure, part, gram.scale, 1);
          if (strip.drift !== undefined) {
            addScaled(pressure, strip.drift.subarray(top * width), gram.scale, options.alpha * options.drift);
          }
        };
        const { tubes, exchanged } = await operateRows(
          {
            drive,
            rows: height,
            cols: width,
            coupling,
            isolation,
            target,
            keep: keep?.subarray(top, bottom),
            arena,
            ...(left > 0 || apart !== undefined ? { pull } : {}),
          },
          options,
          result.stages,
        );
        result.take(tubes, top, left, gram.scale, exchanged);
        for (let row = 0; row < height; row++) {
          for (let col = 0; col < width; col++) {
            const at = (top + row) * cols + left + col;
            lack[at] = weights[at] - result.weights[at];
          }
        }
      }
    } finally {
      await coupling.release();
    }
  }
}

/** `[top, bottom)` of the rows worked on together. */
function rowBlocks(rows: number, cols: number, blockBytes: number): [number, number][] {
  const height = Math.max(1, Math.floor(blockBytes / (cols * BLOCK_BYTES_PER_TUBE)));
  return Array.from({ length: Math.ceil(rows / height) }, (_, at) => [at * height, Math.min((at + 1) * height, rows)]);
}

/** pressure += factor · values / scale, column by column. */
function addScaled(pressure: Float32Array, values: Float32Array, scale: Float64Array, factor: number): void {
  for (let at = 0; at < pressure.length; at++) pressure[at] += (factor * values[at]) / scale[at % scale.length];
}

interface Rows {
  /** The donor's weights in the coordinates of the flow, w∘a; left as they are. */
  readonly drive: Float32Array;
  readonly rows: number;
  readonly cols: number;
  readonly coupling: RightFactor;
  readonly isolation: Float64Array;
  readonly target: PruneTarget;
  /** Living tubes of each row, where the target is a sparsity. */
  readonly keep: Int32Array | undefined;
  readonly arena: TubeArena;
  /** Fills in the pressure that moves the drive before anything dies. */
  readonly pull?: (pressure: Float32Array) => Promise<void>;
}

/** All stages on one block of rows. */
async function operateRows(
  work: Rows,
  options: ActivationOptions,
  ledger: StageLedger,
): Promise<{ tubes: TubeRows; exchanged: number }> {
  const { rows, cols, coupling, isolation, target, keep, arena } = work;
  ledger.start();
  const tubes = openTubes(work.drive, rows, cols, coupling, arena);
  if (work.pull !== undefined) {
    await work.pull(tubes.pressure);
    await anchor(tubes, options.anchorSteps);
    ledger.spent("anchor");
  }
  ledger.addEnergy(await rowEnergies(tubes));

  const load =
    target.kind === "emergent"
      ? loadForSurvival(tubes, target.survival, options.beta)
      : loadForSparsity(
          tubes,
          target.kind === "pattern" ? 1 - target.pattern.keep / target.pattern.of : target.sparsity,
          options.beta,
        );
  await runFlow(tubes, load, options);
  if (target.kind === "emergent") selectEmergent(tubes, load, options.beta);
  else if (target.kind === "pattern") selectPattern(tubes, target.pattern);
  else selectPerRow(tubes, keep!);
  await closeDead(tubes);
  ledger.add("flow", rowLosses(tubes));

  await heal(tubes, options.firstHealSteps);
  ledger.add("first heal", rowLosses(tubes));
  let exchanged = 0;
  if (options.sproutRounds > 0) {
    ({ exchanged } = await sprout(tubes, isolation, {
      rounds: options.sproutRounds,
      share: options.sproutShare,
      healSteps: options.sproutHealSteps,
      ...(target.kind === "pattern" ? { pattern: target.pattern } : {}),
    }));
    ledger.add("sprout", rowLosses(tubes));
  }
  await heal(tubes, options.healSteps);
  ledger.add("heal", rowLosses(tubes));
  if (!options.heal) {
    // What will be written, and what that costs: the mask with the donor's weights behind it.
    for (let at = 0; at < tubes.flow.length; at++) tubes.flow[at] = tubes.alive[at] === 1 ? work.drive[at] : 0;
    await refreshPressure(tubes);
    ledger.add("donor's bits", rowLosses(tubes));
  }
  return { tubes, exchanged };
}

/** Puts blocks together into the matrix they came from. */
class ResultBuilder {
  readonly stages = new StageLedger();
  readonly weights: Float32Array;
  private readonly alive: Uint8Array;
  private exchanged = 0;

  constructor(
    private readonly task: PruneTask,
    private readonly options: ActivationOptions,
  ) {
    this.weights = new Float32Array(task.rows * task.cols);
    this.alive = new Uint8Array(task.rows * task.cols);
  }

  /** Take a block whose first row and column are `top` and `left`. */
  take({ rows, cols, flow, alive }: TubeRows, top: number, left: number, scale: Float64Array, exchanged: number): void {
    const { task, options, weights } = this;
    this.exchanged += exchanged;
    for (let row = 0; row < rows; row++) {
      for (let col = 0; col < cols; col++) {
        const at = row * cols + col;
        if (alive[at] === 0) continue;
        const position = (top + row) * task.cols + left + col;
        this.alive[position] = 1;
        weights[position] = options.heal ? flow[at] / scale[col] : task.weights[position];
      }
    }
  }

  finish(): PruneResult {
    const living = this.alive.reduce((sum, bit) => sum + bit, 0);
    return {
      weights: this.weights,
      alive: this.alive,
      stages: this.stages.records(),
      exchangedShare: living === 0 ? 0 : this.exchanged / living,
    };
  }
}

/** Sums losses and seconds of each stage over the blocks of a matrix. */
class StageLedger {
  private readonly losses = new Map<string, number>();
  private readonly seconds = new Map<string, number>();
  private energy = 0;
  private since = 0;

  start(): void {
    this.since = performance.now();
  }

  spent(stage: string): void {
    const now = performance.now();
    this.seconds.set(stage, (this.seconds.get(stage) ?? 0) + (now - this.since) / 1000);
    this.since = now;
  }

  addEnergy(energies: Float64Array): void {
    for (const energy of energies) this.energy += energy;
  }

  add(stage: string, losses: Float64Array): void {
    let sum = this.losses.get(stage) ?? 0;
    for (const loss of losses) sum += loss;
    this.losses.set(stage, sum);
    this.spent(stage);
  }

  records(): StageRecord[] {
    return [...this.seconds].map(([stage, seconds]) => {
      const loss = this.losses.get(stage);
      return loss === undefined
        ? { stage, seconds }
        : { stage, relativeError: this.energy > 0 ? loss / this.energy : 0, seconds };
    });
  }
}
