import { balancedDrive, balanceMagnitudes } from "../../flow/balance.js";
import type { PruneMethod } from "../method.js";
import { pruneByScores } from "./scores.js";

const BLOCK_SIZE = 256;

/**
 * The data-free flow `balanced`: a tube's drive is its share |w|·r_i·c_j of the flow when every input of a 256 × 256
 * tile sends one unit and every output draws one, scaled to mean 1 over the tile. Surgery cuts by survival; here, to
 * stand in one table, by rank over the tensor.
 * source: DESIGN.md §2; Sinkhorn & Knopp 1967, https://doi.org/10.2140/pjm.1967.21.343
 */
export const balanced: PruneMethod = {
  name: "balanced",
  title: "balanced flow (data-free)",
  reference: "https://doi.org/10.2140/pjm.1967.21.343",
  needs: "weights",
  steps: "layer",
  async prune(task) {
    const { rows, cols, weights } = task;
    const scores = new Float32Array(rows * cols);
    for (let top = 0; top < rows; top += BLOCK_SIZE) {
      for (let left = 0; left < cols; left += BLOCK_SIZE) {
        const height = Math.min(BLOCK_SIZE, rows - top);
        const width = Math.min(BLOCK_SIZE, cols - left);
        drivesOfTile(weights, cols, top * cols + left, height, width, scores);
      }
    }
    return pruneByScores(task, scores, "tensor");
  },
};

/** Write the balanced drives of one tile into `drives`. */
function drivesOfTile(
  weights: Float32Array,
  stride: number,
  start: number,
  height: number,
  width: number,
  drives: Float32Array,
): void {
  const magnitudes = new Float64Array(height * width);
  for (let row = 0; row < height; row++) {
    for (let col = 0; col < width; col++) {
      magnitudes[row * width + col] = Math.abs(weights[start + row * stride + col]);
    }
  }
  const { rowFactors, colFactors } = balanceMagnitudes(magnitudes, height, width);
  for (let row = 0; row < height; row++) {
    for (let col = 0; col < width; col++) {
      const drive = balancedDrive(magnitudes[row * width + col], rowFactors[row], colFactors[col]);
      drives[start + row * stride + col] = drive;
    }
  }
}
