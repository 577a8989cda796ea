// Quantisation to GGUF's block types, as llama.cpp's reference functions do it: the same f32 operations in the same
// order, so the
// blocks are equal to the bit (tests hold them to digests that llama.cpp's own library made). Each function reads
// `count` f32 weights
// at `source` and writes whole blocks at `target`; `count` is a multiple of the block length, weights are finite.
//
// source: ggml-org/llama.cpp ggml/src/ggml-quants.c quantize_row_{q8_0,q4_0,q4_K,q6_K}_ref, make_qx_quants,
// make_qkx2_quants (MIT);
// block layouts: ggml/src/ggml-common.h

/** Groups of weights all smaller than this are stored as zeros (GROUP_MAX_EPS). */
const GROUP_MAX_EPS: f32 = 1e-15;

// Scratch for one super-block of 256 weights.
const levels = memory.data(256);
const trialLevels = memory.data(32);
const importance = memory.data(32 * 4);
const groupScales = memory.data(16 * 4);
const groupMins = memory.data(8 * 4);

/** The second result of `fitScaleAndMin`. */
let fittedMin: f32 = 0;

/** First byte that the caller may use. */
export function freeMemoryFrom(): usize {
  return (__heap_base + 63) & ~63;
}

function weight(at: usize, i: i32): f32 {
  return load<f32>(at + ((<usize>i) << 2));
}

/** Round to nearest, ties to even, as adding 1.5 · 2^23 does. */
function nearestInt(value: f32): i32 {
  return reinterpret<i32>(value + 12582912.0) - 0x4b400000;
}

function clamp(value: i32, low: i32, high: i32): i32 {
  return value < low ? low : value > high ? high : value;
}

/** Round half away from zero, as C's roundf. */
function roundHalfAway(value: f32): i32 {
  const whole = trunc<f32>(value);
  const rest = abs<f32>(value - whole);
  return <i32>whole + (rest >= 0.5 ? (value < 0 ? -1 : 1) : 0);
}

/** F16 bits of an f32, ties to even. */
function halfBits(value: f32): u32 {
  const bits = reinterpret<u32>(value);
  const sign = (bits >> 16) & 0x8000;
  const magnitude = bits & 0x7fffffff;
  if (magnitude >= 0x7f800000) return sign | (magnitude > 0x7f800000 ? 0x7e00 : 0x7c00);
  if (magnitude >= 0x477ff000) return sign | 0x7c00;
  if (magnitude >= 0x38800000) {
    const rebiased = magnitude - 0x38000000;
    return sign | ((rebiased + 0xfff + ((rebiased >> 13) & 1)) >> 13);
  }
  if (magnitude < 0x33000000) return sign;
  const shift = 126 - (magnitude >> 23);
  const mantissa = (magnitude & 0x7fffff) | 0x800000;
  let units = mantissa >> shift;
  const rest = mantissa & ((1 << shift) - 1);
  const half: u32 = 1 << (shift - 1);
  if (rest > half || (rest == half && (units & 1) == 1)) units++;
  return sign | units;
}

/** What the bits of an F16 stand for. */
function halfValue(bits: u32): f32 {
  const sign = (bits & 0x8000) << 16;
  const exponent = (bits >> 10) & 0x1f;
  const fraction = bits & 0x3ff;
  if (exponent == 0) {
    const value = <f32>fraction * <f32>5.9604644775390625e-8;
    return sign != 0 ? -value : value;
  }
  if (exponent == 0x1f) return reinterpret<f32>(sign | 0x7f800000 | (fraction << 13));
  return reinterpret<f32>(sign | ((exponent + 112) << 23) | (fraction << 13));
}

