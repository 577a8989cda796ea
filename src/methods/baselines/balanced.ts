import type { PruneMethod } from "../method.js";
import { pruneByScores } from "./scores.js";

const BLOCK_SIZE = 256;
const SWEEPS = 8;

/**
 * The data-free flow `balanced`: a tube's drive is its share |w|·r_i·c_j of the flow when every input of a 256 × 256 tile sends one unit and every
 * output draws one, scaled to mean 1 over the tile. Surgery cuts by survival; here, to stand in one table, by rank over the tensor.
 * source: DESIGN.md §2; Sinkhorn & Knopp 1967, https://doi.org/10.2140/pjm.1967.21.343
 */
export const balanced: PruneMethod = {
  name: "balanced",
  title: "balanced flow (v1, data-free)",
  reference: "https://doi.org/10.2140/pjm.1967.21.343",
  needs: "weights",
  steps: "layer",
  async prune(task) {
    const { rows, cols, weights } = task;
    const scores = new Float32Array(rows * cols);
    for (let top = 0; top < rows; top += BLOCK_SIZE) {
      for (let left = 0; left < cols; left += BLOCK_SIZE) {
        balanceTile(
          weights,
          cols,
          top,
          left,
          Math.min(BLOCK_SIZE, rows - top),
          Math.min(BLOCK_SIZE, cols - left),
          scores,
        );
      }
    }
    return pruneByScores(task, scores, "tensor");
  },
};

/** Write the balanced drives of one tile into `drives`: columns then rows, eight times; an all-zero row or column gets factor 0. */
function balanceTile(
  weights: Float32Array,
  stride: number,
  top: number,
  left: number,
  height: number,
  width: number,
  drives: Float32Array,
): void {
  const rowFactor = new Float64Array(height).fill(1);
  const colFactor = new Float64Array(width).fill(1);
  for (let sweep = 0; sweep < SWEEPS; sweep++) {
    const colSums = new Float64Array(width);
    for (let row = 0; row < height; row++) {
      const base = (top + row) * stride + left;
      for (let col = 0; col < width; col++) colSums[col] += Math.abs(weights[base + col]) * rowFactor[row];
    }
    for (let col = 0; col < width; col++) colFactor[col] = colSums[col] > 0 ? 1 / colSums[col] : 0;
    for (let row = 0; row < height; row++) {
      const base = (top + row) * stride + left;
      let sum = 0;
      for (let col = 0; col < width; col++) sum += Math.abs(weights[base + col]) * colFactor[col];
      rowFactor[row] = sum > 0 ? 1 / sum : 0;
    }
  }
  let total = 0;
  for (let pass = 0; pass < 2; pass++) {
    const scale = total > 0 ? (height * width) / total : 0;
    for (let row = 0; row < height; row++) {
      const base = (top + row) * stride + left;
      for (let col = 0; col < width; col++) {
        const share = Math.abs(weights[base + col]) * rowFactor[row] * colFactor[col];
        if (pass === 0) total += share;
        else drives[base + col] = share * scale;
      }
    }
  }
}
