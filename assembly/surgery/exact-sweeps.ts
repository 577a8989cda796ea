// The contract of src/flow/balance.ts itself, bit for bit, on a tile that lies in memory whole.

import { col64, high, row64, sum64, SWEEPS, tile, width } from "./tile-memory";

/** The contract: eight sweeps in f64, every sum in its order. Factors in `row64` (scaled to mean 1) and `col64`. */
export function exactly(rows: i32, cols: i32, finite: f64): void {
  memory.fill(sum64, 0, width * 8);
  for (let i = 0; i < rows; i++) store<f64>(row64 + i * 8, 1);
  let total: f64 = 0;
  for (let sweep = 0; sweep < SWEEPS; sweep++) {
    if (sweep == 0) for (let i = 0; i < rows; i++) addRowExactly(tile + i * width * 4, 1);
    for (let j = 0; j < width; j++) {
      const sum = load<f64>(sum64 + j * 8);
      store<f64>(col64 + j * 8, sum == 0 ? 0 : 1 / sum);
    }
    const isLast = sweep == SWEEPS - 1;
    if (!isLast) memory.fill(sum64, 0, width * 8);
    for (let i = 0; i < rows; i++) {
      const row = tile + i * width * 4;
      const sum = rowSumExactly(row);
      const r: f64 = sum == 0 ? 0 : 1 / sum;
      store<f64>(row64 + i * 8, r);
      if (isLast) total += r * sum;
      else addRowExactly(row, r);
    }
  }
  const mean = total / finite;
  if (mean > 0) for (let i = 0; i < rows; i++) store<f64>(row64 + i * 8, load<f64>(row64 + i * 8) / mean);
}

// @ts-ignore: decorator
@inline
function addRowExactly(row: usize, r: f64): void {
  const r2 = f64x2.splat(r);
  for (let j: usize = 0; j < <usize>width; j += 4) {
    const w = v128.load(row + j * 4);
    const to = sum64 + j * 8;
    v128.store(to, f64x2.add(v128.load(to), f64x2.mul(f64x2.promote_low_f32x4(w), r2)));
    v128.store(to, f64x2.add(v128.load(to, 16), f64x2.mul(f64x2.promote_low_f32x4(high(w)), r2)), 16);
  }
}

// @ts-ignore: decorator
@inline
function rowSumExactly(row: usize): f64 {
  let lanes01 = f64x2.splat(0);
  let lanes23 = lanes01;
  let lanes45 = lanes01;
  let lanes67 = lanes01;
  for (let j: usize = 0; j < <usize>width; j += 8) {
    const w0 = v128.load(row + j * 4);
    const w1 = v128.load(row + j * 4, 16);
    const c = col64 + j * 8;
    lanes01 = f64x2.add(lanes01, f64x2.mul(f64x2.promote_low_f32x4(w0), v128.load(c)));
    lanes23 = f64x2.add(lanes23, f64x2.mul(f64x2.promote_low_f32x4(high(w0)), v128.load(c, 16)));
    lanes45 = f64x2.add(lanes45, f64x2.mul(f64x2.promote_low_f32x4(w1), v128.load(c, 32)));
    lanes67 = f64x2.add(lanes67, f64x2.mul(f64x2.promote_low_f32x4(high(w1)), v128.load(c, 48)));
  }
  const sums = f64x2.add(f64x2.add(lanes01, lanes23), f64x2.add(lanes45, lanes67));
  return f64x2.extract_lane(sums, 0) + f64x2.extract_lane(sums, 1);
}
