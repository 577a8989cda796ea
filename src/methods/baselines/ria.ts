import type { PruneMethod, PruneTask } from "../method.js";
import { inputEnergies, pruneByScores } from "./scores.js";

/** Exponent of the activation norm; the authors' a. */
const ACTIVATION_EXPONENT = 0.5;

/**
 * Relative importance and activations: (|w_ij| / Σ_i |w_ij| + |w_ij| / Σ_j |w_ij|) · ‖x_j‖₂^½, compared over the whole
 * tensor; no update. Without activations the last factor is 1. The authors' channel permutation for N:M is left out: it
 * changes the order of inputs, which a checkpoint that any loader opens cannot.
 * source: Zhang et al. 2024, https://openreview.net/forum?id=Tr0lPx9woF; their lib/prune.py
 */
export const ria: PruneMethod = {
  name: "ria",
  title: "RIA",
  reference: "https://openreview.net/forum?id=Tr0lPx9woF",
  needs: "norms",
  steps: "layer",
  async prune(task) {
    const activation = inputEnergies(task).map((energy) => Math.sqrt(energy) ** ACTIVATION_EXPONENT);
    return pruneByScores(task, relativeImportance(task, activation), "tensor");
  },
};

export const relativeImportanceOnly: PruneMethod = {
  name: "ri",
  title: "RIA without activations",
  reference: ria.reference,
  needs: "weights",
  steps: "layer",
  prune: async (task) => pruneByScores(task, relativeImportance(task, new Float64Array(task.cols).fill(1)), "tensor"),
};

function relativeImportance({ rows, cols, weights }: PruneTask, activation: Float64Array): Float32Array {
  const rowSums = new Float64Array(rows);
  const colSums = new Float64Array(cols);
  for (let row = 0; row < rows; row++) {
    for (let col = 0; col < cols; col++) {
      const size = Math.abs(weights[row * cols + col]);
      rowSums[row] += size;
      colSums[col] += size;
    }
  }
  const scores = new Float32Array(rows * cols);
  for (let row = 0; row < rows; row++) {
    for (let col = 0; col < cols; col++) {
      const size = Math.abs(weights[row * cols + col]);
      // 0/0 of an all-zero row or column is importance 0.
      scores[row * cols + col] = size === 0 ? 0 : (size / colSums[col] + size / rowSums[row]) * activation[col];
    }
  }
  return scores;
}
