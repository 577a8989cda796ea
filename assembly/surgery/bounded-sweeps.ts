// Sweeps near the contract of src/flow/balance.ts, and a bound of how near; docs/flows.md has the proof.

import { col32, high, row32, row64, sum32, sum64, SWEEPS, tile, away32, width } from "./tile-memory";

/** Sweeps in f32 at most: what is left of eight must pull the contract's own path to the fixed point. */
const MAX_SINGLE: i32 = 5;
/** Unit roundoff of f32. */
const U: f64 = 5.9604644775390625e-8;
/** Rows whose column sums stay in f32. */
const FLUSH: i32 = 32;
/** Sums inside are far from f32's limits: a product that underflows loses less than 2^-80 of its sum. */
const SMALLEST: f64 = 8.673617379884035e-19; // 2^-60
const LARGEST: f64 = 1.152921504606847e18; // 2^60
/** A change of the rows' factors after which one more sweep is near enough. */
const NEAR: f64 = 3e-3;
/** Distance of states from the last factors in which τ, with its slack, holds. */
const BALL: f64 = 6e-3;

let rowTau: f64 = 0;
let colTau: f64 = 0;

/** `sum32 += w·r` of one row. */
// @ts-ignore: decorator
@inline
function addRow(row: usize, r: f32): void {
  const r4 = f32x4.splat(r);
  for (let j: usize = 0; j < <usize>width * 4; j += 16) {
    v128.store(sum32 + j, f32x4.add(v128.load(sum32 + j), f32x4.mul(v128.load(row + j), r4)));
  }
}

/** What the sums of some rows gathered goes into f64, so that f32 rounds few additions of a column. */
// @ts-ignore: decorator
@inline
function flush(): void {
  const zero = f32x4.splat(0);
  for (let j: usize = 0; j < <usize>width; j += 4) {
    const v = v128.load(sum32 + j * 4);
    const to = sum64 + j * 8;
    v128.store(to, f64x2.add(v128.load(to), f64x2.promote_low_f32x4(v)));
    v128.store(to, f64x2.add(v128.load(to, 16), f64x2.promote_low_f32x4(high(v))), 16);
    v128.store(sum32 + j * 4, zero);
  }
}

/** Column factors from sums, in f32; false where a sum is out of range. Empties the sums. */
function invertColumns(cols: i32): bool {
  for (let j = 0; j < cols; j++) {
    const sum = load<f64>(sum64 + j * 8);
    if (!(sum > SMALLEST && sum < LARGEST)) return false;
    store<f32>(col32 + j * 4, <f32>(1 / sum));
  }
  for (let j = cols; j < width; j++) store<f32>(col32 + j * 4, 0);
  memory.fill(sum64, 0, width * 8);
  return true;
}

/** `Σ_j w·c_j` of a row in sixteen lanes of f32. */
// @ts-ignore: decorator
@inline
function rowSum(row: usize): f64 {
  let a = f32x4.splat(0);
  let b = a;
  let c = a;
  let d = a;
  for (let j: usize = 0; j < <usize>width * 4; j += 64) {
    const at = row + j;
    const by = col32 + j;
    a = f32x4.add(a, f32x4.mul(v128.load(at), v128.load(by)));
    b = f32x4.add(b, f32x4.mul(v128.load(at, 16), v128.load(by, 16)));
    c = f32x4.add(c, f32x4.mul(v128.load(at, 32), v128.load(by, 32)));
    d = f32x4.add(d, f32x4.mul(v128.load(at, 48), v128.load(by, 48)));
  }
  const v = f32x4.add(f32x4.add(a, b), f32x4.add(c, d));
  return (
    <f64>f32x4.extract_lane(v, 0) +
    <f64>f32x4.extract_lane(v, 1) +
    (<f64>f32x4.extract_lane(v, 2) + <f64>f32x4.extract_lane(v, 3))
  );
}

/** A sweep in f32, the column sums of the next one beside it; the change of the row factors, −1 out of range. */
function singleSweep(rows: i32, cols: i32, isFirst: bool): f64 {
  if (!invertColumns(cols)) return -1;
  let least: f64 = f64.MAX_VALUE;
  let most: f64 = 0;
  for (let i = 0; i < rows; i++) {
    const row = tile + i * width * 4;
    const sum = rowSum(row);
    if (!(sum > SMALLEST && sum < LARGEST)) return -1;
    const r: f32 = <f32>(1 / sum);
    const change = isFirst ? <f64>r : <f64>r / <f64>load<f32>(row32 + i * 4);
    least = min(least, change);
    most = max(most, change);
    store<f32>(row32 + i * 4, r);
    addRow(row, r);
    if (i % FLUSH == FLUSH - 1) flush();
  }
  flush();
  return most / least - 1;
}

