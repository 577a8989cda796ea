import type { MatrixEngine } from "../../engine/products.js";
import { cholesky, inverseDiagonal, invertLower } from "./cholesky.js";

/** Up to so many inputs plain f64 loops take a second or two. */
const PLAIN_LIMIT = 1024;
const BLOCK = 128;
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
      : await blockedInverseDiagonal(coupling, n, engine);
  return diagonal.map((value) => 1 / Math.sqrt(value));
}

/** Diagonal of C⁻¹ by a blocked Cholesky factor L and its blocked inverse M: the column norms of M, squared. */
export async function blockedInverseDiagonal(
  matrix: Float32Array,
  n: number,
  engine: MatrixEngine,
  block = BLOCK,
): Promise<Float64Array> {
  const lower = new Float32Array(n * n);
  const corners: Float64Array[] = [];
  for (let start = 0; start < n; start += block) {
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
    const factor = cholesky(left.subarray(0, width * width), width, FLOOR);
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
  const diagonal = new Float64Array(n);
  for (let start = 0; start < n; start += block) {
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
    for (let row = 0; row < width; row++) {
      for (let col = 0; col < n; col++) diagonal[col] += product[row * n + col] ** 2;
    }
  }
  return diagonal;
}
