import type { TubeRows } from "./tube-rows.js";

export interface FlowOptions {
  readonly iterations: number;
  /** Exponent of the adaptation D ← |Q|^β; 2 makes a tube live or die. */
  readonly beta: number;
}

/** Below this a flow counts as nothing: its square would leave f32, and a starved tube never comes back by itself. */
const STARVED = 1e-15;

/**
 * Let the tubes compete: `iterations` times one Jacobi-preconditioned conjugate-gradient step on (√D C √D + λI) z = √D C y,
 * Q = √D z, then D ← |Q|^β, with λ rising linearly to `load`.
 *
 * Warm start: the step begins from the z that gives the present Q under the new D (z = Q/√D), so the pressure stays valid from step to
 * step and each costs one product: √D(Cy − CQ) − λz = √D g − λz.
 * load     final λ of each row
 * returns  nothing; flow and pressure of `tubes` are changed in place, `alive` is not
 * source   spec: reference.ts `referenceFlow`
 */
export async function runFlow(tubes: TubeRows, load: Float64Array, options: FlowOptions): Promise<void> {
  const { rows, cols, flow, pressure, scratch } = tubes;
  const [direction, product] = scratch;
  const { iterations, beta } = options;
  const gain = new Float64Array(rows);
  const stiffness = new Float64Array(rows);
  for (let iteration = 1; iteration <= iterations; iteration++) {
    const ramp = iteration / iterations;
    for (let row = 0; row < rows; row++) {
      const lambda = load[row] * ramp;
      let dot = 0;
      let norm = 0;
      for (let at = row * cols, end = at + cols; at < end; at++) {
        const q = flow[at];
        const width = beta === 2 ? Math.abs(q) : Math.abs(q) ** (beta / 2);
        if (width < STARVED) {
          direction[at] = 0;
          continue;
        }
        const z = q / width;
        const residual = width * pressure[at] - lambda * z;
        const step = residual / (width * width + lambda);
        dot += residual * step;
        norm += step * step;
        direction[at] = width * step;
      }
      gain[row] = dot;
      stiffness[row] = lambda * norm;
    }
    await tubes.coupling.multiply(direction, rows, product);
    for (let row = 0; row < rows; row++) {
      let curvature = stiffness[row];
      const end = (row + 1) * cols;
      for (let at = row * cols; at < end; at++) curvature += direction[at] * product[at];
      const length = curvature > 0 ? gain[row] / curvature : 0;
      for (let at = row * cols; at < end; at++) {
        flow[at] += length * direction[at];
        pressure[at] -= length * product[at];
      }
    }
  }
}

/** λ for a wanted sparsity: (quantile of |y| in the row at that sparsity)²/4, the load under which a tube of that drive just starves at β = 2. */
export function loadForSparsity(tubes: TubeRows, sparsity: number): Float64Array {
  const { rows, cols, drive } = tubes;
  const sorted = new Float32Array(cols);
  return Float64Array.from({ length: rows }, (_, row) => {
    for (let col = 0; col < cols; col++) sorted[col] = Math.abs(drive[row * cols + col]);
    sorted.sort();
    const position = Math.min(Math.max(sparsity * (cols - 1), 0), cols - 1);
    const below = Math.floor(position);
    const above = Math.min(below + 1, cols - 1);
    const quantile = sorted[below] + (sorted[above] - sorted[below]) * (position - below);
    return quantile ** 2 / 4;
  });
}

/** λ of the emergent mode: (survival · mean |y| of the row)²/4. */
export function loadForSurvival(tubes: TubeRows, survival: number): Float64Array {
  const { rows, cols, drive } = tubes;
  return Float64Array.from({ length: rows }, (_, row) => {
    let sum = 0;
    for (let at = row * cols, end = at + cols; at < end; at++) sum += Math.abs(drive[at]);
    return ((survival * sum) / cols) ** 2 / 4;
  });
}
