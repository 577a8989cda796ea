import type { MatrixEngine } from "../../engine/products.js";
import { blockedFactor } from "./blocked-factor.js";
import { cholesky, inverseDiagonal } from "./cholesky.js";

/** Up to so many inputs plain f64 loops take a second or two. */
const PLAIN_LIMIT = 1024;
/**
 * The least a pivot may be. Channels that are louder than the rest a thousandfold and say the same leave pivots that
 * f32 cannot tell from 0; how isolated they are then is a guess, and isolation only ranks candidates.
 */
const FLOOR = 1e-6;

/**
 * d_j = 1/√((C⁻¹)_jj) for a symmetric C (n, n) with unit diagonal: how much of input j the others cannot say, between 0
 * and 1.
 *
 * Beyond `PLAIN_LIMIT` inputs the same factorisation runs in blocks, the products between blocks in f32 on the engine.
 */
export async function isolationOf(coupling: Float32Array, n: number, engine: MatrixEngine): Promise<Float64Array> {
  const diagonal =
    n <= PLAIN_LIMIT
      ? inverseDiagonal(cholesky(coupling, n, FLOOR), n)
      : energiesOf(await blockedFactor(coupling, n, engine, { floor: FLOOR }), n);
  return diagonal.map((value) => 1 / Math.sqrt(value));
}

/** Diagonal of C⁻¹ = Mᵀ M: the column norms of M (n, n), squared. */
export function energiesOf(factor: Float32Array, n: number): Float64Array {
  const energies = new Float64Array(n);
  for (let row = 0; row < n; row++) {
    for (let col = 0; col < n; col++) energies[col] += factor[row * n + col] ** 2;
  }
  return energies;
}
