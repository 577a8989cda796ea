// Scales of grids that are symmetric about zero. source: llama.cpp ggml-quants.c `make_qx_quants` (rmse_type 1)
import { GROUP_MAX_EPS, nearestInt4 } from "./numbers";

/** 32 vectors of values, of importance, of levels: what `fitSymmetric` reads and writes, four groups side by side. */
export const values = memory.data(32 * 16, 16);
export const importance = memory.data(32 * 16, 16);
export const chosen = memory.data(32 * 16, 16);

function at(base: usize, i: i32): v128 {
  return v128.load(base + ((<usize>i) << 4));
}

function levelOf(inverse: v128, value: v128, low: v128, high: v128): v128 {
  return i32x4.min_s(i32x4.max_s(nearestInt4(f32x4.mul(inverse, value)), low), high);
}

/**
 * The scale of each of four groups of `length` weights on the grid −half … half − 1 that loses least under the given
 * importance (without: a weight's square): 19 scales near the obvious one are tried, each corrected by least squares.
 * Lanes are groups: each does what one group alone would do, in the same order.
 *
 * values, importance  see above; `chosen` gets the levels + half, or 0 where a group is nothing
 * returns the four scales
 */
export function fitSymmetric(length: i32, half: f32, weighted: bool): v128 {
  const low = i32x4.splat(-(<i32>half));
  const high = i32x4.splat(<i32>half - 1);
  const offset = i32x4.splat(<i32>half);
  let size = f32x4.splat(0);
  let largest = f32x4.splat(0);
  for (let i = 0; i < length; i++) {
    const value = at(values, i);
    const absolute = f32x4.abs(value);
    const isLarger = f32x4.gt(absolute, size);
    size = v128.bitselect(absolute, size, isLarger);
    largest = v128.bitselect(value, largest, isLarger);
  }
  const isNothing = f32x4.lt(size, f32x4.splat(GROUP_MAX_EPS));
  let scale = f32x4.splat(0);
  let best = f32x4.splat(0);
  for (let trial = -10; trial <= 9; trial++) {
    // Trial −10 is the obvious scale, tried first; 0 would repeat it.
    if (trial == 0) continue;
    const isFirst = trial == -10;
    const steps: f32 = isFirst ? half : half + <f32>0.1 * <f32>trial;
    const inverse = f32x4.div(f32x4.splat(-steps), largest);
    let productSum = f32x4.splat(0);
    let squareSum = f32x4.splat(0);
    for (let i = 0; i < length; i++) {
      const value = at(values, i);
      const level = f32x4.convert_i32x4_s(levelOf(inverse, value, low, high));
      const w = weighted ? at(importance, i) : f32x4.mul(value, value);
      productSum = f32x4.add(productSum, f32x4.mul(f32x4.mul(w, value), level));
      squareSum = f32x4.add(squareSum, f32x4.mul(f32x4.mul(w, level), level));
    }
    const quotient = f32x4.div(productSum, squareSum);
    let takes: v128;
    if (isFirst) {
      takes = i32x4.splat(-1);
      scale = v128.and(quotient, f32x4.ne(squareSum, f32x4.splat(0)));
    } else {
      takes = v128.and(
        f32x4.gt(squareSum, f32x4.splat(0)),
        f32x4.gt(f32x4.mul(productSum, productSum), f32x4.mul(best, squareSum)),
      );
      if (!v128.any_true(takes)) continue;
      scale = v128.bitselect(quotient, scale, takes);
    }
    best = v128.bitselect(f32x4.mul(scale, productSum), best, takes);
    for (let i = 0; i < length; i++) {
      const place = chosen + ((<usize>i) << 4);
      const level = i32x4.add(offset, levelOf(inverse, at(values, i), low, high));
      v128.store(place, v128.bitselect(level, v128.load(place), takes));
    }
  }
  if (v128.any_true(isNothing)) {
    for (let i = 0; i < length; i++) {
      const place = chosen + ((<usize>i) << 4);
      v128.store(place, v128.andnot(v128.load(place), isNothing));
    }
  }
  return v128.andnot(scale, isNothing);
}
