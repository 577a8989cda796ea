import { unwrapped } from "../checkpoint/adapter-names.js";

/**
 * What ties a healed tensor to its donor. Healing moves survivors, so they cannot be compared bit by bit; but a matrix
 * that was healed still does roughly what the donor's does. Both sides are given one input that nobody chose, and every
 * row is compared.
 *
 * The numbers depend on the bytes of donor and output and on the tensor's name alone: verify computes them again and
 * expects the very same ones, and holds them to limits that stand in its own code (src/audit/healing-limits.ts).
 */
export interface Evidence {
  /** `signs`: an input of ±1, drawn by `probeSigns` from the tensor's name. */
  readonly probe: "signs";
  /** ‖(W′ − W) x‖ / ‖W x‖ over all rows of all matrices; 0 where the donor answers 0. */
  readonly output_error: number;
  /** ⟨W′, W⟩ / (‖W′‖ ‖W‖) over the weights that live; 1 where none does. */
  readonly survivor_cosine: number;
  /** Of the living weights that the donor has, too, the share that kept its sign. */
  readonly signs_kept: number;
  /** Largest ‖w′‖ / ‖w‖ of a row: no row may be blown up. 0 where all rows are empty. */
  readonly largest_row_gain: number;
  /** Rows whose living weights point away from the donor's: ⟨w′, w⟩ < 0. */
  readonly rows_turned: number;
}

/** Doubles that `compareRows` finds of a row; in this order. */
const FIELDS = ["error", "answer", "product", "living", "donorLiving", "whole", "shared", "kept"] as const;

/**
 * The input of a tensor's probe: (cols) of ±1, from the FNV-1a hash of its name by mulberry32. A wrapper's part of the
 * name does not count: a forward pass does not know it.
 */
export function probeSigns(tensor: string, cols: number): Float64Array {
  const name = unwrapped(tensor);
  let state = 0x811c9dc5;
  for (let i = 0; i < name.length; i++) state = Math.imul(state ^ name.charCodeAt(i), 0x01000193) >>> 0;
  const next = seededBits(state);
  return Float64Array.from({ length: cols }, () => ((next() & 1) === 0 ? 1 : -1));
}

/** mulberry32: 32 bits a call. */
export function seededBits(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return (t ^ (t >>> 14)) >>> 0;
  };
}

/**
 * Compare rows of a matrix with the donor's. Each row is summed up on its own, so that it does not matter how many are
 * seen at once.
 *
 * before, after   the same rows as the file has them, (rows, cols); what is not finite counts as 0
 * signs           `probeSigns` of the tensor
 * returns         (rows, 8) doubles for `evidenceOf`
 */
export function compareRows(before: Float32Array, after: Float32Array, signs: Float64Array): Float64Array {
  const cols = signs.length;
  const rows = before.length / cols;
  const found = new Float64Array(rows * FIELDS.length);
  for (let row = 0; row < rows; row++) {
    let [error, answer, product, living, donorLiving, whole, shared, kept] = [0, 0, 0, 0, 0, 0, 0, 0];
    for (let col = 0; col < cols; col++) {
      let w = before[row * cols + col];
      let v = after[row * cols + col];
      if (!Number.isFinite(w)) w = 0;
      if (!Number.isFinite(v)) v = 0;
      answer += w * signs[col];
      error += (v - w) * signs[col];
      whole += w * w;
      if (v === 0) continue;
      product += v * w;
      living += v * v;
      donorLiving += w * w;
      if (w === 0) continue;
      shared++;
      if (v > 0 === w > 0) kept++;
    }
    found.set([error, answer, product, living, donorLiving, whole, shared, kept], row * FIELDS.length);
  }
  return found;
}

/** The evidence of a tensor from its rows, pieces of them in order. */
export function evidenceOf(pieces: Iterable<Float64Array>): Evidence {
  let [errors, answers, products, livings, donorLivings, shares, keeps] = [0, 0, 0, 0, 0, 0, 0];
  let largest_row_gain = 0;
  let rows_turned = 0;
  for (const piece of pieces) {
    for (let at = 0; at < piece.length; at += FIELDS.length) {
      const [error, answer, product, living, donorLiving, whole, shared, kept] = piece.subarray(at, at + FIELDS.length);
      errors += error * error;
      answers += answer * answer;
      products += product;
      livings += living;
      donorLivings += donorLiving;
      shares += shared;
      keeps += kept;
      if (product < 0) rows_turned++;
      if (living === 0) continue;
      // JSON has no infinity: a row that the donor left empty.
      const gain = whole === 0 ? Number.MAX_VALUE : Math.sqrt(living / whole);
      largest_row_gain = Math.max(largest_row_gain, gain);
    }
  }
  return {
    probe: "signs",
    output_error: answers === 0 ? 0 : Math.sqrt(errors / answers),
    survivor_cosine: livings === 0 || donorLivings === 0 ? 1 : products / Math.sqrt(livings * donorLivings),
    signs_kept: shares === 0 ? 1 : keeps / shares,
    largest_row_gain,
    rows_turned,
  };
}
