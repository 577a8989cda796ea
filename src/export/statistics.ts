import { cholesky, invertLower } from "../methods/algebra/cholesky.js";
import { dampingOf } from "../methods/algebra/damped.js";
import type { Multiply } from "./compensation.js";
import type { Link } from "./gguf/links.js";

/** What is known of the inputs of a model's matrices, for an export that quantises with calibration. */
export interface WeightStatistics {
  /** How much each column of a piece's rows counts; undefined where nothing is known. */
  importance(link: Link): Promise<Float32Array | undefined>;
  /** For error-compensating rounding, else undefined: Gram matrices, and what multiplies. */
  readonly compensation?: {
    /** The same word for pieces with the same inputs; undefined where their Gram is not known. */
    inputsOf(link: Link): string | undefined;
    /** E[x xᵀ] of a piece's inputs, (columns, columns); asked only of pieces that `inputsOf` knows. */
    gram(link: Link): Promise<Float32Array>;
    readonly multiply: Multiply;
  };
}

/** Columns up to which a factor is made: beyond, plain f64 loops take minutes a matrix. */
export const FACTOR_LIMIT = 8192;

/**
 * U, upper triangular f32 (n, n), with (G + ρI)⁻¹ = Uᵀ U and ρ 1 % of the mean diagonal. Inputs that never fire count
 * as if they fired alone. Flipping rows and columns turns the wanted factor into the inverse of an ordinary one: with
 * J(G + ρI)J = L Lᵀ, U = J L⁻¹ J.
 */
export function inverseFactor(gram: Float32Array, n: number): Float32Array {
  const damping = dampingOf(gram, n) || 1;
  const flipped = new Float64Array(n * n);
  for (let row = 0; row < n; row++) {
    for (let col = 0; col < n; col++) flipped[(n - 1 - row) * n + (n - 1 - col)] = gram[row * n + col];
  }
  for (let at = 0; at < n; at++) flipped[at * n + at] += damping;
  return Float32Array.from(invertLower(cholesky(flipped, n), n).reverse());
}
