// Between F32 and the floats that checkpoints store, four weights at once.

/** The dtypes by number: 1 BF16, 2 F16, 3 F32. */
const BF16: u32 = 1;
const F16: u32 = 2;

const INFINITY_BITS: i32 = 0x7f800000;

/**
 * Widen `count` weights of a dtype at `source` to f32 at `target`, exactly; up to 3 more are read and written.
 * Returns the first that is NaN or infinite, or −1.
 */
export function widen(dtype: u32, source: usize, count: i32, target: usize): i32 {
  // Lanes stay all ones while every magnitude is below infinity.
  let finite = i32x4.splat(-1);
  for (let i = 0; i < count; i += 4) {
    let bits: v128;
    if (dtype == BF16) bits = i32x4.shl(v128.load16x4_u(source + ((<usize>i) << 1)), 16);
    else if (dtype == F16) bits = halfValues4(v128.load16x4_u(source + ((<usize>i) << 1)));
    else bits = v128.load(source + ((<usize>i) << 2));
    v128.store(target + ((<usize>i) << 2), bits);
    const magnitude = v128.and(bits, i32x4.splat(0x7fffffff));
    finite = v128.and(finite, i32x4.lt_s(magnitude, i32x4.splat(INFINITY_BITS)));
  }
  return i32x4.all_true(finite) ? -1 : firstNonFinite(target, count);
}

/** The first of `count` f32 that is NaN or infinite, or −1. */
export function firstNonFinite(source: usize, count: i32): i32 {
  for (let i = 0; i < count; i++) {
    if ((load<i32>(source + ((<usize>i) << 2)) & 0x7fffffff) >= INFINITY_BITS) return i;
  }
  return -1;
}

/** What the bits of four F16, a lane each, stand for. source: the reference is halfValue (numbers.ts) */
function halfValues4(halves: v128): v128 {
  const magnitude = i32x4.shl(v128.and(halves, i32x4.splat(0x7fff)), 13);
  // As subnormals of f32 these would be 2^112 times too small; multiplying is exact, for subnormal halves too.
  const finite = f32x4.mul(magnitude, f32x4.splat(reinterpret<f32>(0x77800000)));
  const special = i32x4.ge_s(magnitude, i32x4.splat(0x0f800000));
  const sign = i32x4.shl(v128.and(halves, i32x4.splat(0x8000)), 16);
  return v128.or(sign, v128.bitselect(v128.or(magnitude, i32x4.splat(INFINITY_BITS)), finite, special));
}

/**
 * Narrow `count` finite f32 at `source` to a 16-bit dtype at `target`, ties to even, too large ones to infinity; up to 3
 * more are read and written.
 */
export function narrow(dtype: u32, source: usize, count: i32, target: usize): void {
  for (let i = 0; i < count; i += 4) {
    const bits = v128.load(source + ((<usize>i) << 2));
    const words = dtype == BF16 ? bf16Bits4(bits) : halfBits4(bits);
    v128.store64_lane(target + ((<usize>i) << 1), i16x8.narrow_i32x4_u(words, words), 0);
  }
}

function bf16Bits4(bits: v128): v128 {
  const odd = v128.and(i32x4.shr_u(bits, 16), i32x4.splat(1));
  return i32x4.shr_u(i32x4.add(i32x4.add(bits, i32x4.splat(0x7fff)), odd), 16);
}

/** F16 bits of four finite f32. source: the reference is halfBits (numbers.ts) */
function halfBits4(bits: v128): v128 {
  const sign = v128.and(i32x4.shr_u(bits, 16), i32x4.splat(0x8000));
  const magnitude = v128.and(bits, i32x4.splat(0x7fffffff));
  const odd = v128.and(i32x4.shr_u(magnitude, 13), i32x4.splat(1));
  const rebiased = i32x4.sub(magnitude, i32x4.splat(0x38000000));
  const normal = i32x4.shr_u(i32x4.add(i32x4.add(rebiased, i32x4.splat(0xfff)), odd), 13);
  // Beside one half the last bit of an f32 is that of a subnormal half: the addition rounds as it must.
  const half = i32x4.splat(0x3f000000);
  const subnormal = i32x4.sub(f32x4.add(magnitude, half), half);
  const small = i32x4.lt_s(magnitude, i32x4.splat(0x38800000));
  const large = i32x4.ge_s(magnitude, i32x4.splat(0x477ff000));
  const finite = v128.bitselect(subnormal, normal, small);
  return v128.or(sign, v128.bitselect(i32x4.splat(0x7c00), finite, large));
}

/** How many of `count` weights of a dtype are ±0, by their bits. */
export function countZeros(dtype: u32, source: usize, count: i32): i32 {
  let zeros = 0;
  let i = 0;
  if (dtype == BF16 || dtype == F16) {
    for (; i + 8 <= count; i += 8) {
      const magnitude = i16x8.shl(v128.load(source + ((<usize>i) << 1)), 1);
      zeros += popcnt<i32>(i16x8.bitmask(i16x8.eq(magnitude, i64x2.splat(0))));
    }
    for (; i < count; i++) zeros += i32((load<u16>(source + ((<usize>i) << 1)) & 0x7fff) == 0);
  } else {
    for (; i + 4 <= count; i += 4) {
      const magnitude = i32x4.shl(v128.load(source + ((<usize>i) << 2)), 1);
      zeros += popcnt<i32>(i32x4.bitmask(i32x4.eq(magnitude, i64x2.splat(0))));
    }
    for (; i < count; i++) zeros += i32((load<u32>(source + ((<usize>i) << 2)) & 0x7fffffff) == 0);
  }
  return zeros;
}
