import { bytesPerFloat, type FloatDtype } from "./dtypes.js";

/**
 * Conversions between F32 and the 16-bit floats, round to nearest, ties to even. Widening is exact; what narrowing does
 * with a finite value that is too large, and with −0, the caller says.
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

/**
 * The bits of a number (f64) in `dtype`, too large ones as infinity. F16 is rounded once, from f64; BF16 through f32,
 * where the second rounding could differ from a direct one on an exact tie only.
 */
export function floatBits(value: number, dtype: FloatDtype): number {
  if (dtype === "F16") return f16OfNumber(value);
  scratchF32[0] = value;
  return dtype === "F32" ? scratchU32[0] : bf16OfF32Bits(scratchU32[0]);
}

function f16OfNumber(value: number): number {
  const sign = value < 0 || Object.is(value, -0) ? 0x8000 : 0;
  const magnitude = Math.abs(value);
  if (magnitude >= 65_520) return sign | 0x7c00;
  // Spacing of halves: 2^-24 below 2^-14, then 2^(exponent - 10).
  const exponent = magnitude < 2 ** -14 ? -14 : Math.floor(Math.log2(magnitude));
  const quotient = magnitude / 2 ** (exponent - 10);
  const floor = Math.floor(quotient);
  const rest = quotient - floor;
  const rounded = floor + (rest > 0.5 || (rest === 0.5 && floor % 2 === 1) ? 1 : 0);
  // A mantissa that rounds up to 2048 carries into the exponent, which is what adding does. Subnormals have no hidden
  // bit.
  return sign | (magnitude < 2 ** -14 ? rounded : ((exponent + 14) << 10) + rounded);
}

/**
 * Whether F32 numbers may lie in the memory they came from (which then must be aligned), or get memory of their own.
 */
export type Memory = "alias" | "copy";

/**
 * Widen stored floats (little-endian) to F32. With `copy`, `bytes` may start at any offset; else it must be aligned to
 * its dtype.
 */
export function decodeFloats(bytes: Uint8Array, dtype: FloatDtype, memory: Memory = "alias"): Float32Array {
  const size = bytesPerFloat(dtype);
  const isMoved = memory === "copy" && (dtype === "F32" || bytes.byteOffset % size !== 0);
  const { buffer, byteOffset, byteLength } = isMoved ? bytes.slice() : bytes;
  if (dtype === "F32") return new Float32Array(buffer, byteOffset, byteLength / size);
  const source = new Uint16Array(buffer, byteOffset, byteLength / size);
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

export interface Narrowing {
  /**
   * What a finite number beyond the dtype's range becomes: an infinity, or the largest finite number. Default infinity.
   */
  readonly overflow?: "infinity" | "clamp";
  /** Whether −0, and what rounds to it, keeps its sign. Default so. */
  readonly negativeZero?: "keep" | "drop";
  /** F32 needs no narrowing: the same memory, or a copy. Default the same; dropping −0 makes a copy. */
  readonly memory?: Memory;
}

/** Weights that a method moved: none must turn infinite, and in a target +0 and −0 are both dead, written as +0. */
export const MOVED_WEIGHTS: Narrowing = { overflow: "clamp", negativeZero: "drop", memory: "copy" };

/**
 * Let no number that is not 0 have become 0 in `bytes`, which `encodeFloats` made of `values`: it gets the smallest
 * magnitude of the dtype, and a mask told by zeros stays as it was.
 */
export function keepLiving(bytes: Uint8Array, values: Float32Array, dtype: FloatDtype): void {
  if (dtype === "F32") return;
  const bits = new Uint16Array(bytes.buffer, bytes.byteOffset, values.length);
  for (let i = 0; i < values.length; i++) {
    if (values[i] !== 0 && (bits[i] & 0x7fff) === 0) bits[i] = values[i] < 0 ? 0x8001 : 0x0001;
  }
}

/** Narrow F32 to the bytes of `dtype`. */
export function encodeFloats(
  values: Float32Array,
  dtype: FloatDtype,
  { overflow = "infinity", negativeZero = "keep", memory = "alias" }: Narrowing = {},
): Uint8Array {
  if (dtype === "F32") {
    const own = memory === "copy" || negativeZero === "drop" ? values.slice() : values;
    if (negativeZero === "drop") for (let i = 0; i < own.length; i++) if (own[i] === 0) own[i] = 0;
    return new Uint8Array(own.buffer, own.byteOffset, own.byteLength);
  }
  const source = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const out = new Uint16Array(values.length);
  const [narrow, infinity] = dtype === "F16" ? [f16OfF32Bits, 0x7c00] : [bf16OfF32Bits, 0x7f80];
  for (let i = 0; i < source.length; i++) out[i] = narrow(source[i]);
  if (overflow === "clamp") {
    for (let i = 0; i < out.length; i++) {
      const wasFinite = (source[i] & 0x7fffffff) < 0x7f800000;
      // The largest finite number lies right below infinity.
      if ((out[i] & 0x7fff) === infinity && wasFinite) out[i]--;
    }
  }
  if (negativeZero === "drop") for (let i = 0; i < out.length; i++) if (out[i] === 0x8000) out[i] = 0;
  return new Uint8Array(out.buffer);
}
