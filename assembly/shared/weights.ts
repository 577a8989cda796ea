// Loading weights of the three dtypes as magnitudes. The type parameter stands for the dtype:
// u16 is BF16, i16 is F16, f32 is F32. Everything is resolved at compile time.

/** Exact scale from a half's bits, shifted to a single's place, to its value; subnormals included. */
const F16_SCALE: f32 = reinterpret<f32>(0x77800000); // 2^112

/**
 * |w| of four weights at `ptr` as f32x4, exact. Infinities and NaN of F16 come out as large numbers: see
 * `hasNonFinite`.
 */
// @ts-ignore: decorator
@inline
export function magnitudes4<T>(ptr: usize): v128 {
  if (isFloat<T>()) return v128.and(v128.load(ptr), i32x4.splat(0x7fffffff));
  const patterns = v128.and(v128.load16x4_u(ptr), i32x4.splat(0x7fff));
  if (isSigned<T>()) return f32x4.mul(i32x4.shl(patterns, 13), f32x4.splat(F16_SCALE));
  return i32x4.shl(patterns, 16);
}

/** |w| of four weights with NaN and infinities as 0. */
// @ts-ignore: decorator
@inline
export function finiteMagnitudes4<T>(ptr: usize): v128 {
  const magnitudes = magnitudes4<T>(ptr);
  // A half's infinity comes out as 65536; a single's compares false with itself as limit, and so does NaN.
  const limit: f32 = isInteger<T>() && isSigned<T>() ? 65536 : f32.MAX_VALUE;
  if (isInteger<T>() && isSigned<T>()) return v128.and(magnitudes, f32x4.lt(magnitudes, f32x4.splat(limit)));
  return v128.and(magnitudes, f32x4.le(magnitudes, f32x4.splat(limit)));
}

/** The magnitude pattern of one weight. */
// @ts-ignore: decorator
@inline
export function pattern1<T>(ptr: usize): u32 {
  if (isFloat<T>()) return load<u32>(ptr) & 0x7fffffff;
  return <u32>load<u16>(ptr) & 0x7fff;
}

// @ts-ignore: decorator
@inline
export function infinityOf<T>(): u32 {
  if (isFloat<T>()) return 0x7f800000;
  return isSigned<T>() ? 0x7c00 : 0x7f80;
}

/** The value of a finite pattern. */
// @ts-ignore: decorator
@inline
export function valueOf<T>(pattern: u32): f32 {
  if (isFloat<T>()) return reinterpret<f32>(pattern);
  if (isSigned<T>()) return reinterpret<f32>(pattern << 13) * F16_SCALE;
  return reinterpret<f32>(pattern << 16);
}
