import type { RightFactor } from "../../engine/products.js";
import { refuseStopped } from "../../errors.js";
import { blockedFactor } from "../algebra/blocked-factor.js";
import { cholesky, invertFromCholesky } from "../algebra/cholesky.js";
import { type ScaledGram, scaleGram } from "../algebra/damped.js";
import type { PruneMethod, PruneTask } from "../method.js";
import { heal } from "../stages/heal.js";
import { closeDead } from "../stages/select.js";
import { openTubes } from "../stages/tube-rows.js";
import { gramOf, type Scope, selectByScores } from "./scores.js";

/** The authors' constants (ALPS_admm). */
const FIRST_RHO = 0.1;
const MAX_ITERATIONS = 300;
const UPDATE_EVERY = 3;
/** Their loop counts from 0 and asks `i_admm >= 30`: the 31st. */
const SWITCH_ITERATION = 30;
const MAX_RHO = 1e6;
const BACK_SOLVE_STEPS = 10;
/** Up to so many inputs a factor takes f64 loops some hundredths of a second; ρ changes dozens of times. */
const PLAIN_LIMIT = 512;
/** Pivots that f32 cannot tell from 0. */
const FLOOR = 1e-6;

/**
 * ADMM: a dense copy B follows the least squares, a sparse copy D the k largest, a multiplier V pulls them together
 * while ρ grows as long as the support of D still changes; then conjugate gradients on the support.
 * source: Meng et al. 2024, https://arxiv.org/abs/2406.07831; their alps.py. (C + ρI)⁻¹ comes from a Cholesky factor
 * for each ρ, theirs from one eigendecomposition: the same matrix. `alps-row` selects within each row instead of over
 * the whole tensor.
 */
function alps(name: string, title: string, scope: Scope): PruneMethod {
  return {
    name,
    title,
    reference: "https://arxiv.org/abs/2406.07831",
    needs: "gram",
    steps: "layer",
    async prune(task) {
      const { rows, cols, engine } = task;
      const gram = scaleGram(gramOf(task), cols);
      const start = task.weights.map((weight, at) => weight * gram.scale[at % cols]);
      const coupling = await engine.bind(gram.coupling, cols, cols);
      try {
        const dense = await admm(task, scope, gram, start, coupling);
        const tubes = openTubes(start.slice(), rows, cols, coupling);
        tubes.alive.set(selectByScores(task, dense.map(Math.abs), scope));
        tubes.flow.set(dense);
        await closeDead(tubes);
        await heal(tubes, BACK_SOLVE_STEPS);
        const weights = tubes.flow.map((flow, at) => flow / gram.scale[at % cols]);
        return { weights, alive: tubes.alive, stages: [] };
      } finally {
        await coupling.release();
      }
    },
  };
}

export const alpsPerTensor = alps("alps", "ALPS", "tensor");
export const alpsPerRow = alps("alps-row", "ALPS, selecting per row", "row");

/** The last B, before its projection. */
async function admm(
  task: PruneTask,
  scope: Scope,
  gram: ScaledGram,
  start: Float32Array,
  coupling: RightFactor,
): Promise<Float32Array> {
  const { rows, cols } = task;
  const size = rows * cols;
  const wanted = new Float32Array(size);
  await coupling.multiply(start, rows, wanted);

  const firstAlive = selectByScores(task, start.map(Math.abs), scope);
  const kept = firstAlive.reduce((sum, bit) => sum + bit, 0);
  const firstSparse = start.map((value, at) => (firstAlive[at] === 1 ? value : 0));

  let rho = FIRST_RHO;
  let dense = new Float32Array(size);
  let sparse = firstSparse.slice();
  let multiplier = new Float32Array(size);
  let alive = firstAlive;
  let lastAlive = firstAlive;
  let isSettling = false;
  const right = new Float32Array(size);
  const shifted = new Float32Array(size);
  let inverse = await bindShiftedInverse(task, gram, rho);
  try {
    for (let iteration = 1; iteration <= MAX_ITERATIONS; iteration++) {
      refuseStopped(task.signal);
      for (let at = 0; at < size; at++) right[at] = wanted[at] - multiplier[at] + rho * sparse[at];
      await inverse.multiply(right, rows, dense);
      for (let at = 0; at < size; at++) shifted[at] = dense[at] + multiplier[at] / rho;
      alive = selectByScores(task, shifted.map(Math.abs), scope);
      for (let at = 0; at < size; at++) {
        sparse[at] = alive[at] === 1 ? shifted[at] : 0;
        multiplier[at] += rho * (dense[at] - sparse[at]);
      }
      if (iteration % UPDATE_EVERY !== 0) continue;

      let changed = 0;
      for (let at = 0; at < size; at++) if (alive[at] !== lastAlive[at]) changed++;
      const before = rho;
      if (changed / kept > 0.1) {
        isSettling = true;
        rho *= 1.3;
      } else if (changed / kept > 0.005) {
        isSettling = true;
        rho *= 1.2;
      } else if (changed > 0 && isSettling) {
        rho *= 1.1;
      } else if (changed > 0) {
        // ρ was too strong for anything to move: start over, softer.
        rho /= 5;
        dense = start.slice();
        sparse = firstSparse.slice();
        multiplier = new Float32Array(size);
      } else if (isSettling) {
        break;
      } else {
        rho /= 5;
      }
      lastAlive = alive;
      rho = Math.min(rho, MAX_RHO);
      if (iteration > SWITCH_ITERATION && changed / kept < 0.0003) break;
      if (rho !== before) {
        await inverse.release();
        inverse = await bindShiftedInverse(task, gram, rho);
      }
    }
  } finally {
    await inverse.release();
  }
  return dense;
}

/** (C + ρI)⁻¹ as right factor in f32; computed in f64 where that is quick. */
export async function bindShiftedInverse(
  { engine, signal }: Pick<PruneTask, "engine" | "signal">,
  { n, coupling }: Pick<ScaledGram, "n" | "coupling">,
  rho: number,
  plainLimit = PLAIN_LIMIT,
): Promise<RightFactor> {
  if (n > plainLimit) {
    const shifted = coupling.slice();
    for (let at = 0; at < n; at++) shifted[at * n + at] += rho;
    const factor = await blockedFactor(shifted, n, engine, { floor: FLOOR, signal });
    return engine.bind(await engine.multiplyTransposed(factor, factor, n, n, n), n, n);
  }
  const shifted = Float64Array.from(coupling);
  for (let at = 0; at < n; at++) shifted[at * n + at] += rho;
  const inverse = invertFromCholesky(cholesky(shifted, n), n);
  return engine.bind(Float32Array.from(inverse), n, n);
}