/** 32 weights → f16 scale, 32 × i8. */
export function quantiseQ8_0(source: usize, target: usize, count: i32): void {
  for (let block = 0; block < count; block += 32) {
    const x = source + ((<usize>block) << 2);
    let largest: f32 = 0;
    for (let i = 0; i < 32; i++) largest = max<f32>(largest, abs<f32>(weight(x, i)));
    const scale = largest / 127.0;
    const inverse: f32 = scale != 0 ? 1.0 / scale : 0;
    store<u16>(target, <u16>halfBits(scale));
    for (let i = 0; i < 32; i++) store<i8>(target + 2 + i, <i8>roundHalfAway(weight(x, i) * inverse));
    target += 34;
  }
}

/** 32 weights → f16 scale, 32 × 4 bits with offset 8; the weight largest in size becomes −8. */
export function quantiseQ4_0(source: usize, target: usize, count: i32): void {
  for (let block = 0; block < count; block += 32) {
    const x = source + ((<usize>block) << 2);
    let size: f32 = 0;
    let largest: f32 = 0;
    for (let i = 0; i < 32; i++) {
      const value = weight(x, i);
      if (abs<f32>(value) > size) {
        size = abs<f32>(value);
        largest = value;
      }
    }
    const scale = largest / -8.0;
    const inverse: f32 = scale != 0 ? 1.0 / scale : 0;
    store<u16>(target, <u16>halfBits(scale));
    for (let i = 0; i < 16; i++) {
      const low = min<i32>(15, <i32>(weight(x, i) * inverse + 8.5));
      const high = min<i32>(15, <i32>(weight(x, i + 16) * inverse + 8.5));
      store<u8>(target + 2 + i, <u8>(low | (high << 4)));
    }
    target += 18;
  }
}

/**
 * The scale of 16 weights on the grid −32 … 31 that loses least, weights counting by their square: 19 scales near the
 * obvious one are
 * tried, each corrected by least squares.
 *
 * chosen  16 bytes: the levels + 32; they stay where the rounded scale turns out to be nothing
 */
function fitSymmetricScale(x: usize, chosen: usize): f32 {
  let size: f32 = 0;
  let largest: f32 = 0;
  for (let i = 0; i < 16; i++) {
    const value = weight(x, i);
    if (abs<f32>(value) > size) {
      size = abs<f32>(value);
      largest = value;
    }
  }
  if (size < GROUP_MAX_EPS) {
    memory.fill(chosen, 0, 16);
    return 0;
  }
  let scale: f32 = 0;
  let best: f32 = 0;
  for (let trial = -10; trial <= 9; trial++) {
    // Trial −10 is the obvious scale, tried first; 0 would repeat it.
    if (trial == 0) continue;
    const steps: f32 = trial == -10 ? <f32>32.0 : <f32>32.0 + <f32>0.1 * <f32>trial;
    const inverse: f32 = -steps / largest;
    let productSum: f32 = 0;
    let squareSum: f32 = 0;
    for (let i = 0; i < 16; i++) {
      const value = weight(x, i);
      const level = <f32>clamp(nearestInt(inverse * value), -32, 31);
      const w = value * value;
      productSum += w * value * level;
      squareSum += w * level * level;
    }
    const isFirst = trial == -10;
    if (!isFirst && !(squareSum > 0 && productSum * productSum > best * squareSum)) continue;
    scale = squareSum != 0 ? productSum / squareSum : 0;
    best = scale * productSum;
    for (let i = 0; i < 16; i++) {
      store<u8>(chosen + i, <u8>(32 + clamp(nearestInt(inverse * weight(x, i)), -32, 31)));
    }
  }
  return scale;
}

