import type { FloatDtype } from "../safetensors/dtypes.js";

/**
 * The representable magnitudes of a dtype: bit patterns without the sign, 0 … `infinity` − 1. As integers they order as
 * the numbers do, which is what makes one cut a tile possible.
 */
export interface MagnitudeFormat {
  readonly bytes: 2 | 4;
  /** All bits but the sign. */
  readonly magnitudeMask: number;
  /** The pattern of +∞: the first that is not finite, one past the largest magnitude. */
  readonly infinity: number;
  /** The exact value of a pattern below `infinity`. */
  toNumber(pattern: number): number;
  /** The smallest pattern whose value is at least `value` (≥ 0); `infinity` where none is. */
  ceil(value: number): number;
}

const f32 = new Float32Array(1);
const u32 = new Uint32Array(f32.buffer);

function fromF32Bits(bits: number): number {
  u32[0] = bits;
  return f32[0];
}

const BF16: MagnitudeFormat = {
  bytes: 2,
  magnitudeMask: 0x7fff,
  infinity: 0x7f80,
  toNumber: (pattern) => fromF32Bits(pattern << 16),
  ceil: (value) => ceilBy(BF16, value, (bits) => bits >>> 16),
};

const F16: MagnitudeFormat = {
  bytes: 2,
  magnitudeMask: 0x7fff,
  infinity: 0x7c00,
  toNumber: (pattern) => {
    const exponent = pattern >>> 10;
    const mantissa = pattern & 0x3ff;
    return exponent === 0 ? mantissa * 2 ** -24 : (1024 + mantissa) * 2 ** (exponent - 25);
  },
  // Scaled by 2^-112 a half's bits are a single's, subnormals included, shifted by 13.
  ceil: (value) => ceilBy(F16, value, (_, scaled) => scaled >>> 13),
};

const F32: MagnitudeFormat = {
  bytes: 4,
  magnitudeMask: 0x7fffffff,
  infinity: 0x7f800000,
  toNumber: fromF32Bits,
  ceil: (value) => ceilBy(F32, value, (bits) => bits),
};

/** Truncate to a pattern near `value`, then walk to the exact place. */
function ceilBy(
  format: MagnitudeFormat,
  value: number,
  truncate: (bits: number, scaledBits: number) => number,
): number {
  if (!(value > 0)) return 0;
  f32[0] = value;
  const bits = u32[0];
  f32[0] = value * 2 ** -112;
  let pattern = Math.min(truncate(bits, u32[0]), format.infinity);
  while (pattern > 0 && format.toNumber(pattern - 1) >= value) pattern--;
  while (pattern < format.infinity && format.toNumber(pattern) < value) pattern++;
  return pattern;
}

const FORMATS: Record<FloatDtype, MagnitudeFormat> = { BF16, F16, F32 };

export function magnitudeFormat(dtype: FloatDtype): MagnitudeFormat {
  return FORMATS[dtype];
}

/** Unsigned views of raw weights; `bytes` must start at a multiple of the element size in its buffer. */
export function weightPatterns(bytes: Uint8Array, dtype: FloatDtype): Uint16Array | Uint32Array {
  const { buffer, byteOffset, byteLength } = bytes;
  return dtype === "F32"
    ? new Uint32Array(buffer, byteOffset, byteLength / 4)
    : new Uint16Array(buffer, byteOffset, byteLength / 2);
}
