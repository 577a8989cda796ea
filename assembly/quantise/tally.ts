// What became of weights. The readable form: src/export/weight-band.ts `measure`.

import { firstNonFinite } from "./floats";

/**
 * Add to `sums` what became of `count` f32 weights.
 *
 * weights, decoded  f32[count]: as they were, and what was written decodes to
 * sums              f64[2]: Σ (weight − decoded)², Σ weight², one weight after the other; u32[3]: zeros before, zeros
 *                   after, zeros that are none any more
 * returns           the first decoded weight that is NaN or infinite, or −1; `sums` is then of no use
 */
export function tally(weights: usize, decoded: usize, count: i32, sums: usize): i32 {
  let error = load<f64>(sums);
  let norm = load<f64>(sums, 8);
  let before = 0;
  let after = 0;
  let lost = 0;
  for (let i = 0; i < count; i++) {
    const weight = <f64>load<f32>(weights + ((<usize>i) << 2));
    const value = <f64>load<f32>(decoded + ((<usize>i) << 2));
    const difference = weight - value;
    error += difference * difference;
    norm += weight * weight;
    const wasZero = i32(weight == 0);
    const isZero = i32(value == 0);
    before += wasZero;
    after += isZero;
    lost += wasZero & (isZero ^ 1);
  }
  store<f64>(sums, error);
  store<f64>(sums, norm, 8);
  store<u32>(sums, load<u32>(sums, 16) + before, 16);
  store<u32>(sums, load<u32>(sums, 20) + after, 20);
  store<u32>(sums, load<u32>(sums, 24) + lost, 24);
  // Infinite and NaN values make the error so; a finite one can do that only where a square overflows f64: never.
  return error < Infinity ? -1 : firstNonFinite(decoded, count);
}

/**
 * Hold `count` f32 weights against what they are stored as.
 *
 * counts   u32[2]: stored zeros, weights that are not what is stored; added to
 * returns  the first place where one of the two is NaN or infinite, or −1
 */
export function compareStored(weights: usize, stored: usize, count: i32, counts: usize): i32 {
  let zeros = 0;
  let rounded = 0;
  let finite = i32x4.splat(-1);
  let i = 0;
  for (; i + 4 <= count; i += 4) {
    const at = (<usize>i) << 2;
    const weight = v128.load(weights + at);
    const value = v128.load(stored + at);
    zeros += popcnt<i32>(i32x4.bitmask(f32x4.eq(value, f32x4.splat(0))));
    rounded += popcnt<i32>(i32x4.bitmask(f32x4.ne(weight, value)));
    const below = v128.and(magnitudeBelow(weight), magnitudeBelow(value));
    finite = v128.and(finite, below);
  }
  for (; i < count; i++) {
    const at = (<usize>i) << 2;
    zeros += i32(load<f32>(stored + at) == 0);
    rounded += i32(load<f32>(weights + at) != load<f32>(stored + at));
  }
  store<u32>(counts, load<u32>(counts) + zeros);
  store<u32>(counts, load<u32>(counts, 4) + rounded, 4);
  const whole = count & ~3;
  if (i32x4.all_true(finite) && firstOfBoth(weights, stored, whole, count) < 0) return -1;
  return firstOfBoth(weights, stored, 0, count);
}

function magnitudeBelow(values: v128): v128 {
  return f32x4.lt(f32x4.abs(values), f32x4.splat(Infinity));
}

function firstOfBoth(weights: usize, stored: usize, from: i32, count: i32): i32 {
  for (let i = from; i < count; i++) {
    const at = (<usize>i) << 2;
    if (!(abs<f32>(load<f32>(weights + at)) < Infinity) || !(abs<f32>(load<f32>(stored + at)) < Infinity)) return i;
  }
  return -1;
}