/** 256 weights → 128 bytes of low nibbles, 64 of high bit pairs, 16 × i8 scales, f16 scale of scales. */
export function quantiseQ6_K(source: usize, target: usize, count: i32): void {
  for (let block = 0; block < count; block += 256) {
    const x = source + ((<usize>block) << 2);
    let size: f32 = 0;
    let largest: f32 = 0;
    for (let group = 0; group < 16; group++) {
      const scale = fitSymmetricScale(x + ((<usize>group) << 6), levels + ((<usize>group) << 4));
      store<f32>(groupScales + ((<usize>group) << 2), scale);
      if (abs<f32>(scale) > size) {
        size = abs<f32>(scale);
        largest = scale;
      }
    }
    if (size < GROUP_MAX_EPS) {
      memory.fill(target, 0, 210);
      target += 210;
      continue;
    }
    const inverse: f32 = <f32>-128.0 / largest;
    const scaleBits = halfBits(<f32>1.0 / inverse);
    const scaleOfScales = halfValue(scaleBits);
    store<u16>(target + 208, <u16>scaleBits);
    for (let group = 0; group < 16; group++) {
      const scale = min<i32>(127, nearestInt(inverse * load<f32>(groupScales + ((<usize>group) << 2))));
      store<i8>(target + 192 + group, <i8>scale);
      const step: f32 = scaleOfScales * <f32>scale;
      if (step == 0) continue;
      for (let i = group * 16; i < group * 16 + 16; i++) {
        store<u8>(levels + i, <u8>(32 + clamp(nearestInt(weight(x, i) / step), -32, 31)));
      }
    }
    for (let half = 0; half < 2; half++) {
      const from = levels + ((<usize>half) << 7);
      const low = target + ((<usize>half) << 6);
      const high = target + 128 + ((<usize>half) << 5);
      for (let i = 0; i < 32; i++) {
        const a = load<u8>(from + i);
        const b = load<u8>(from + i + 32);
        const c = load<u8>(from + i + 64);
        const d = load<u8>(from + i + 96);
        store<u8>(low + i, (a & 15) | ((c & 15) << 4));
        store<u8>(low + i + 32, (b & 15) | ((d & 15) << 4));
        store<u8>(high + i, (a >> 4) | ((b >> 4) << 2) | ((c >> 4) << 4) | ((d >> 4) << 6));
      }
    }
    target += 210;
  }
}

/**
 * Scale and minimum of 32 weights on the grid min + scale · (0 … 15) that lose least under the given importance: 21
 * scales are tried, each
 * with scale and minimum corrected by weighted least squares. The minimum never lies above zero.
 *
 * returns the scale; `fittedMin` holds minus the minimum
 */
function fitScaleAndMin(x: usize, chosen: usize): f32 {
  let least = weight(x, 0);
  let largest = least;
  let sumW = weight(importance, 0);
  let sumX: f32 = sumW * least;
  for (let i = 1; i < 32; i++) {
    const value = weight(x, i);
    if (value < least) least = value;
    if (value > largest) largest = value;
    const w = weight(importance, i);
    sumW += w;
    sumX += w * value;
  }
  if (least > 0) least = 0;
  if (largest == least) {
    memory.fill(chosen, 0, 32);
    fittedMin = -least;
    return 0;
  }
  let inverse: f32 = <f32>15.0 / (largest - least);
  let scale: f32 = <f32>1.0 / inverse;
  let best: f32 = 0;
  for (let i = 0; i < 32; i++) {
    const value = weight(x, i);
    const level = clamp(nearestInt(inverse * (value - least)), 0, 15);
    store<u8>(chosen + i, <u8>level);
    const difference: f32 = scale * <f32>level + least - value;
    best += weight(importance, i) * (difference * difference);
  }
  for (let trial = 0; trial <= 20; trial++) {
    inverse = (<f32>-1.0 + <f32>0.1 * <f32>trial + <f32>15.0) / (largest - least);
    let sumL: f32 = 0;
    let sumLL: f32 = 0;
    let sumXL: f32 = 0;
    for (let i = 0; i < 32; i++) {
      const value = weight(x, i);
      const level = clamp(nearestInt(inverse * (value - least)), 0, 15);
      store<u8>(trialLevels + i, <u8>level);
      const w = weight(importance, i);
      const l = <f32>level;
      sumL += w * l;
      sumLL += w * l * l;
      sumXL += w * l * value;
    }
    const determinant: f32 = sumW * sumLL - sumL * sumL;
    if (!(determinant > 0)) continue;
    let trialScale: f32 = (sumW * sumXL - sumX * sumL) / determinant;
    let trialMin: f32 = (sumLL * sumX - sumL * sumXL) / determinant;
    if (trialMin > 0) {
      trialMin = 0;
      trialScale = sumXL / sumLL;
    }
    let error: f32 = 0;
    for (let i = 0; i < 32; i++) {
      const difference: f32 = trialScale * <f32>load<u8>(trialLevels + i) + trialMin - weight(x, i);
      error += weight(importance, i) * (difference * difference);
    }
    if (error < best) {
      memory.copy(chosen, trialLevels, 32);
      best = error;
      scale = trialScale;
      // The trials that follow start from the better minimum.
      least = trialMin;
    }
  }
  fittedMin = -least;
  return scale;
}

