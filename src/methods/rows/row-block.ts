import type { RightFactor } from "../../engine/products.js";
import type { PruneTarget } from "../method.js";
import { anchor } from "../stages/anchor.js";
import { loadForSparsity, loadForSurvival, runFlow } from "../stages/flow.js";
import { heal } from "../stages/heal.js";
import { closeDead, selectEmergent, selectPattern, selectPerRow } from "../stages/select.js";
import { sprout } from "../stages/sprout.js";
import type { TubeArena } from "../stages/tube-arena.js";
import { openTubes, refreshPressure, rowEnergies, rowLosses } from "../stages/tube-rows.js";

/** How long each stage goes on. */
export interface StageOptions {
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
}

/** What all blocks of one matrix, or of one tile of its columns, have in common beside their coupling. */
export interface BlockTerms {
  readonly cols: number;
  readonly isolation: Float64Array;
  readonly target: PruneTarget;
  readonly options: StageOptions;
}

export interface BlockSetup extends BlockTerms {
  /** C, f32 row-major (cols, cols). */
  readonly coupling: Float32Array;
}

/** Rows that are operated on together; they do not see each other, so a block may be of any size. */
export interface RowBlock {
  readonly rows: number;
  /** The donor's weights in the coordinates of the flow, w∘a: f32 row-major (rows, cols). */
  readonly drive: Float32Array;
  /** What moves the drive before anything dies; absent where nothing does. */
  readonly pressure?: Float32Array;
  /** Living tubes of each row, where the target is a sparsity. */
  readonly keep?: Int32Array;
}

export interface BlockResult {
  /** Q, (rows, cols), 0 where dead. */
  readonly flow: Float32Array;
  /** 1 living, 0 dead. */
  readonly alive: Uint8Array;
  /** Tubes that sprouted and live. */
  readonly exchanged: number;
  /** y C yᵀ of each row: what losses are relative to. */
  readonly energies: Float64Array;
  readonly stages: readonly BlockStage[];
  readonly products: ProductWork;
}

/** Products with a coupling: operations (two for a multiplication and its addition), and the seconds they took. */
export interface ProductWork {
  readonly flops: number;
  readonly seconds: number;
}

export interface BlockStage {
  readonly stage: string;
  /** (y − Q) C (y − Q)ᵀ of each row; absent for `anchor`, which moves y. */
  readonly losses?: Float64Array;
  readonly seconds: number;
}

/**
 * All stages of the activation flow on one block. `coupling` is C (cols, cols), bound; what lay in `arena` is void
 * afterwards.
 */
export async function operateBlock(
  block: RowBlock,
  terms: BlockTerms,
  coupling: RightFactor,
  arena: TubeArena,
): Promise<BlockResult> {
  const { rows, drive, pressure, keep } = block;
  const { cols, isolation, target, options } = terms;
  const stages: BlockStage[] = [];
  let since = performance.now();
  const record = (stage: string, losses?: Float64Array): void => {
    const now = performance.now();
    stages.push({ stage, seconds: (now - since) / 1000, ...(losses === undefined ? {} : { losses }) });
    since = now;
  };

  const work = { flops: 0, seconds: 0 };
  const tubes = openTubes(drive, rows, cols, counted(coupling, work), arena);
  if (pressure !== undefined) {
    tubes.pressure.set(pressure);
    await anchor(tubes, options.anchorSteps);
    record("anchor");
  }
  const energies = await rowEnergies(tubes);

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
  record("flow", rowLosses(tubes));

  await heal(tubes, options.firstHealSteps);
  record("first heal", rowLosses(tubes));
  let exchanged = 0;
  if (options.sproutRounds > 0) {
    ({ exchanged } = await sprout(tubes, isolation, {
      rounds: options.sproutRounds,
      share: options.sproutShare,
      healSteps: options.sproutHealSteps,
      ...(target.kind === "pattern" ? { pattern: target.pattern } : {}),
    }));
    record("sprout", rowLosses(tubes));
  }
  await heal(tubes, options.healSteps);
  record("heal", rowLosses(tubes));
  if (!options.heal) {
    // What will be written, and what that costs: the mask with the donor's weights behind it.
    for (let at = 0; at < tubes.flow.length; at++) tubes.flow[at] = tubes.alive[at] === 1 ? drive[at] : 0;
    await refreshPressure(tubes);
    record("donor's bits", rowLosses(tubes));
  }
  return { flow: tubes.flow.slice(), alive: tubes.alive.slice(), exchanged, energies, stages, products: work };
}

/** The same factor, with its products written down in `work`. */
function counted(factor: RightFactor, work: { flops: number; seconds: number }): RightFactor {
  return {
    ...factor,
    async multiply(left, leftRows, out) {
      const started = performance.now();
      await factor.multiply(left, leftRows, out);
      work.seconds += (performance.now() - started) / 1000;
      work.flops += 2 * leftRows * factor.rows * factor.cols;
    },
  };
}
