import { PhysariumError } from "../errors.js";
import { type BlockLevels, type CompensatedType, gridOf } from "./block-levels.js";
import { TENSOR_TYPES, tensorBytes } from "./gguf/types.js";
import type { Quantiser } from "./quantiser.js";

/** left (m, k) · right (k, n) → (m, n), f32 row-major. */
export type Multiply = (
  left: Float32Array,
  right: Float32Array,
  m: number,
  k: number,
  n: number,
) => Promise<Float32Array>;

export interface CompensationTask {
  readonly type: CompensatedType;
  /** (rows, cols), row-major; changed on the way. */
  readonly weights: Float32Array;
  readonly cols: number;
  /** U, upper triangular (cols, cols), with (G + ρI)⁻¹ = Uᵀ U: see `inverseFactor`. */
  readonly upper: Float32Array;
  /** Weights that are zero stay so, whatever the type's grid. */
  readonly keepsZeros: boolean;
}

/**
 * Round a matrix to a GGUF type column by column, each column's error passed on to the columns not yet visited through
 * the inverse Gram of its inputs, so that the *product* with the inputs suffers least. Order: as the columns lie, since
 * blocks lie so. A block's scales are fitted when the sweep reaches it, from weights that earlier columns have moved, a
 * column counting by what its error will still cost: 1/U_jj².
 *
 * returns  whole blocks, row after row
 * source: GPTQ, arXiv:2210.17323, on the grids of GGUF
 */
export async function compensate(
  task: CompensationTask,
  quantiser: Quantiser,
  multiply: Multiply,
): Promise<Uint8Array> {
  const { type, weights, cols, upper, keepsZeros } = task;
  const { blockLength: span, blockBytes } = TENSOR_TYPES[type];
  const rows = weights.length / cols;
  if (cols % span !== 0) throw new PhysariumError("INTERNAL", `${cols} columns are no whole number of ${type} blocks`);
  const zeros = keepsZeros ? Uint8Array.from(weights, (weight) => (weight === 0 ? 1 : 0)) : undefined;
  const rowBytes = tensorBytes(type, cols);
  const out = new Uint8Array(rows * rowBytes);
  const part = new Float32Array(rows * span);
  for (let start = 0; start < cols; start += span) {
    for (let row = 0; row < rows; row++) {
      part.set(weights.subarray(row * cols + start, row * cols + start + span), row * span);
    }
    const importance = Float32Array.from({ length: span }, (_, col) => 1 / upper[(start + col) * (cols + 1)] ** 2);
    const isDead = zeros === undefined ? undefined : spanOf(zeros, rows, cols, start, span);
    const blocks = gridOf(type, part, importance, isDead, quantiser);
    const factor = upperSpan(upper, cols, start, span);
    const errors = roundSpan(part, blocks, factor, span, isDead);
    for (let row = 0; row < rows; row++) {
      const to = row * rowBytes + (start / span) * blockBytes;
      out.set(blocks.bytes.subarray(row * blockBytes, (row + 1) * blockBytes), to);
    }
    const rest = cols - start - span;
    if (rest === 0) break;
    const spread = new Float32Array(span * rest);
    for (let col = 0; col < span; col++) {
      const from = (start + col) * cols + start + span;
      spread.set(upper.subarray(from, from + rest), col * rest);
    }
    const passed = await multiply(errors, spread, rows, span, rest);
    for (let row = 0; row < rows; row++) {
      const base = row * cols + start + span;
      for (let col = 0; col < rest; col++) weights[base + col] -= passed[row * rest + col];
    }
  }
  return out;
}

/** Round the columns of a span one after the other; what is returned, (rows, span), goes on to the columns behind. */
function roundSpan(
  part: Float32Array,
  blocks: BlockLevels,
  factor: Float32Array,
  span: number,
  isDead: Uint8Array | undefined,
): Float32Array {
  const rows = part.length / span;
  const errors = new Float32Array(rows * span);
  const { steps, shifts, least, most, groupLength, zeroLevel } = blocks;
  const groups = span / groupLength;
  const levels = new Int16Array(span);
  for (let row = 0; row < rows; row++) {
    const base = row * span;
    for (let col = 0; col < span; col++) {
      const at = base + col;
      const group = row * groups + Math.floor(col / groupLength);
      const step = steps[group];
      const shift = shifts[group];
      const weight = part[at];
      let level = 0;
      if (isDead !== undefined && isDead[at] === 1) level = zeroLevel;
      else if (step !== 0) level = Math.min(most, Math.max(least, Math.round((weight + shift) / step)));
      levels[col] = level;
      const pivot = col * span + col;
      const error = (weight - (step * level - shift)) / factor[pivot];
      errors[at] = error;
      for (let ahead = 1; ahead < span - col; ahead++) part[at + ahead] -= error * factor[pivot + ahead];
    }
    blocks.store(row, levels);
  }
  return errors;
}

function spanOf(values: Uint8Array, rows: number, cols: number, start: number, span: number): Uint8Array {
  const part = new Uint8Array(rows * span);
  for (let row = 0; row < rows; row++) {
    part.set(values.subarray(row * cols + start, row * cols + start + span), row * span);
  }
  return part;
}

function upperSpan(upper: Float32Array, cols: number, start: number, span: number): Float32Array {
  const part = new Float32Array(span * span);
  for (let row = 0; row < span; row++) {
    const from = (start + row) * cols + start;
    part.set(upper.subarray(from, from + span), row * span);
  }
  return part;
}
