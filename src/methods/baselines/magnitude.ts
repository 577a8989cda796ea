import type { PruneMethod } from "../method.js";
import { pruneByScores, type Scope } from "./scores.js";

/**
 * The smallest weights go: |w| over the whole tensor, or row by row.
 * source: Han et al. 2015, https://arxiv.org/abs/1506.02626
 */
function magnitude(name: string, title: string, scope: Scope): PruneMethod {
  return {
    name,
    title,
    reference: "https://arxiv.org/abs/1506.02626",
    needs: "weights",
    steps: "layer",
    prune: async (task) => pruneByScores(task, task.weights.map(Math.abs), scope),
  };
}

export const magnitudePerTensor = magnitude("magnitude", "magnitude, per tensor", "tensor");
export const magnitudePerRow = magnitude("magnitude-row", "magnitude, per row", "row");
