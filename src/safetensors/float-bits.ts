import type { FloatDtype } from "./dtypes.js";

/**
 * Conversions between F32 and the 16-bit floats, round to nearest, ties to even.
 * Widening is exact. Narrowing a finite value may give an infinity: `f16Overflow` in the caller's hands, not here.
 */

const scratchF32 = new Float32Array(1);
const scratchU32 = new Uint32Array(scratchF32.buffer);

/** F32 bits of every F16, filled on first use: 256 KiB. */
let f16Table: Float32Array | undefined;

function f16Values(): Float32Array {
  if (f16Table !== undefined) return f16Table;
  const table = new Float32Array(65_536);
  for (let bits = 0; bits < 65_536; bits++) {
    const sign = bits & 0x8000 ? -1 : 1;
    const exponent = (bits >> 10) & 0x1f;
    const fraction = bits & 0x3ff;
    if (exponent === 0x1f) table[bits] = fraction === 0 ? sign * Number.POSITIVE_INFINITY : Number.NaN;
    else if (exponent === 0) table[bits] = sign * fraction * 2 ** -24;
    else table[bits] = sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
  }
  f16Table = table;
  return table;
}

export function f16ToF32(bits: number): number {
  return f16Values()[bits];
}

/** F16 bits of an F32 given by its bits. */
export function f16OfF32Bits(bits: number): number {
  const sign = (bits >>> 16) & 0x8000;
  const magnitude = bits & 0x7fffffff;
  if (magnitude >= 0x7f800000) return sign | (magnitude > 0x7f800000 ? 0x7e00 : 0x7c00);
  // 65520 and above round to infinity.
  if (magnitude >= 0x477ff000) return sign | 0x7c00;
  if (magnitude >= 0x38800000) {
    const rebiased = magnitude - 0x38000000;
    return sign | ((rebiased + 0xfff + ((rebiased >>> 13) & 1)) >>> 13);
  }
  // Below 2^-14 the result is a multiple of 2^-24; below 2^-25 it is zero.
  if (magnitude < 0x33000000) return sign;
  const shift = 126 - (magnitude >>> 23);
  const mantissa = (magnitude & 0x7fffff) | 0x800000;
  let units = mantissa >>> shift;
  const rest = mantissa & ((1 << shift) - 1);
  const half = 1 << (shift - 1);
  if (rest > half || (rest === half && (units & 1) === 1)) units++;
  return sign | units;
}

/** BF16 bits of an F32 given by its bits; NaN stays NaN. */
export function bf16OfF32Bits(bits: number): number {
  if ((bits & 0x7fffffff) > 0x7f800000) return ((bits >>> 16) | 0x40) & 0xffff;
  return ((bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16) & 0xffff;
}

export function f16OfF32(value: number): number {
  scratchF32[0] = value;
  return f16OfF32Bits(scratchU32[0]);
}

/** Widen stored floats (little-endian) to F32; `bytes` must be aligned to its dtype. */
export function decodeFloats(bytes: Uint8Array, dtype: FloatDtype): Float32Array {
  if (dtype === "F32") return new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
  const source = new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 2);
  const out = new Float32Array(source.length);
  if (dtype === "F16") {
    const table = f16Values();
    for (let i = 0; i < source.length; i++) out[i] = table[source[i]];
  } else {
    const outBits = new Uint32Array(out.buffer);
    for (let i = 0; i < source.length; i++) outBits[i] = source[i] << 16;
  }
  return out;
}

/** Narrow F32 to the bytes of `dtype`. */
export function encodeFloats(values: Float32Array, dtype: FloatDtype): Uint8Array {
  if (dtype === "F32") return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
  const source = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const out = new Uint16Array(values.length);
  const narrow = dtype === "F16" ? f16OfF32Bits : bf16OfF32Bits;
  for (let i = 0; i < source.length; i++) out[i] = narrow(source[i]);
  return new Uint8Array(out.buffer);
}
