// The balanced flow of one tile that lies in memory whole, to the bytes of src/flow/balance.ts in a fraction of its
// time. docs/flows.md has the proof; in short:
//
// 1. `bounded` runs the first sweeps in f32 and one more with sums in f64, and bounds how far its drives can be from
//    the contract's. With span(x) = max ln x − min ln x, half a sweep contracts the distance between two states by
//    τ ≤ max Σ|P − 1/n|, P the shares that rows (columns) draw from columns (rows): Dobrushin's coefficient of a
//    stochastic matrix, here of the map's derivative. So both the fixed point and the contract's eighth sweep are near.
// 2. Weights outside that bound of the threshold are decided; their decision is the contract's.
// 3. A tile with an undecided weight, or without a bound worth having, is done again by `exact`, the contract itself.

import { infinityOf, pattern1 } from "../shared/weights";
import { bounded } from "./bounded-sweeps";
import { exactly } from "./exact-sweeps";
import { col32, col64, place, row64, take, tile, width } from "./tile-memory";

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
