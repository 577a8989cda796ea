/** ρ = 0.01 · mean of the diagonal: the damping SparseGPT brought in and everyone since has kept. */
export const DAMPING = 0.01;

/** Mean of the diagonal of a Gram (n, n): E[x²] over its inputs. */
export function meanEnergyOf(gram: Float32Array, n: number): number {
  let trace = 0;
  for (let at = 0; at < n; at++) trace += gram[at * n + at];
  return trace / n;
}

/** 1 % of the mean diagonal of a Gram (n, n). */
export function dampingOf(gram: Float32Array, n: number): number {
  return DAMPING * meanEnergyOf(gram, n);
}

/** The Gram in the coordinates of the flow: a_j = √(G_jj + ρ) and C = (G + ρI)/(a aᵀ), whose diagonal is 1. */
export interface ScaledGram {
  readonly n: number;
  readonly damping: number;
  readonly scale: Float64Array;
  /** f32 row-major (n, n). */
  readonly coupling: Float32Array;
}

export function scaleGram(gram: Float32Array, n: number, damping = dampingOf(gram, n)): ScaledGram {
  const scale = new Float64Array(n);
  // An input that never fires, in a layer where none does, still needs a scale to divide by.
  for (let at = 0; at < n; at++) scale[at] = Math.sqrt(gram[at * n + at] + damping) || 1;
  const coupling = new Float32Array(n * n);
  for (let row = 0; row < n; row++) {
    for (let col = 0; col < n; col++) coupling[row * n + col] = gram[row * n + col] / scale[row] / scale[col];
    coupling[row * n + row] = 1;
  }
  return { n, damping, scale, coupling };
}
