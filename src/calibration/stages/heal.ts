import type { TubeRows } from "./tube-rows.js";

/**
 * Least squares of the survivors on the kept support: `steps` conjugate-gradient steps on C_SS Q_S = (C y)_S, all rows at once.
 *
 * The diagonal of C is 1, so the Jacobi preconditioner is the identity. Each step costs one product and leaves the pressure of the whole
 * row valid, dead tubes included: that is what sprouting looks at. Expects pressure = (y − Q) C and Q = 0 where dead.
 * source: Hestenes & Stiefel 1952; spec: reference.ts `referenceLeastSquares`
 */
export async function heal(tubes: TubeRows, steps: number, rowCount = tubes.rows): Promise<void> {
  const { cols, flow, pressure, alive, scratch, coupling } = tubes;
  const [direction, product] = scratch;
  const norms = new Float64Array(rowCount);
  const floors = new Float64Array(rowCount);
  for (let row = 0; row < rowCount; row++) {
    let norm = 0;
    for (let at = row * cols, end = at + cols; at < end; at++) {
      const residual = alive[at] === 1 ? pressure[at] : 0;
      direction[at] = residual;
      norm += residual * residual;
    }
    norms[row] = norm;
    // Beyond this f32 has nothing more to say, and dividing rounding noise by rounding noise would undo the work.
    floors[row] = norm * 1e-12;
  }
  for (let step = 0; step < steps; step++) {
    await coupling.multiply(direction, rowCount, product);
    for (let row = 0; row < rowCount; row++) {
      if (!(norms[row] > floors[row])) continue;
      const start = row * cols;
      const end = start + cols;
      let curvature = 0;
      for (let at = start; at < end; at++) curvature += direction[at] * product[at];
      if (!(curvature > 0)) {
        norms[row] = 0;
        continue;
      }
      const length = norms[row] / curvature;
      let norm = 0;
      for (let at = start; at < end; at++) {
        flow[at] += length * direction[at];
        const residual = pressure[at] - length * product[at];
        pressure[at] = residual;
        if (alive[at] === 1) norm += residual * residual;
      }
      const turn = norm / norms[row];
      norms[row] = norm;
      for (let at = start; at < end; at++) {
        direction[at] = alive[at] === 1 ? pressure[at] + turn * direction[at] : 0;
      }
    }
  }
}
