import type { MatrixEngine } from "../../engine/products.js";
import { refuseStopped } from "../../errors.js";
import { cholesky, invertLower } from "./cholesky.js";

const BLOCK = 128;

export interface BlockedFactorOptions {
  /** The least a pivot may be. */
  readonly floor?: number;
  readonly block?: number;
  readonly signal?: AbortSignal | undefined;
}

/**
 * M = L⁻¹, lower triangular, f32 (n, n), of a symmetric positive matrix (n, n) = L Lᵀ, so that its inverse is Mᵀ M.
 * Corners are factorised in f64 loops, the products between blocks are the engine's: for matrices on which loops alone
 * would take minutes, and let nobody else have the thread. Throws `STOPPED`.
 */
export async function blockedFactor(
  matrix: Float32Array,
  n: number,
  engine: MatrixEngine,
  { floor = 0, block = BLOCK, signal }: BlockedFactorOptions = {},
): Promise<Float32Array> {
  const lower = new Float32Array(n * n);
  const corners: Float64Array[] = [];
  for (let start = 0; start < n; start += block) {
    refuseStopped(signal);
    const width = Math.min(block, n - start);
    const below = n - start;
    // What earlier columns leave of this column of blocks: C − L Lᵀ. Columns of L not yet computed are 0 and add
    // nothing.
    const right = new Float32Array(n * width);
    for (let col = 0; col < width; col++) {
      for (let inner = 0; inner < start; inner++) right[inner * width + col] = lower[(start + col) * n + inner];
    }
    const left = await engine.multiply(lower.subarray(start * n), right, below, n, width);
    for (let row = 0; row < below; row++) {
      for (let col = 0; col < width; col++) {
        left[row * width + col] = matrix[(start + row) * n + start + col] - left[row * width + col];
      }
    }
    const factor = cholesky(left.subarray(0, width * width), width, floor);
    const inverse = invertLower(factor, width);
    corners.push(inverse);
    const transposed = Float32Array.from(inverse, (_, at) => inverse[(at % width) * width + Math.floor(at / width)]);
    const rest = below - width;
    const panel = await engine.multiply(left.subarray(width * width), transposed, rest, width, width);
    for (let row = 0; row < width; row++) {
      for (let col = 0; col <= row; col++) lower[(start + row) * n + start + col] = factor[row * width + col];
    }
    for (let row = 0; row < rest; row++) {
      lower.set(panel.subarray(row * width, (row + 1) * width), (start + width + row) * n + start);
    }
  }

  // Row of blocks i of M is −L_ii⁻¹ (L_i,<i M_<i), with L_ii⁻¹ on the diagonal; L's own rows are not needed after, so M
  // takes their place.
  for (let start = 0; start < n; start += block) {
    refuseStopped(signal);
    const width = Math.min(block, n - start);
    const corner = corners[start / block];
    const product = new Float32Array(width * n);
    if (start > 0) {
      const left = new Float32Array(width * start);
      for (let row = 0; row < width; row++) {
        left.set(lower.subarray((start + row) * n, (start + row) * n + start), row * start);
      }
      const inner = await engine.multiply(left, lower.subarray(0, start * n), width, start, n);
      const negated = Float32Array.from(corner, (value) => -value);
      product.set(await engine.multiply(negated, inner, width, width, n));
    }
    for (let row = 0; row < width; row++) {
      for (let col = 0; col < width; col++) product[row * n + start + col] = corner[row * width + col];
    }
    lower.set(product, start * n);
  }
  return lower;
}
