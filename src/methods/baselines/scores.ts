import { PhysariumError } from "../../errors.js";
import { keepPerRow, type PruneResult, type PruneTask } from "../method.js";
import { keepLargest, type Pattern } from "../stages/select.js";

export type Scope = "tensor" | "row";

/**
 * Keep the weights of highest score, exactly as many as the target says, in the whole tensor, in each row, or in each
 * group of a pattern; on a tie the lower index is kept. Survivors keep their value: what every method without an update
 * does once it has its scores.
 */
export function pruneByScores(task: PruneTask, scores: Float32Array, scope: Scope): PruneResult {
  const alive = selectByScores(task, scores, scope);
  const weights = task.weights.slice();
  for (let at = 0; at < weights.length; at++) if (alive[at] === 0) weights[at] = 0;
  return { weights, alive, stages: [] };
}

/** The mask of `pruneByScores`: 1 kept. */
export function selectByScores(task: PruneTask, scores: Float32Array, scope: Scope): Uint8Array {
  const { rows, cols, target } = task;
  const alive = new Uint8Array(rows * cols);
  if (target.kind === "emergent") {
    throw new PhysariumError(
      "USAGE_TARGET",
      `${task.name}: this method has no sparsity of its own; give --sparsity or --pattern`,
      { tensor: task.name },
    );
  }
  if (target.kind === "pattern") selectGroups(scores, rows, cols, target.pattern, alive);
  else if (scope === "tensor") keepLargest(scores, Math.round(rows * cols * (1 - target.sparsity)), alive);
  else {
    const keep = keepPerRow(rows, cols, target.sparsity);
    for (let row = 0; row < rows; row++) {
      const from = row * cols;
      keepLargest(scores.subarray(from, from + cols), keep[row], alive.subarray(from, from + cols));
    }
  }
  return alive;
}

/** alive ← the N largest of every M consecutive columns; a shorter last group keeps its share, rounded up. */
export function selectGroups(
  scores: Float32Array,
  rows: number,
  cols: number,
  pattern: Pattern,
  alive: Uint8Array,
): void {
  for (let row = 0; row < rows; row++) {
    for (let start = 0; start < cols; start += pattern.of) {
      const width = Math.min(pattern.of, cols - start);
      const keep = width === pattern.of ? pattern.keep : Math.ceil((width * pattern.keep) / pattern.of);
      const at = row * cols + start;
      keepLargest(scores.subarray(at, at + width), keep, alive.subarray(at, at + width));
    }
  }
}

/** Mean squared input of each column, the diagonal of the Gram; throws `INTERNAL` where the pipeline gave none. */
export function inputEnergies(task: PruneTask): Float64Array {
  const { cols, energies } = task;
  if (energies !== undefined) return Float64Array.from(energies);
  const gram = gramOf(task);
  return Float64Array.from({ length: cols }, (_, col) => gram[col * cols + col]);
}

export function gramOf(task: PruneTask): Float32Array {
  if (task.inputs === undefined) {
    throw new PhysariumError("INTERNAL", `${task.name}: the method needs input statistics and got none`, {
      tensor: task.name,
    });
  }
  return task.inputs.gram;
}
