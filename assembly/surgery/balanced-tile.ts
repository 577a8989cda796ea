// The balanced flow of one tile that lies in memory whole, to the bytes of src/flow/balance.ts in a fraction of its
// time. docs/flows.md has the proof; in short:
//
// 1. `bounded` runs the first sweeps in f32 and one more with sums in f64, and bounds how far its drives can be from
//    the contract's. With span(x) = max ln x − min ln x, half a sweep contracts the distance between two states by
//    τ ≤ max Σ|P − 1/n|, P the shares that rows (columns) draw from columns (rows): Dobrushin's coefficient of a
//    stochastic matrix, here of the map's derivative. So both the fixed point and the contract's eighth sweep are near.
// 2. Weights outside that bound of the threshold are decided; their decision is the contract's.
// 3. A tile with an undecided weight, or without a bound worth having, is done again by `exact`, the contract itself.

import { finiteMagnitudes4, infinityOf, pattern1 } from "../shared/weights";

const SWEEPS: i32 = 8;
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

let width: i32 = 0; // columns, padded to sixteen
let tile: usize = 0; // f32 (rows, width): magnitudes, NaN and infinities as 0
let col32: usize = 0; // f32 (width): column factors
let sum32: usize = 0; // f32 (width): column sums of some rows
let away32: usize = 0; // f32 (width): Σ|P − 1/n| a column
let row32: usize = 0; // f32 (rows): row factors
let sum64: usize = 0; // f64 (width): column sums
let col64: usize = 0; // f64 (width): column factors
let row64: usize = 0; // f64 (rows): row factors
let rowTau: f64 = 0;
let colTau: f64 = 0;

/** Bytes of scratch that a tile of `rows` × `cols` needs. */
export function balanceScratch(rows: i32, cols: i32): i32 {
  const w = (cols + 15) & ~15;
  return rows * w * 4 + w * 28 + ((rows + 3) & ~3) * 12;
}

function place(scratch: usize, rows: i32, cols: i32): void {
  width = (cols + 15) & ~15;
  const padded = (rows + 3) & ~3;
  tile = scratch;
  col32 = tile + rows * width * 4;
  sum32 = col32 + width * 4;
  away32 = sum32 + width * 4;
  row32 = away32 + width * 4;
  sum64 = row32 + padded * 4;
  col64 = sum64 + width * 8;
  row64 = col64 + width * 8;
}

/** Magnitudes of the tile as f32, and the column sums of a first sweep, whose row factors are 1. */
// @ts-ignore: decorator
@inline
function take<T>(data: usize, rows: i32, cols: i32, stride: i32): void {
  const whole = cols & ~3;
  for (let i = 0; i < rows; i++) {
    const from = data + i * stride * sizeof<T>();
    const to = tile + i * width * 4;
    let j = 0;
    for (; j < whole; j += 4) v128.store(to + j * 4, finiteMagnitudes4<T>(from + j * sizeof<T>()));
    if (j < width) memory.fill(to + j * 4, 0, (width - j) * 4);
    for (; j < cols; j++) {
      const pattern = pattern1<T>(from + j * sizeof<T>());
      if (pattern < infinityOf<T>()) store<f32>(to + j * 4, valueAt<T>(from + j * sizeof<T>()));
    }
  }
}

/** One weight's magnitude, exact. */
// @ts-ignore: decorator
@inline
function valueAt<T>(ptr: usize): f32 {
  if (isFloat<T>()) return reinterpret<f32>(load<u32>(ptr) & 0x7fffffff);
  const pattern = <u32>load<u16>(ptr) & 0x7fff;
  if (isSigned<T>()) return reinterpret<f32>(pattern << 13) * reinterpret<f32>(0x77800000);
  return reinterpret<f32>(pattern << 16);
}

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

