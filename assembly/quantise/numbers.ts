// What every quantiser needs: weights in memory, rounding and half floats as C has them, one value or four at once.

/** Groups of weights all smaller than this are stored as zeros (GROUP_MAX_EPS). */
export const GROUP_MAX_EPS: f32 = 1e-15;

export function weight(at: usize, i: i32): f32 {
  return load<f32>(at + ((<usize>i) << 2));
}

/** Round to nearest, ties to even, as adding 1.5 · 2^23 does. */
export function nearestInt(value: f32): i32 {
  return (reinterpret<i32>(value + 12582912.0) & 0x7fffff) - 0x400000;
}

/** The same for four. */
export function nearestInt4(value: v128): v128 {
  const bits = v128.and(f32x4.add(value, f32x4.splat(12582912.0)), i32x4.splat(0x7fffff));
  return i32x4.sub(bits, i32x4.splat(0x400000));
}

export function clamp(value: i32, low: i32, high: i32): i32 {
  return value < low ? low : value > high ? high : value;
}

/** Round four half away from zero, as C's roundf. */
export function roundHalfAway4(value: v128): v128 {
  const whole = f32x4.trunc(value);
  const away = f32x4.ge(f32x4.abs(f32x4.sub(value, whole)), f32x4.splat(0.5));
  const step = v128.bitselect(i32x4.splat(-1), i32x4.splat(1), f32x4.lt(value, f32x4.splat(0)));
  return i32x4.add(i32x4.trunc_sat_f32x4_s(whole), v128.and(away, step));
}

/** F16 bits of an f32, ties to even. */
export function halfBits(value: f32): u32 {
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
export function halfValue(bits: u32): f32 {
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

/**
 * Four runs of `length` values, each `stride` bytes behind the one before (from lane `count` on the last run again), as
 * `length` vectors at `target`: lane g of vector i is value i of run g.
 */
export function gather4(source: usize, stride: usize, count: i32, length: i32, target: usize): void {
  const second = source + (count > 1 ? stride : 0);
  const third = count > 2 ? source + 2 * stride : second;
  const fourth = count > 3 ? source + 3 * stride : third;
  for (let i = 0; i < length; i++) {
    const at = (<usize>i) << 2;
    let lanes = f32x4.splat(load<f32>(source + at));
    lanes = f32x4.replace_lane(lanes, 1, load<f32>(second + at));
    lanes = f32x4.replace_lane(lanes, 2, load<f32>(third + at));
    lanes = f32x4.replace_lane(lanes, 3, load<f32>(fourth + at));
    v128.store(target + ((<usize>i) << 4), lanes);
  }
}

/** The lowest byte of each lane of `length` vectors of i32, back in four runs of bytes, `stride` apart. */
export function scatter4(source: usize, count: i32, length: i32, target: usize, stride: usize): void {
  for (let lane = 0; lane < count; lane++) {
    const from = source + ((<usize>lane) << 2);
    const to = target + (<usize>lane) * stride;
    for (let i = 0; i < length; i++) store<u8>(to + i, load<u8>(from + ((<usize>i) << 4)));
  }
}
