import type { TubeRows } from "./tube-rows.js";

/**
 * Least squares of the survivors on the kept support: `steps` conjugate-gradient steps on C_SS Q_S = (C y)_S, all rows
 * at once.
 *
 * The diagonal of C is 1, so the Jacobi preconditioner is the identity. Each step costs one product and leaves the
 * pressure of the whole row valid, dead tubes included: that is what sprouting looks at. Expects pressure = (y − Q) C
 * and Q = 0 where dead.
 * source: Hestenes & Stiefel 1952; spec: reference.ts `referenceLeastSquares`
 */
export async function heal(tubes: TubeRows, steps: number): Promise<void> {
  const { rows, cols, flow, pressure, alive, scratch, rowScratch, kernel, coupling } = tubes;
  const [direction, product] = scratch;
  const [norms, floors] = rowScratch;
  kernel.healBegin(rows, cols, pressure.byteOffset, alive.byteOffset, direction.byteOffset, norms.byteOffset);
  // Beyond this f32 has nothing more to say, and dividing rounding noise by rounding noise would undo the work.
  for (let row = 0; row < rows; row++) floors[row] = norms[row] * 1e-12;
  for (let step = 0; step < steps; step++) {
    await coupling.multiply(direction, rows, product);
    kernel.healStep(
      rows,
      cols,
      flow.byteOffset,
      pressure.byteOffset,
      alive.byteOffset,
      direction.byteOffset,
      product.byteOffset,
      norms.byteOffset,
      floors.byteOffset,
    );
  }
}
