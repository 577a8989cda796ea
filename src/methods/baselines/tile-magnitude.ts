import type { PruneMethod } from "../method.js";
import { pruneByScores } from "./scores.js";

const BLOCK_SIZE = 256;

/**
 * The default flow `magnitude` (v1): a tube's drive is its magnitude in units of the mean of its 256 × 256 tile.
 * Surgery cuts all targets at one drive, so that a tensor's rate emerges; here, to stand in one table, the rate is that
 * of each tensor, by rank over its drives.
 * source: DESIGN.md §2, our reconstruction
 */
export const tileMagnitude: PruneMethod = {
  name: "tile-magnitude",
  title: "magnitude in tiles (v1, the default flow)",
  reference: "docs/flows.md",
  needs: "weights",
  steps: "layer",
  prune: async (task) => pruneByScores(task, tileDrives(task.weights, task.rows, task.cols), "tensor"),
};

/** |w| over the mean |w| of its tile; 0 in a tile of zeros. */
export function tileDrives(weights: Float32Array, rows: number, cols: number): Float32Array {
  const drives = new Float32Array(rows * cols);
  for (let top = 0; top < rows; top += BLOCK_SIZE) {
    for (let left = 0; left < cols; left += BLOCK_SIZE) {
      const [bottom, right] = [Math.min(top + BLOCK_SIZE, rows), Math.min(left + BLOCK_SIZE, cols)];
      let sum = 0;
      for (let row = top; row < bottom; row++)
        for (let at = row * cols + left; at < row * cols + right; at++) sum += Math.abs(weights[at]);
      const mean = sum / ((bottom - top) * (right - left));
      if (mean === 0) continue;
      for (let row = top; row < bottom; row++)
        for (let at = row * cols + left; at < row * cols + right; at++) drives[at] = Math.abs(weights[at]) / mean;
    }
  }
  return drives;
}
