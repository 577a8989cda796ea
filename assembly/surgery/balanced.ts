// The balanced flow. Specification: src/flow/balance.ts, whose orders of summation hold here bit for bit.
// Row factors are one f64 per (row, tile column): `rowFactors[row * tiles + tile]`; column factors one f64 a column.

import { finiteMagnitudes4, infinityOf, pattern1, valueOf } from "../shared/weights";

const pad: usize = memory.data(32, 16);
const padFactors: usize = memory.data(64, 16);

// @ts-ignore: decorator
@inline
function finite1<T>(ptr: usize): f64 {
  const pattern = pattern1<T>(ptr);
  return pattern >= infinityOf<T>() ? 0 : <f64>valueOf<T>(pattern);
}

// @ts-ignore: decorator
@inline
function upper(v: v128): v128 {
  return f64x2.promote_low_f32x4(i8x16.shuffle(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 8, 9, 10, 11, 12, 13, 14, 15));
}

/** `colSums[j] += |w_ij|·r_i`, rows from first to last. */
// @ts-ignore: decorator
@inline
function addColumns<T>(data: usize, rows: i32, cols: i32, blockSize: i32, rowFactors: usize, colSums: usize): void {
  let row = data;
  let factor = rowFactors;
  for (let i = 0; i < rows; i++, row += cols * sizeof<T>()) {
    for (let left = 0; left < cols; left += blockSize, factor += 8) {
      const right = min(left + blockSize, cols);
      const r = load<f64>(factor);
      const r2 = f64x2.splat(r);
      let j = left;
      for (; j + 4 <= right; j += 4) {
        const w = finiteMagnitudes4<T>(row + j * sizeof<T>());
        const sums = colSums + j * 8;
        v128.store(sums, f64x2.add(v128.load(sums), f64x2.mul(f64x2.promote_low_f32x4(w), r2)));
        v128.store(sums, f64x2.add(v128.load(sums, 16), f64x2.mul(upper(w), r2)), 16);
      }
      for (; j < right; j++) {
        const sums = colSums + j * 8;
        store<f64>(sums, load<f64>(sums) + finite1<T>(row + j * sizeof<T>()) * r);
      }
    }
  }
}

export function addColumnsBf16(data: usize, rows: i32, cols: i32, blockSize: i32, rowFactors: usize, colSums: usize): void {
  addColumns<u16>(data, rows, cols, blockSize, rowFactors, colSums);
}
export function addColumnsF16(data: usize, rows: i32, cols: i32, blockSize: i32, rowFactors: usize, colSums: usize): void {
  addColumns<i16>(data, rows, cols, blockSize, rowFactors, colSums);
}
export function addColumnsF32(data: usize, rows: i32, cols: i32, blockSize: i32, rowFactors: usize, colSums: usize): void {
  addColumns<f32>(data, rows, cols, blockSize, rowFactors, colSums);
}

/** Sums become factors: `1/sum`, 0 for an empty row or column. */
export function invert(sums: usize, count: i32): void {
  for (let i = 0; i < count; i++) {
    const sum = load<f64>(sums + i * 8);
    store<f64>(sums + i * 8, sum == 0 ? 0 : 1 / sum);
  }
}

/** Row factors from column factors; `totals[tile] += r_i·Σ_j |w|·c_j` for the mean. */
// @ts-ignore: decorator
@inline
function balanceRows<T>(data: usize, rows: i32, cols: i32, blockSize: i32, colFactors: usize, rowFactors: usize, totals: usize): void {
  let row = data;
  let factor = rowFactors;
  for (let i = 0; i < rows; i++, row += cols * sizeof<T>()) {
    let total = totals;
    for (let left = 0; left < cols; left += blockSize, factor += 8, total += 8) {
      const right = min(left + blockSize, cols);
      let lanes01 = f64x2.splat(0);
      let lanes23 = lanes01;
      let lanes45 = lanes01;
      let lanes67 = lanes01;
      let j = left;
      for (; j + 8 <= right; j += 8) {
        const w0 = finiteMagnitudes4<T>(row + j * sizeof<T>());
        const w1 = finiteMagnitudes4<T>(row + (j + 4) * sizeof<T>());
        const c = colFactors + j * 8;
        lanes01 = f64x2.add(lanes01, f64x2.mul(f64x2.promote_low_f32x4(w0), v128.load(c)));
        lanes23 = f64x2.add(lanes23, f64x2.mul(upper(w0), v128.load(c, 16)));
        lanes45 = f64x2.add(lanes45, f64x2.mul(f64x2.promote_low_f32x4(w1), v128.load(c, 32)));
        lanes67 = f64x2.add(lanes67, f64x2.mul(upper(w1), v128.load(c, 48)));
      }
      const rest = right - j;
      if (rest > 0) {
        memory.fill(pad, 0, 32);
        memory.copy(pad, row + j * sizeof<T>(), rest * sizeof<T>());
        memory.fill(padFactors, 0, 64);
        memory.copy(padFactors, colFactors + j * 8, rest * 8);
        const w0 = finiteMagnitudes4<T>(pad);
        const w1 = finiteMagnitudes4<T>(pad + 4 * sizeof<T>());
        lanes01 = f64x2.add(lanes01, f64x2.mul(f64x2.promote_low_f32x4(w0), v128.load(padFactors)));
        lanes23 = f64x2.add(lanes23, f64x2.mul(upper(w0), v128.load(padFactors, 16)));
        lanes45 = f64x2.add(lanes45, f64x2.mul(f64x2.promote_low_f32x4(w1), v128.load(padFactors, 32)));
        lanes67 = f64x2.add(lanes67, f64x2.mul(upper(w1), v128.load(padFactors, 48)));
      }
      const sums = f64x2.add(f64x2.add(lanes01, lanes23), f64x2.add(lanes45, lanes67));
      const sum = f64x2.extract_lane(sums, 0) + f64x2.extract_lane(sums, 1);
      const r: f64 = sum == 0 ? 0 : 1 / sum;
      store<f64>(factor, r);
      store<f64>(total, load<f64>(total) + r * sum);
    }
  }
}

