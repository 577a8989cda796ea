import { PhysariumError } from "../errors.js";
import { DRIVE_BINS, searchThreshold } from "../flow/drive-histogram.js";
import { Dynamic, driveThreshold } from "../flow/dynamic.js";
import { PARAM_LIMITS } from "../flow/params.js";
import type { TilePlan } from "./plan.js";

export interface SearchOutcome {
  readonly survival: number;
  /** Fraction of zeros that the histogram predicts. */
  readonly expectedSparsity: number;
}

/** Just under the edge, so that a drive that lies on it lives although s·τ is rounded. */
const UNDER_EDGE = 1 - 2 ** -40;

/**
 * The survival whose dead come nearest to the wanted fraction, from the drives of all targets.
 *
 * The dynamic scales: with drives and survival in the same unit the threshold in force is `s·τ(β, n_iter)`, so τ is
 * asked once.
 */
export function searchSurvival(plan: TilePlan, histogram: Float64Array, targetSparsity: number): SearchOutcome {
  const { params } = plan.options;
  let counted = 0;
  for (let bin = 0; bin < DRIVE_BINS; bin++) counted += histogram[bin];
  const zeros = plan.targetWeights - counted;
  const { threshold, dead } = searchThreshold(histogram, zeros, plan.targetWeights, targetSparsity);
  const tau = driveThreshold(new Dynamic({ ...params, survival: 1 }));
  const lowest = 1e-9;
  const survival = threshold === 0 ? lowest : Math.max(lowest, (threshold / tau) * UNDER_EDGE);
  if (survival > PARAM_LIMITS.survival.max) {
    throw new PhysariumError(
      "USAGE_TARGET_SPARSITY",
      `--target-sparsity ${targetSparsity} would need a survival of ${survival.toFixed(1)}, at most ` +
        `${PARAM_LIMITS.survival.max} is allowed; ask for less`,
    );
  }
  return { survival, expectedSparsity: dead / plan.targetWeights };
}
