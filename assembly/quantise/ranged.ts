// Scales and minima of grids that start at a group's least weight. source: llama.cpp ggml-quants.c `make_qkx2_quants`,
// `make_qkx3_quants`, `make_qp_quants`
import { GROUP_MAX_EPS, nearestInt, nearestInt4, weight } from "./numbers";

/** 32 vectors of values, of importance, of levels: what `fitRange` reads and writes, four groups side by side. */
export const values = memory.data(32 * 16, 16);
export const importance = memory.data(32 * 16, 16);
export const chosen = memory.data(32 * 16, 16);
const trialLevels = memory.data(32 * 16, 16);

/** The second result of `fitRange`: minus the minima. */
export let fittedMins: v128 = f32x4.splat(0);

function at(base: usize, i: i32): v128 {
  return v128.load(base + ((<usize>i) << 4));
}

/**
 * Scale and minimum of each of four groups of `length` weights on the grid min + scale · (0 … top) that lose least
 * under the importance: scales around the obvious one are tried, each with scale and minimum corrected by weighted
 * least squares. The minimum never lies above zero. Lanes are groups: each does what one group alone would do, in the
 * same order.
 *
 * firstStep, stepSize, trials  where the search of scales begins, how it goes on, how many more there are
 * returns the four scales; `fittedMins` holds minus the minima, `chosen` the levels
 */
export function fitRange(length: i32, top: f32, firstStep: f32, stepSize: f32, trials: i32): v128 {
  const zero = f32x4.splat(0);
  const none = i32x4.splat(0);
  const highest = i32x4.splat(<i32>top);
  let least = at(values, 0);
  let largest = least;
  let sumW = at(importance, 0);
  let sumX = f32x4.mul(sumW, least);
  for (let i = 1; i < length; i++) {
    const value = at(values, i);
    least = v128.bitselect(value, least, f32x4.lt(value, least));
    largest = v128.bitselect(value, largest, f32x4.gt(value, largest));
    const w = at(importance, i);
    sumW = f32x4.add(sumW, w);
    sumX = f32x4.add(sumX, f32x4.mul(w, value));
  }
  least = v128.bitselect(zero, least, f32x4.gt(least, zero));
  const isFlat = f32x4.le(largest, least);
  const flatMin = least;
  let inverse = f32x4.div(f32x4.splat(top), f32x4.sub(largest, least));
  let scale = f32x4.div(f32x4.splat(1), inverse);
  let best = zero;
  for (let i = 0; i < length; i++) {
    const value = at(values, i);
    const rounded = nearestInt4(f32x4.mul(inverse, f32x4.sub(value, least)));
    const level = i32x4.min_s(i32x4.max_s(rounded, none), highest);
    v128.store(chosen + ((<usize>i) << 4), level);
    const fitted = f32x4.add(f32x4.mul(scale, f32x4.convert_i32x4_s(level)), least);
    const difference = f32x4.sub(fitted, value);
    best = f32x4.add(best, f32x4.mul(at(importance, i), f32x4.mul(difference, difference)));
  }
  for (let trial = 0; trial <= trials; trial++) {
    const steps: f32 = firstStep + stepSize * <f32>trial + top;
    inverse = f32x4.div(f32x4.splat(steps), f32x4.sub(largest, least));
    let sumL = zero;
    let sumLL = zero;
    let sumXL = zero;
    for (let i = 0; i < length; i++) {
      const value = at(values, i);
      const rounded = nearestInt4(f32x4.mul(inverse, f32x4.sub(value, least)));
      const level = i32x4.min_s(i32x4.max_s(rounded, none), highest);
      v128.store(trialLevels + ((<usize>i) << 4), level);
      const l = f32x4.convert_i32x4_s(level);
      const wl = f32x4.mul(at(importance, i), l);
      sumL = f32x4.add(sumL, wl);
      sumLL = f32x4.add(sumLL, f32x4.mul(wl, l));
      sumXL = f32x4.add(sumXL, f32x4.mul(wl, value));
    }
    const determinant = f32x4.sub(f32x4.mul(sumW, sumLL), f32x4.mul(sumL, sumL));
    let takes = f32x4.gt(determinant, zero);
    if (!v128.any_true(takes)) continue;
    const scaleSum = f32x4.sub(f32x4.mul(sumW, sumXL), f32x4.mul(sumX, sumL));
    const minSum = f32x4.sub(f32x4.mul(sumLL, sumX), f32x4.mul(sumL, sumXL));
    let trialScale = f32x4.div(scaleSum, determinant);
    let trialMin = f32x4.div(minSum, determinant);
    const isAbove = f32x4.gt(trialMin, zero);
    trialMin = v128.bitselect(zero, trialMin, isAbove);
    trialScale = v128.bitselect(f32x4.div(sumXL, sumLL), trialScale, isAbove);
    let error = zero;
    for (let i = 0; i < length; i++) {
      const l = f32x4.convert_i32x4_s(at(trialLevels, i));
      const difference = f32x4.sub(f32x4.add(f32x4.mul(trialScale, l), trialMin), at(values, i));
      error = f32x4.add(error, f32x4.mul(at(importance, i), f32x4.mul(difference, difference)));
    }
    takes = v128.and(takes, f32x4.lt(error, best));
    if (!v128.any_true(takes)) continue;
    for (let i = 0; i < length; i++) {
      const place = chosen + ((<usize>i) << 4);
      v128.store(place, v128.bitselect(at(trialLevels, i), v128.load(place), takes));
    }
    best = v128.bitselect(error, best, takes);
    scale = v128.bitselect(trialScale, scale, takes);
    // The trials that follow start from the better minimum.
    least = v128.bitselect(trialMin, least, takes);
  }
  if (v128.any_true(isFlat)) {
    least = v128.bitselect(flatMin, least, isFlat);
    for (let i = 0; i < length; i++) {
      const place = chosen + ((<usize>i) << 4);
      v128.store(place, v128.andnot(v128.load(place), isFlat));
    }
  }
  fittedMins = f32x4.neg(least);
  return v128.andnot(scale, isFlat);
}

