import { refuseStopped } from "../../errors.js";
import { blockedFactor } from "../algebra/blocked-factor.js";
import { cholesky, invertLower } from "../algebra/cholesky.js";
import { dampingOf } from "../algebra/damped.js";
import type { PruneMethod, PruneResult, PruneTask } from "../method.js";
import { gramOf, selectByScores, selectGroups } from "./scores.js";

/** Columns whose mask is chosen together and whose errors are passed on lazily; the authors' blocksize. */
const BLOCK = 128;

/** Below so many inputs 128 of them are more than an eighth of the matrix. */
const NARROW_WIDTH = 1024;
const NARROW_SHARE = 1 / 8;

/**
 * Column by column, each dead weight's error is passed on to the columns not yet visited, through the Cholesky factor
 * of the inverse Gram; the mask is chosen block by block by w²/(U_jj)², over all rows of the block.
 * source: Frantar & Alistarh 2023, https://arxiv.org/abs/2301.00774; their sparsegpt.py. Differs in one point: exactly
 * k weights of a block go (theirs removes k + 1, `<=` a threshold).
 */
export const sparsegpt = sparsegptIn("sparsegpt", "SparseGPT", () => BLOCK);

/**
 * The same with mask blocks of min(128, width/8) where a matrix has less than 1,024 inputs: of 64 inputs a block of 128
 * is all, and no choice knows what earlier errors have moved.
 */
export const sparsegptNarrow = sparsegptIn("sparsegpt-narrow", "SparseGPT, mask blocks of width/8", (cols) =>
  cols < NARROW_WIDTH ? Math.max(1, Math.min(BLOCK, Math.floor(cols * NARROW_SHARE))) : BLOCK,
);

function sparsegptIn(name: string, title: string, blockOf: (cols: number) => number): PruneMethod {
  return {
    name,
    title,
    reference: "https://arxiv.org/abs/2301.00774",
    needs: "gram",
    steps: "layer",
    prune: (task) => prune(task, blockOf(task.cols)),
  };
}

/** Up to so many inputs the factor takes f64 loops a second. */
const PLAIN_LIMIT = 1024;

async function prune(task: PruneTask, maskBlock: number): Promise<PruneResult> {
  const { rows, cols, target, engine, signal } = task;
  const weights = task.weights.slice();
  const gram = gramOf(task).slice();
  // Inputs that never fire: their weights go first, and stand in nobody's way.
  for (let col = 0; col < cols; col++) {
    if (gram[col * cols + col] !== 0) continue;
    gram[col * cols + col] = 1;
    for (let row = 0; row < rows; row++) weights[row * cols + col] = 0;
  }
  const upper = await inverseFactor(gram, cols, task);
  const alive = new Uint8Array(rows * cols);
  // A group of a pattern never straddles two blocks.
  const group = target.kind === "pattern" ? target.pattern.of : 1;
  const block = Math.max(maskBlock - (maskBlock % group), group);
  for (let start = 0; start < cols; start += block) {
    refuseStopped(signal);
    const width = Math.min(block, cols - start);
    const mask = chooseMask(task, weights, upper, start, width);
    const errors = new Float32Array(rows * width);
    for (let row = 0; row < rows; row++) {
      const base = row * cols + start;
      for (let col = 0; col < width; col++) {
        // Groups choose when the sweep reaches them, from weights that earlier columns have already moved.
        if (target.kind === "pattern" && col % target.pattern.of === 0) {
          chooseGroup(
            weights,
            upper,
            cols,
            row,
            start + col,
            Math.min(target.pattern.of, width - col),
            target.pattern,
            mask.subarray(row * width + col),
          );
        }
        const kept = mask[row * width + col];
        alive[base + col] = kept;
        const weight = weights[base + col];
        const pivot = (start + col) * cols + start + col;
        const error = kept === 1 ? 0 : weight / upper[pivot];
        errors[row * width + col] = error;
        if (error === 0) {
          if (kept === 0) weights[base + col] = 0;
          continue;
        }
        for (let ahead = 0; ahead < width - col; ahead++) weights[base + col + ahead] -= error * upper[pivot + ahead];
        weights[base + col] = 0;
      }
    }
    const end = start + width;
    const rest = cols - end;
    if (rest === 0) break;
    const spread = new Float32Array(width * rest);
    for (let col = 0; col < width; col++) {
      spread.set(upper.subarray((start + col) * cols + end, (start + col + 1) * cols), col * rest);
    }
    const passed = await engine.multiply(errors, spread, rows, width, rest);
    for (let row = 0; row < rows; row++) {
      for (let col = 0; col < rest; col++) weights[row * cols + end + col] -= passed[row * rest + col];
    }
  }
  return { weights, alive, stages: [] };
}

/**
 * U, upper triangular, with (G + ρI)⁻¹ = Uᵀ U. Flipping rows and columns turns the wanted factor into the inverse of an
 * ordinary one: with J(G + ρI)J = L Lᵀ, U = J L⁻¹ J.
 */
export async function inverseFactor(
  gram: Float32Array,
  n: number,
  { engine, signal }: Pick<PruneTask, "engine" | "signal">,
  plainLimit = PLAIN_LIMIT,
): Promise<Float32Array | Float64Array> {
  const damping = dampingOf(gram, n);
  const isPlain = n <= plainLimit;
  const flipped = isPlain ? new Float64Array(n * n) : new Float32Array(n * n);
  for (let row = 0; row < n; row++) {
    for (let col = 0; col < n; col++) flipped[(n - 1 - row) * n + (n - 1 - col)] = gram[row * n + col];
  }
  for (let at = 0; at < n; at++) flipped[at * n + at] += damping;
  if (flipped instanceof Float64Array) return invertLower(cholesky(flipped, n), n).reverse();
  return (await blockedFactor(flipped, n, engine, { floor: 1e-6 * damping, signal })).reverse();
}

/** Mask of a block (rows, width), 1 kept; all 1 for patterns, which choose on the way. */
function chooseMask(
  task: PruneTask,
  weights: Float32Array,
  upper: Float32Array | Float64Array,
  start: number,
  width: number,
): Uint8Array {
  const { rows, cols, target } = task;
  if (target.kind === "pattern") return new Uint8Array(rows * width).fill(1);
  const scores = new Float32Array(rows * width);
  for (let row = 0; row < rows; row++) {
    for (let col = 0; col < width; col++) {
      scores[row * width + col] = (weights[row * cols + start + col] / upper[(start + col) * (cols + 1)]) ** 2;
    }
  }
  return selectByScores({ ...task, cols: width }, scores, "tensor");
}

function chooseGroup(
  weights: Float32Array,
  upper: Float32Array | Float64Array,
  cols: number,
  row: number,
  from: number,
  width: number,
  pattern: { keep: number; of: number },
  mask: Uint8Array,
): void {
  const scores = new Float32Array(width);
  for (let col = 0; col < width; col++) {
    scores[col] = (weights[row * cols + from + col] / upper[(from + col) * (cols + 1)]) ** 2;
  }
  selectGroups(scores, 1, width, pattern, mask.subarray(0, width));
}
