import type { FloatDtype } from "../safetensors/dtypes.js";
import { magnitudeFormat } from "./magnitudes.js";

/** Columns summed in single precision before the sum moves to f64. 16 lanes of 16 additions err by less than 1e-6. */
export const SUM_CHUNK = 256;
const LANES = 16;

/** What a tile's weights add up to. */
export interface TileSum {
  /** Σ|w| over the finite weights. */
  sum: number;
  /** Weights that are NaN or infinite. */
  nonFinite: number;
}

/**
 * Add a rectangle of one tile to its running sum, in the contract's order, which every kernel follows bit for bit:
 *
 * - row by row; within a row, chunks of 256 columns counted from the tile's left edge;
 * - in a chunk, lane `j mod 16` adds the magnitudes of columns j in f32, left to right, from +0;
 * - the lanes are added as vectors of four, `(v0 + v1) + (v2 + v3)` in f32, then `(l0 + l1) + (l2 + l3)` in f64, and
 *   that goes to the f64 sum;
 * - a chunk that is not finite in f32 (an overflow, or weights that are no numbers) is summed again in f64, left to
 *   right, over its finite weights alone.
 *
 * No worker count, band or SIMD width enters, and a tile may be added in any number of row ranges.
 */
export function addToTileSum(
  total: TileSum,
  patterns: Uint16Array | Uint32Array,
  dtype: FloatDtype,
  rows: number,
  cols: number,
  rowStride: number,
  start: number,
): void {
  const format = magnitudeFormat(dtype);
  const lanes = new Float32Array(LANES);
  for (let row = 0; row < rows; row++) {
    for (let chunk = 0; chunk < cols; chunk += SUM_CHUNK) {
      const from = start + row * rowStride + chunk;
      const to = from + Math.min(SUM_CHUNK, cols - chunk);
      lanes.fill(0);
      let finite = true;
      for (let i = from; i < to; i++) {
        const magnitude = patterns[i] & format.magnitudeMask;
        if (magnitude >= format.infinity) finite = false;
        else lanes[(i - from) % LANES] += format.toNumber(magnitude);
      }
      const sum = finite ? addLanes(lanes) : Number.NaN;
      if (Number.isFinite(sum)) {
        total.sum += sum;
        continue;
      }
      let exact = 0;
      for (let i = from; i < to; i++) {
        const magnitude = patterns[i] & format.magnitudeMask;
        if (magnitude >= format.infinity) total.nonFinite++;
        else exact += format.toNumber(magnitude);
      }
      total.sum += exact;
    }
  }
}

function addLanes(lanes: Float32Array): number {
  const { fround } = Math;
  const vector = (i: number) => fround(fround(lanes[i] + lanes[4 + i]) + fround(lanes[8 + i] + lanes[12 + i]));
  return vector(0) + vector(1) + (vector(2) + vector(3));
}

/** The tile's mean magnitude over its finite weights; 0 for a tile of zeros, or one without a finite weight. */
export function meanOf({ sum, nonFinite }: TileSum, elements: number): number {
  return elements === nonFinite ? 0 : sum / (elements - nonFinite);
}