/**
 * One scale for eight values that are not negative, on the grid 0 … 63, weighted: nine scales are tried, then single
 * levels are moved while that gains.
 *
 * x, importance  8 × f32; levels  8 bytes
 */
export function fitPositive(x: usize, levels: usize, weights: usize): f32 {
  const top = 63;
  let largest: f32 = 0;
  for (let i = 0; i < 8; i++) largest = max<f32>(largest, weight(x, i));
  if (largest < GROUP_MAX_EPS) {
    memory.fill(levels, 0, 8);
    return 0;
  }
  let inverse: f32 = <f32>top / largest;
  const scale: f32 = <f32>1.0 / inverse;
  let best: f32 = 0;
  for (let i = 0; i < 8; i++) {
    const difference: f32 = weight(x, i) - scale * <f32>(nearestInt(inverse * weight(x, i)) & 255);
    best += weight(weights, i) * difference * difference;
  }
  for (let trial = -4; trial <= 4; trial++) {
    if (trial == 0) continue;
    const trialInverse: f32 = (<f32>0.1 * <f32>trial + <f32>top) / largest;
    const trialScale: f32 = <f32>1.0 / trialInverse;
    let error: f32 = 0;
    for (let i = 0; i < 8; i++) {
      const level = min<i32>(top, nearestInt(trialInverse * weight(x, i)));
      const difference: f32 = weight(x, i) - trialScale * <f32>level;
      error += weight(weights, i) * difference * difference;
    }
    if (error < best) {
      best = error;
      inverse = trialInverse;
    }
  }
  let products: f32 = 0;
  let squares: f32 = 0;
  for (let i = 0; i < 8; i++) {
    const level = min<i32>(top, nearestInt(inverse * weight(x, i)));
    store<u8>(levels + i, <u8>level);
    const w = weight(weights, i);
    products += w * weight(x, i) * <f32>level;
    squares += w * <f32>level * <f32>level;
  }
  for (let round = 0; round < 5; round++) {
    let changed = 0;
    for (let i = 0; i < 8; i++) {
      const w = weight(weights, i);
      const value = weight(x, i);
      const old = <f32>load<u8>(levels + i);
      let otherProducts: f32 = products - w * value * old;
      let otherSquares: f32 = squares - w * old * old;
      if (!(otherProducts > 0 && otherSquares > 0)) continue;
      const level = min<i32>(top, nearestInt((value * otherSquares) / otherProducts));
      if (level == <i32>load<u8>(levels + i)) continue;
      const l = <f32>level;
      otherProducts += w * value * l;
      otherSquares += w * l * l;
      if (otherProducts * otherProducts * squares > products * products * otherSquares) {
        store<u8>(levels + i, <u8>level);
        products = otherProducts;
        squares = otherSquares;
        changed++;
      }
    }
    if (changed == 0) break;
  }
  return squares > 0 ? products / squares : 0;
}
