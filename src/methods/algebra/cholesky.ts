import { PhysariumError } from "../../errors.js";

/**
 * Lower Cholesky factor L of a symmetric positive definite matrix, A = L Lᵀ, f64 row-major; the upper part of the
 * result is 0.
 *
 * Rows are dotted with rows, both contiguous, so n = 5,000 takes tens of seconds, not minutes.
 * Throws `INTERNAL` where the matrix is not positive definite: a Gram that was damped is. With a `floor` above 0 a
 * pivot below it is raised to it instead, for those who want an answer that is about right of a matrix that rounding
 * has made singular.
 */
export function cholesky(matrix: ArrayLike<number>, n: number, floor = 0): Float64Array {
  const factor = new Float64Array(n * n);
  for (let row = 0; row < n; row++) {
    const base = row * n;
    for (let col = 0; col <= row; col++) {
      const other = col * n;
      let rest = matrix[base + col] - dot(factor, base, other, col);
      if (col < row) {
        factor[base + col] = rest / factor[other + col];
      } else {
        if (floor > 0) rest = Math.max(rest, floor);
        if (!(rest > 0)) {
          throw new PhysariumError(
            "INTERNAL",
            `a Gram of ${n} inputs is not positive definite at input ${row} (pivot ${rest}); more damping is needed`,
            { row, pivot: rest },
          );
        }
        factor[base + row] = Math.sqrt(rest);
      }
    }
  }
  return factor;
}

/** Solve L Lᵀ x = b in place, for the factor of `cholesky`. */
export function solveCholesky(factor: Float64Array, n: number, b: Float64Array): void {
  for (let row = 0; row < n; row++) {
    const base = row * n;
    let rest = b[row];
    for (let col = 0; col < row; col++) rest -= factor[base + col] * b[col];
    b[row] = rest / factor[base + row];
  }
  for (let row = n - 1; row >= 0; row--) {
    const base = row * n;
    const value = b[row] / factor[base + row];
    b[row] = value;
    for (let col = 0; col < row; col++) b[col] -= factor[base + col] * value;
  }
}

/** Rows of M = L⁻¹ (lower triangular), so that A⁻¹ = Mᵀ M. */
export function invertLower(factor: Float64Array, n: number): Float64Array {
  const inverse = new Float64Array(n * n);
  for (let row = 0; row < n; row++) {
    const base = row * n;
    const pivot = factor[base + row];
    for (let inner = 0; inner < row; inner++) {
      const scale = factor[base + inner];
      if (scale === 0) continue;
      const other = inner * n;
      for (let col = 0; col <= inner; col++) inverse[base + col] -= scale * inverse[other + col];
    }
    inverse[base + row] = 1;
    for (let col = 0; col <= row; col++) inverse[base + col] /= pivot;
  }
  return inverse;
}

/** A⁻¹ from its Cholesky factor, full symmetric f64. */
export function invertFromCholesky(factor: Float64Array, n: number): Float64Array {
  const lower = invertLower(factor, n);
  const inverse = new Float64Array(n * n);
  for (let inner = 0; inner < n; inner++) {
    const base = inner * n;
    for (let row = 0; row <= inner; row++) {
      const scale = lower[base + row];
      if (scale === 0) continue;
      const out = row * n;
      for (let col = 0; col <= row; col++) inverse[out + col] += scale * lower[base + col];
    }
  }
  for (let row = 0; row < n; row++) for (let col = 0; col < row; col++) inverse[col * n + row] = inverse[row * n + col];
  return inverse;
}

/** Diagonal of A⁻¹: the column norms of L⁻¹, squared. */
export function inverseDiagonal(factor: Float64Array, n: number): Float64Array {
  const lower = invertLower(factor, n);
  const diagonal = new Float64Array(n);
  for (let row = 0; row < n; row++) {
    for (let col = 0; col <= row; col++) diagonal[col] += lower[row * n + col] ** 2;
  }
  return diagonal;
}

function dot(values: Float64Array, a: number, b: number, length: number): number {
  let s0 = 0;
  let s1 = 0;
  let s2 = 0;
  let s3 = 0;
  let at = 0;
  for (; at + 3 < length; at += 4) {
    s0 += values[a + at] * values[b + at];
    s1 += values[a + at + 1] * values[b + at + 1];
    s2 += values[a + at + 2] * values[b + at + 2];
    s3 += values[a + at + 3] * values[b + at + 3];
  }
  for (; at < length; at++) s0 += values[a + at] * values[b + at];
  return s0 + s1 + (s2 + s3);
}