/** 256 weights → f16 scale and min of the groups' 6-bit ones, 12 bytes of those, 128 bytes of nibbles. */
export function quantiseQ4_K(source: usize, target: usize, count: i32): void {
  for (let block = 0; block < count; block += 256) {
    const x = source + ((<usize>block) << 2);
    let largestScale: f32 = 0;
    let largestMin: f32 = 0;
    for (let group = 0; group < 8; group++) {
      const at = x + ((<usize>group) << 7);
      let squares: f32 = 0;
      for (let i = 0; i < 32; i++) squares += weight(at, i) * weight(at, i);
      const spread = sqrt<f32>(squares / 32.0);
      for (let i = 0; i < 32; i++) store<f32>(importance + ((<usize>i) << 2), spread + abs<f32>(weight(at, i)));
      const scale = fitScaleAndMin(at, levels + ((<usize>group) << 5));
      store<f32>(groupScales + ((<usize>group) << 2), scale);
      store<f32>(groupMins + ((<usize>group) << 2), fittedMin);
      if (scale > largestScale) largestScale = scale;
      if (fittedMin > largestMin) largestMin = fittedMin;
    }
    const inverseScale: f32 = largestScale > 0 ? <f32>63.0 / largestScale : 0;
    const inverseMin: f32 = largestMin > 0 ? <f32>63.0 / largestMin : 0;
    const scaleBits = halfBits(largestScale / 63.0);
    const minBits = halfBits(largestMin / 63.0);
    const scaleOfScales = halfValue(scaleBits);
    const scaleOfMins = halfValue(minBits);
    store<u16>(target, <u16>scaleBits);
    store<u16>(target + 2, <u16>minBits);
    const packed = target + 4;
    for (let group = 0; group < 8; group++) {
      const scale = <u32>min<i32>(63, nearestInt(inverseScale * load<f32>(groupScales + ((<usize>group) << 2))) & 255);
      const minimum = <u32>min<i32>(63, nearestInt(inverseMin * load<f32>(groupMins + ((<usize>group) << 2))) & 255);
      if (group < 4) {
        store<u8>(packed + group, <u8>scale);
        store<u8>(packed + group + 4, <u8>minimum);
      } else {
        store<u8>(packed + group + 4, <u8>((scale & 15) | ((minimum & 15) << 4)));
        store<u8>(packed + group - 4, <u8>(load<u8>(packed + group - 4) | ((scale >> 4) << 6)));
        store<u8>(packed + group, <u8>(load<u8>(packed + group) | ((minimum >> 4) << 6)));
      }
      const step: f32 = scaleOfScales * <f32>scale;
      if (step == 0) continue;
      const shift: f32 = scaleOfMins * <f32>minimum;
      for (let i = group * 32; i < group * 32 + 32; i++) {
        store<u8>(levels + i, <u8>clamp(nearestInt((weight(x, i) + shift) / step), 0, 15));
      }
    }
    for (let pair = 0; pair < 4; pair++) {
      const from = levels + ((<usize>pair) << 6);
      for (let i = 0; i < 32; i++) {
        store<u8>(target + 16 + ((<usize>pair) << 5) + i, load<u8>(from + i) | (load<u8>(from + i + 32) << 4));
      }
    }
    target += 144;
  }
}