/** The last sweep in f32, which measures how far shares are from equal; column sums in f64. The change, or −1. */
function lastSingleSweep(rows: i32, cols: i32): f64 {
  if (!invertColumns(cols)) return -1;
  let least: f64 = f64.MAX_VALUE;
  let most: f64 = 0;
  const equal = f32x4.splat(1 / <f32>cols);
  memory.fill(away32, 0, width * 4);
  let rowAway: f32 = 0;
  for (let i = 0; i < rows; i++) {
    const row = tile + i * width * 4;
    const sum = rowSum(row);
    if (!(sum > SMALLEST && sum < LARGEST)) return -1;
    const r: f32 = <f32>(1 / sum);
    const change = <f64>r / <f64>load<f32>(row32 + i * 4);
    least = min(least, change);
    most = max(most, change);
    store<f32>(row32 + i * 4, r);
    const r4 = f32x4.splat(r);
    let rowLanes = f32x4.splat(0);
    for (let j: usize = 0; j < <usize>width; j += 4) {
      const drawn = f32x4.mul(v128.load(row + j * 4), r4);
      const to = sum64 + j * 8;
      v128.store(to, f64x2.add(v128.load(to), f64x2.promote_low_f32x4(drawn)));
      v128.store(to, f64x2.add(v128.load(to, 16), f64x2.promote_low_f32x4(high(drawn))), 16);
      const off = f32x4.abs(f32x4.sub(f32x4.mul(drawn, v128.load(col32 + j * 4)), equal));
      rowLanes = f32x4.add(rowLanes, off);
      v128.store(away32 + j * 4, f32x4.add(v128.load(away32 + j * 4), off));
    }
    rowAway = max(
      rowAway,
      f32x4.extract_lane(rowLanes, 0) +
        f32x4.extract_lane(rowLanes, 1) +
        (f32x4.extract_lane(rowLanes, 2) + f32x4.extract_lane(rowLanes, 3)),
    );
  }
  let colAway: f32 = 0;
  for (let j = 0; j < cols; j++) colAway = max(colAway, load<f32>(away32 + j * 4));
  // Padding stands 1/n away from equal, each.
  rowTau = <f64>rowAway - <f64>(width - cols) / <f64>cols;
  colTau = (<f64>colAway * <f64>cols) / <f64>rows;
  return most / least - 1;
}

/** The sweep after it, sums in f64; the change of the row factors, −1 out of range. */
function doubleSweep(rows: i32, cols: i32): f64 {
  if (!invertColumns(cols)) return -1;
  let least: f64 = f64.MAX_VALUE;
  let most: f64 = 0;
  for (let i = 0; i < rows; i++) {
    const row = tile + i * width * 4;
    let a = f64x2.splat(0);
    let b = a;
    let c = a;
    let d = a;
    for (let j: usize = 0; j < <usize>width * 4; j += 32) {
      const v = f32x4.mul(v128.load(row + j), v128.load(col32 + j));
      const w = f32x4.mul(v128.load(row + j, 16), v128.load(col32 + j, 16));
      a = f64x2.add(a, f64x2.promote_low_f32x4(v));
      b = f64x2.add(b, f64x2.promote_low_f32x4(high(v)));
      c = f64x2.add(c, f64x2.promote_low_f32x4(w));
      d = f64x2.add(d, f64x2.promote_low_f32x4(high(w)));
    }
    const sums = f64x2.add(f64x2.add(a, b), f64x2.add(c, d));
    const sum = f64x2.extract_lane(sums, 0) + f64x2.extract_lane(sums, 1);
    if (!(sum > SMALLEST && sum < LARGEST)) return -1;
    const r = 1 / sum;
    const change = r / <f64>load<f32>(row32 + i * 4);
    least = min(least, change);
    most = max(most, change);
    store<f64>(row64 + i * 8, r);
  }
  return most / least - 1;
}

/**
 * Factors near the contract's, in `row64` and `col32`.
 *
 * returns  a bound of |ln y − ln y_contract| over the tile's drives; 1 where there is none worth having
 */
export function bounded(rows: i32, cols: i32): f64 {
  memory.fill(sum32, 0, width * 4);
  memory.fill(sum64, 0, width * 8);
  for (let i = 0; i < rows; i++) {
    addRow(tile + i * width * 4, 1);
    if (i % FLUSH == FLUSH - 1) flush();
  }
  flush();
  let sweeps = 0;
  let change: f64 = 1;
  while (change > NEAR) {
    if (++sweeps >= MAX_SINGLE) return 1;
    change = singleSweep(rows, cols, sweeps == 1);
    if (change < 0) return 1;
  }
  sweeps++;
  const last = lastSingleSweep(rows, cols);
  if (last < 0 || last > NEAR) return 1;
  change = doubleSweep(rows, cols);
  if (change < 0) return 1;
  // Within BALL of these factors every share is within e^(BALL + last) of what was measured, in f32 to 1e-4.
  const slack: f64 = 0.01;
  const tauRow = rowTau + slack;
  const tauCol = colTau + slack;
  const tau = tauRow * tauCol;
  if (!(tauRow < 0.95 && tauCol < 0.95)) return 1;
  // Rounding of the sweep in f64: a product of two f32, a factor as f32; the spans are twice that.
  const colError = 4 * U;
  const rowError = 2 * U;
  const sweepError = tauRow * colError + rowError;
  const toFixed = (change + sweepError) / (1 - tau);
  // Rounding of the sweeps in f32 can only add up; the contract's own sweeps from there on contract it.
  const colAdds = <f64>(min(rows, FLUSH) + 4);
  const rowAdds = <f64>(width / 16 + 6);
  const path = <f64>sweeps * 2 * U * (colAdds + rowAdds) + toFixed;
  if (!(path < BALL)) return 1;
  let contracted: f64 = path;
  for (let k = sweeps; k < SWEEPS - 1; k++) contracted *= tau;
  const contractCol = contracted * tauCol;
  const contractRow = contracted * tau;
  const ours = tau * toFixed + sweepError + tauCol * toFixed + colError;
  // 8 U: the mean, the drive as a product in f32, the limits as f32; 1e-9: what f64 rounds, here and in the contract.
  return ours + contractRow + contractCol + 8 * U + 1e-9;
}
