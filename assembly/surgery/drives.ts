// Histograms of drives: what `--target-sparsity` searches and the report draws. Bins are the leading bits of the drive
// as f64:
// index = (bits >> 41) − DRIVE_BIN_BASE, so a bin is 2^-11 wide relative to its edge; src/flow/drive-histogram.ts has
// the edges.

import { infinityOf, pattern1, valueOf } from "../shared/weights";

/** Leading bits of 2^-64, the first bin's lower edge. */
const BASE: i64 = (1023 - 64) << 11;
/** 2^-64 … 2^64. */
const BINS: i64 = 128 << 11;

// @ts-ignore: decorator
@inline
function count(histogram: usize, drive: f64): void {
  let bin = (reinterpret<i64>(drive) >> 41) - BASE;
  bin = bin < 0 ? 0 : bin >= BINS ? BINS - 1 : bin;
  const p = histogram + <usize>bin * 4;
  store<u32>(p, load<u32>(p) + 1);
}

/** Counts `|w|/mean` of every weight that is finite and not zero; zeros and the rest are for the caller to know. */
// @ts-ignore: decorator
@inline
function countDrives<T>(data: usize, rows: i32, cols: i32, blockSize: i32, means: usize, histogram: usize): void {
  let row = data;
  for (let i = 0; i < rows; i++, row += cols * sizeof<T>()) {
    let tile = 0;
    for (let left = 0; left < cols; left += blockSize, tile++) {
      const right = min(left + blockSize, cols);
      const mean = load<f64>(means + tile * 8);
      for (let j = left; j < right; j++) {
        const pattern = pattern1<T>(row + j * sizeof<T>());
        if (pattern != 0 && pattern < infinityOf<T>()) count(histogram, <f64>valueOf<T>(pattern) / mean);
      }
    }
  }
}

export function countDrivesBf16(data: usize, rows: i32, cols: i32, blockSize: i32, means: usize, histogram: usize): void {
  countDrives<u16>(data, rows, cols, blockSize, means, histogram);
}
export function countDrivesF16(data: usize, rows: i32, cols: i32, blockSize: i32, means: usize, histogram: usize): void {
  countDrives<i16>(data, rows, cols, blockSize, means, histogram);
}
export function countDrivesF32(data: usize, rows: i32, cols: i32, blockSize: i32, means: usize, histogram: usize): void {
  countDrives<f32>(data, rows, cols, blockSize, means, histogram);
}

/** The same for `(|w|·r_i)·c_j`. */
// @ts-ignore: decorator
@inline
function countBalanced<T>(data: usize, rows: i32, cols: i32, blockSize: i32, rowFactors: usize, colFactors: usize, histogram: usize): void {
  let row = data;
  let factor = rowFactors;
  for (let i = 0; i < rows; i++, row += cols * sizeof<T>()) {
    for (let left = 0; left < cols; left += blockSize, factor += 8) {
      const right = min(left + blockSize, cols);
      const r = load<f64>(factor);
      for (let j = left; j < right; j++) {
        const pattern = pattern1<T>(row + j * sizeof<T>());
        if (pattern != 0 && pattern < infinityOf<T>()) {
          count(histogram, <f64>valueOf<T>(pattern) * r * load<f64>(colFactors + j * 8));
        }
      }
    }
  }
}

export function countBalancedBf16(data: usize, rows: i32, cols: i32, blockSize: i32, rowFactors: usize, colFactors: usize, histogram: usize): void {
  countBalanced<u16>(data, rows, cols, blockSize, rowFactors, colFactors, histogram);
}
export function countBalancedF16(data: usize, rows: i32, cols: i32, blockSize: i32, rowFactors: usize, colFactors: usize, histogram: usize): void {
  countBalanced<i16>(data, rows, cols, blockSize, rowFactors, colFactors, histogram);
}
export function countBalancedF32(data: usize, rows: i32, cols: i32, blockSize: i32, rowFactors: usize, colFactors: usize, histogram: usize): void {
  countBalanced<f32>(data, rows, cols, blockSize, rowFactors, colFactors, histogram);
}
