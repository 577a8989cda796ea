import { cholesky, solveCholesky } from "../algebra/cholesky.js";

/**
 * The stages of v2 for one row, in plain f64 loops: what the fast versions are held to. They stay readable for ever and
 * are used by tests only; a row has n tubes, C is (n, n) row-major with unit diagonal.
 */
export interface ReferenceRow {
  /** y */
  readonly drive: readonly number[];
  readonly coupling: Float64Array;
}

/** v · C */
export function timesCoupling(vector: readonly number[], coupling: Float64Array): number[] {
  const n = vector.length;
  return vector.map((_, col) => vector.reduce((sum, value, row) => sum + value * coupling[row * n + col], 0));
}

/** (y − Q) C (y − Q)ᵀ */
export function referenceLoss({ drive, coupling }: ReferenceRow, flow: readonly number[]): number {
  const lack = drive.map((y, at) => y - flow[at]);
  return timesCoupling(lack, coupling).reduce((sum, value, at) => sum + value * lack[at], 0);
}

/** W' = (1 − α) w + α w K G⁻¹ for one row of weights, G and K damped, by a direct solve. */
export function referenceAnchor(
  weights: readonly number[],
  gram: Float64Array,
  cross: Float64Array,
  alpha: number,
): number[] {
  const n = weights.length;
  const refit = Float64Array.from(timesCoupling(weights, cross));
  solveCholesky(cholesky(gram, n), n, refit);
  return weights.map((weight, at) => (1 - alpha) * weight + alpha * refit[at]);
}

/**
 * The flow, written in z as DESIGN.md states it: Q = √D z, one Jacobi-preconditioned step of steepest descent from a
 * warm start each time.
 */
export function referenceFlow(row: ReferenceRow, load: number, iterations: number, beta: number): number[] {
  const { drive, coupling } = row;
  const wanted = timesCoupling(drive, coupling);
  let flow = [...drive];
  for (let iteration = 1; iteration <= iterations; iteration++) {
    const lambda = (load * iteration) / iterations;
    const conductance = flow.map((q) => Math.abs(q) ** beta);
    const root = conductance.map(Math.sqrt);
    const z = flow.map((q, at) => (root[at] > 0 ? q / root[at] : 0));
    const apply = (x: readonly number[]) =>
      timesCoupling(
        x.map((value, at) => root[at] * value),
        coupling,
      ).map((value, at) => root[at] * value + lambda * x[at]);
    const image = apply(z);
    const residual = z.map((_, at) => root[at] * wanted[at] - image[at]);
    const step = residual.map((r, at) => r / (conductance[at] + lambda));
    const curved = apply(step);
    const gain = residual.reduce((sum, r, at) => sum + r * step[at], 0);
    const curvature = step.reduce((sum, s, at) => sum + s * curved[at], 0);
    const length = curvature > 0 ? gain / curvature : 0;
    flow = z.map((value, at) => root[at] * (value + length * step[at]));
  }
  return flow;
}

/** Exact least squares of the tubes in `support`: Q_S = C_SS⁻¹ (C y)_S, 0 elsewhere. */
export function referenceLeastSquares({ drive, coupling }: ReferenceRow, support: readonly number[]): number[] {
  const n = drive.length;
  const k = support.length;
  const wanted = timesCoupling(drive, coupling);
  const inner = new Float64Array(k * k);
  const right = Float64Array.from(support, (col) => wanted[col]);
  for (let a = 0; a < k; a++) for (let b = 0; b < k; b++) inner[a * k + b] = coupling[support[a] * n + support[b]];
  solveCholesky(cholesky(inner, k), k, right);
  const flow = new Array<number>(n).fill(0);
  for (let at = 0; at < k; at++) flow[support[at]] = right[at];
  return flow;
}

/**
 * The best that one-for-one exchanges reach: again and again the exchange of a living for a dead tube that lowers the
 * exact loss most, until none does. O(n⁴) a round: for small cases.
 */
export function referenceExchange(row: ReferenceRow, start: readonly number[]): number[] {
  let support = [...start];
  let best = referenceLoss(row, referenceLeastSquares(row, support));
  for (;;) {
    let better: number[] | undefined;
    for (let at = 0; at < support.length; at++) {
      for (let grow = 0; grow < row.drive.length; grow++) {
        if (support.includes(grow)) continue;
        const trial = support.with(at, grow);
        const loss = referenceLoss(row, referenceLeastSquares(row, trial));
        if (loss < best - 1e-12) {
          best = loss;
          better = trial;
        }
      }
    }
    if (better === undefined) return support.sort((a, b) => a - b);
    support = better;
  }
}
