import type { PruneMethod } from "../method.js";
import { inputEnergies, pruneByScores } from "./scores.js";

/**
 * |w_ij| · ‖x_j‖₂, compared within each output row; no update.
 * source: Sun et al. 2023, https://arxiv.org/abs/2306.11695; their lib/prune.py
 */
export const wanda: PruneMethod = {
  name: "wanda",
  title: "Wanda",
  reference: "https://arxiv.org/abs/2306.11695",
  needs: "norms",
  steps: "layer",
  async prune(task) {
    const { cols, weights } = task;
    const norms = inputEnergies(task).map(Math.sqrt);
    const scores = weights.map((weight, at) => Math.abs(weight) * norms[at % cols]);
    return pruneByScores(task, scores, "row");
  },
};
