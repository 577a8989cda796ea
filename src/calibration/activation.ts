import { cholesky, inverseDiagonal } from "./algebra/cholesky.js";
import { type ScaledGram, scaleGram } from "./algebra/damped.js";
import { gramOf } from "./baselines/scores.js";
import type { RightFactor } from "./engine.js";
import { keepPerRow, type PruneMethod, type PruneResult, type PruneTask, type StageRecord } from "./method.js";
import { anchor, anchorPull } from "./stages/anchor.js";
import { loadForSparsity, loadForSurvival, runFlow } from "./stages/flow.js";
import { heal } from "./stages/heal.js";
import { closeDead, selectEmergent, selectPattern, selectPerRow } from "./stages/select.js";
import { sprout } from "./stages/sprout.js";
import { TubeArena } from "./stages/tube-arena.js";
import { BYTES_PER_TUBE, openTubes, rowEnergies, rowLosses, type TubeRows } from "./stages/tube-rows.js";

export interface ActivationOptions {
  /**
   * How far the drive moves towards the donor's outputs, and how much of the residual stream's drift the projections that add to it take back: 0
   * forgets the donor, 1 over-fits small calibration sets.
   */
  readonly alpha: number;
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
  /** Bytes the rows in work may take; more rows at once make larger products. */
  readonly blockBytes: number;
}

export const ACTIVATION_DEFAULTS: ActivationOptions = {
  alpha: 0.75,
  anchorSteps: 30,
  iterations: 30,
  beta: 2,
  firstHealSteps: 10,
  sproutHealSteps: 6,
  healSteps: 20,
  sproutRounds: 10,
  sproutShare: 0.06,
  heal: true,
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
  const { rows, cols, engine } = task;
  const gram = scaleGram(gramOf(task), cols);
  const isolation = isolationOf(gram);
  const coupling = await engine.bind(gram.coupling, cols, cols);
  const cross = task.inputs?.cross;
  const pull =
    cross === undefined || options.alpha === 0
      ? undefined
      : await engine.bind(anchorPull(gramOf(task), cross, gram.scale, options.alpha), cols, cols);
  const ledger = new StageLedger();
  const arena = arenas.pop() ?? new TubeArena();
  const weights = new Float32Array(rows * cols);
  const alive = new Uint8Array(rows * cols);
  let exchanged = 0;
  try {
    const height = Math.max(1, Math.floor(options.blockBytes / (cols * BLOCK_BYTES_PER_TUBE)));
    for (let top = 0; top < rows; top += height) {
      const bottom = Math.min(top + height, rows);
      const block: Block = { task, top, bottom, gram, coupling, pull, isolation, arena };
      const { tubes, exchanged: grown } = await operateBlock(block, options, ledger);
      exchanged += grown;
      alive.set(tubes.alive, top * cols);
      for (let at = 0; at < tubes.flow.length; at++) {
        const position = top * cols + at;
        if (tubes.alive[at] === 0) continue;
        weights[position] = options.heal ? tubes.flow[at] / gram.scale[at % cols] : task.weights[position];
      }
    }
  } finally {
    arenas.push(arena);
    await coupling.release();
    await pull?.release();
  }
  const living = alive.reduce((sum, bit) => sum + bit, 0);
  return { weights, alive, stages: ledger.records(), exchangedShare: living === 0 ? 0 : exchanged / living };
}

interface Block {
  readonly task: PruneTask;
  readonly top: number;
  readonly bottom: number;
  readonly gram: ScaledGram;
  readonly coupling: RightFactor;
  readonly pull: RightFactor | undefined;
  readonly isolation: Float64Array;
  readonly arena: TubeArena;
}

async function operateBlock(
  block: Block,
  options: ActivationOptions,
  ledger: StageLedger,
): Promise<{ tubes: TubeRows; exchanged: number }> {
  const { task, top, bottom, gram, coupling, pull, isolation, arena } = block;
  const { cols, target } = task;
  const rows = bottom - top;
  ledger.start();
  const donor = task.weights.subarray(top * cols, bottom * cols);
  const drive = donor.map((weight, at) => weight * gram.scale[at % cols]);
  const tubes = openTubes(drive, rows, cols, coupling, arena);
  if (pull !== undefined) {
    const { pressure } = tubes;
    await pull.multiply(donor, rows, pressure);
    const drift = task.inputs?.drift;
    if (drift !== undefined) {
      for (let at = 0; at < pressure.length; at++) {
        pressure[at] += (options.alpha * drift[top * cols + at]) / gram.scale[at % cols];
      }
    }
    await anchor(tubes, options.anchorSteps);
    ledger.spent("anchor");
  }
  ledger.addEnergy(await rowEnergies(tubes));

  const load =
    target.kind === "emergent"
      ? loadForSurvival(tubes, target.survival)
      : loadForSparsity(
          tubes,
          target.kind === "pattern" ? 1 - target.pattern.keep / target.pattern.of : target.sparsity,
        );
  await runFlow(tubes, load, options);
  if (target.kind === "emergent") selectEmergent(tubes, load, options.beta);
  else if (target.kind === "pattern") selectPattern(tubes, target.pattern);
  else selectPerRow(tubes, keepPerRow(task.rows, cols, target.sparsity).subarray(top, bottom));
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
  return { tubes, exchanged };
}

/** d_j = 1/√((C⁻¹)_jj): how much of an input the others cannot say. */
function isolationOf(gram: ScaledGram): Float64Array {
  const { n, coupling } = gram;
  return inverseDiagonal(cholesky(coupling, n), n).map((value) => 1 / Math.sqrt(value));
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
    return [...this.seconds].map(([stage, seconds]) => ({
      stage,
      relativeError: this.energy > 0 ? (this.losses.get(stage) ?? 0) / this.energy : 0,
      seconds,
    }));
  }
}