// @ts-ignore: decorator
@inline
function high(v: v128): v128 {
  return i8x16.shuffle(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 8, 9, 10, 11, 12, 13, 14, 15);
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
function bounded(rows: i32, cols: i32): f64 {
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

/** The contract: eight sweeps in f64, every sum in its order. Factors in `row64` (scaled to mean 1) and `col64`. */
function exactly(rows: i32, cols: i32, finite: f64): void {
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

/** Zeroes what the contract's factors starve. What `applyBounded` zeroed before is dead here, too. */
// @ts-ignore: decorator
@inline
function applyExactly<T>(data: usize, rows: i32, cols: i32, stride: i32, threshold: f64, dead: usize, zeros: usize): void {
  let deadHere = 0;
  let zerosHere = 0;
  for (let i = 0; i < rows; i++) {
    const r = load<f64>(row64 + i * 8);
    for (let j = 0; j < cols; j++) {
      const p = data + (i * stride + j) * sizeof<T>();
      const w = load<f32>(tile + (i * width + j) * 4);
      if (!(w == 0 || <f64>w * r * load<f64>(col64 + j * 8) < threshold)) continue;
      // NaN and infinities stand at 0 in the tile and stay what they are.
      if (w == 0 && pattern1<T>(p) >= infinityOf<T>()) continue;
      if (isFloat<T>()) store<u32>(p, 0);
      else store<u16>(p, 0);
      deadHere++;
      if (w == 0) zerosHere++;
    }
  }
  store<u32>(dead, load<u32>(dead) + deadHere);
  store<u32>(zeros, load<u32>(zeros) + zerosHere);
}

/** Zeroes what is under the threshold by more than the bound; false where a weight is nearer than that. */
// @ts-ignore: decorator
@inline
function applyBounded<T>(data: usize, rows: i32, cols: i32, stride: i32, threshold: f64, bound: f64, dead: usize, zeros: usize): bool {
  const low: f32 = <f32>(threshold * (1 - 1.01 * bound));
  const high: f32 = <f32>(threshold * (1 + 1.01 * bound));
  const low4 = f32x4.splat(low);
  const high4 = f32x4.splat(high);
  // The mean drive: every row draws one unit.
  const perUnit = <f64>cols;
  const none = i32x4.splat(0);
  let near = none;
  let deadLanes = none;
  let zeroLanes = none;
  const whole = cols & ~7;
  let deadHere = 0;
  let zerosHere = 0;
  for (let i = 0; i < rows; i++) {
    const row = tile + i * width * 4;
    const r: f32 = <f32>(load<f64>(row64 + i * 8) * perUnit);
    const r4 = f32x4.splat(r);
    const to = data + i * stride * sizeof<T>();
    let j = 0;
    for (; j < whole; j += 8) {
      const w0 = v128.load(row + j * 4);
      const w1 = v128.load(row + j * 4, 16);
      const y0 = f32x4.mul(f32x4.mul(w0, r4), v128.load(col32 + j * 4));
      const y1 = f32x4.mul(f32x4.mul(w1, r4), v128.load(col32 + j * 4, 16));
      const dead0 = f32x4.lt(y0, low4);
      const dead1 = f32x4.lt(y1, low4);
      near = v128.or(near, v128.or(v128.andnot(f32x4.lt(y0, high4), dead0), v128.andnot(f32x4.lt(y1, high4), dead1)));
      deadLanes = i32x4.sub(deadLanes, i32x4.add(dead0, dead1));
      zeroLanes = i32x4.sub(zeroLanes, i32x4.add(i32x4.eq(w0, none), i32x4.eq(w1, none)));
      const p = to + j * sizeof<T>();
      if (isFloat<T>()) {
        v128.store(p, v128.andnot(v128.load(p), dead0));
        v128.store(p, v128.andnot(v128.load(p, 16), dead1), 16);
      } else {
        v128.store(p, v128.andnot(v128.load(p), i16x8.narrow_i32x4_s(dead0, dead1)));
      }
    }
    for (; j < cols; j++) {
      const w = load<f32>(row + j * 4);
      const y = w * r * load<f32>(col32 + j * 4);
      if (y < low) {
        const p = to + j * sizeof<T>();
        if (isFloat<T>()) store<u32>(p, 0);
        else store<u16>(p, 0);
        deadHere++;
        if (w == 0) zerosHere++;
      } else if (y < high) return false;
    }
    if (v128.any_true(near)) return false;
  }
  store<u32>(dead, load<u32>(dead) + deadHere + total(deadLanes));
  store<u32>(zeros, load<u32>(zeros) + zerosHere + total(zeroLanes));
  return true;
}

// @ts-ignore: decorator
@inline
function total(v: v128): i32 {
  return i32x4.extract_lane(v, 0) + i32x4.extract_lane(v, 1) + i32x4.extract_lane(v, 2) + i32x4.extract_lane(v, 3);
}

/**
 * One tile of `rows` × `cols` weights, rows `stride` weights apart: the dead become 0 and are counted.
 *
 * finite    weights that are neither NaN nor infinite
 * returns   1 where the bound decided every weight, 0 where the contract itself was run
 */
// @ts-ignore: decorator
@inline
function balanceTile<T>(
  data: usize,
  rows: i32,
  cols: i32,
  stride: i32,
  finite: f64,
  threshold: f64,
  scratch: usize,
  dead: usize,
  zeros: usize,
): i32 {
  place(scratch, rows, cols);
  take<T>(data, rows, cols, stride);
  // Padding makes narrow tiles slow, not wrong; a threshold at the edge of f32 is for f64.
  if (finite == <f64>rows * <f64>cols && threshold > 1e-15) {
    const bound = bounded(rows, cols);
    if (bound < 1e-3 && applyBounded<T>(data, rows, cols, stride, threshold, bound, dead, zeros)) return 1;
  }
  exactly(rows, cols, finite);
  applyExactly<T>(data, rows, cols, stride, threshold, dead, zeros);
  return 0;
}

export function balanceTileBf16(data: usize, rows: i32, cols: i32, stride: i32, finite: f64, threshold: f64, scratch: usize, dead: usize, zeros: usize): i32 {
  return balanceTile<u16>(data, rows, cols, stride, finite, threshold, scratch, dead, zeros);
}
export function balanceTileF16(data: usize, rows: i32, cols: i32, stride: i32, finite: f64, threshold: f64, scratch: usize, dead: usize, zeros: usize): i32 {
  return balanceTile<i16>(data, rows, cols, stride, finite, threshold, scratch, dead, zeros);
}
export function balanceTileF32(data: usize, rows: i32, cols: i32, stride: i32, finite: f64, threshold: f64, scratch: usize, dead: usize, zeros: usize): i32 {
  return balanceTile<f32>(data, rows, cols, stride, finite, threshold, scratch, dead, zeros);
}