export function balanceRowsBf16(data: usize, rows: i32, cols: i32, blockSize: i32, colFactors: usize, rowFactors: usize, totals: usize): void {
  balanceRows<u16>(data, rows, cols, blockSize, colFactors, rowFactors, totals);
}
export function balanceRowsF16(data: usize, rows: i32, cols: i32, blockSize: i32, colFactors: usize, rowFactors: usize, totals: usize): void {
  balanceRows<i16>(data, rows, cols, blockSize, colFactors, rowFactors, totals);
}
export function balanceRowsF32(data: usize, rows: i32, cols: i32, blockSize: i32, colFactors: usize, rowFactors: usize, totals: usize): void {
  balanceRows<f32>(data, rows, cols, blockSize, colFactors, rowFactors, totals);
}

/** Zeroes every finite weight with `(|w|·r_i)·c_j` under the threshold; counts like `applyCuts16`. */
// @ts-ignore: decorator
@inline
function applyDrives<T>(
  data: usize,
  rows: i32,
  cols: i32,
  blockSize: i32,
  rowFactors: usize,
  colFactors: usize,
  threshold: f64,
  dead: usize,
  zeros: usize,
): void {
  let row = data;
  let factor = rowFactors;
  for (let i = 0; i < rows; i++, row += cols * sizeof<T>()) {
    let tile = 0;
    for (let left = 0; left < cols; left += blockSize, factor += 8, tile++) {
      const right = min(left + blockSize, cols);
      const r = load<f64>(factor);
      let deadHere = 0;
      let zerosHere = 0;
      for (let j = left; j < right; j++) {
        const p = row + j * sizeof<T>();
        const pattern = pattern1<T>(p);
        if (pattern >= infinityOf<T>()) continue;
        if (pattern == 0 || <f64>valueOf<T>(pattern) * r * load<f64>(colFactors + j * 8) < threshold) {
          if (isFloat<T>()) store<u32>(p, 0);
          else store<u16>(p, 0);
          deadHere++;
          if (pattern == 0) zerosHere++;
        }
      }
      store<u32>(dead + tile * 4, load<u32>(dead + tile * 4) + deadHere);
      store<u32>(zeros + tile * 4, load<u32>(zeros + tile * 4) + zerosHere);
    }
  }
}

export function applyDrivesBf16(data: usize, rows: i32, cols: i32, blockSize: i32, rowFactors: usize, colFactors: usize, threshold: f64, dead: usize, zeros: usize): void {
  applyDrives<u16>(data, rows, cols, blockSize, rowFactors, colFactors, threshold, dead, zeros);
}
export function applyDrivesF16(data: usize, rows: i32, cols: i32, blockSize: i32, rowFactors: usize, colFactors: usize, threshold: f64, dead: usize, zeros: usize): void {
  applyDrives<i16>(data, rows, cols, blockSize, rowFactors, colFactors, threshold, dead, zeros);
}
export function applyDrivesF32(data: usize, rows: i32, cols: i32, blockSize: i32, rowFactors: usize, colFactors: usize, threshold: f64, dead: usize, zeros: usize): void {
  applyDrives<f32>(data, rows, cols, blockSize, rowFactors, colFactors, threshold, dead, zeros);
}
