import { bytesPerFloat, type FloatDtype } from "../safetensors/dtypes.js";

const scratchFloat = new Float32Array(1);
const scratchBits = new Uint32Array(scratchFloat.buffer);

/** Little-endian BF16, F16 or F32 → f32, exact. `bytes` may start at any offset. */
export function decodeFloats(bytes: Uint8Array, dtype: FloatDtype): Float32Array {
  const count = bytes.byteLength / bytesPerFloat(dtype);
  const aligned = bytes.byteOffset % 4 === 0 ? bytes : bytes.slice();
  if (dtype === "F32") return new Float32Array(aligned.buffer, aligned.byteOffset, count).slice();
  const halves = new Uint16Array(aligned.buffer, aligned.byteOffset, count);
  const out = new Float32Array(count);
  if (dtype === "BF16") {
    const bits = new Uint32Array(out.buffer);
    for (let at = 0; at < count; at++) bits[at] = halves[at] << 16;
  } else {
    for (let at = 0; at < count; at++) out[at] = decodeHalf(halves[at]);
  }
  return out;
}

/**
 * f32 → little-endian BF16, F16 or F32, rounded to nearest, ties to even; −0 becomes +0, for in a target both are dead.
 * A finite f32 beyond the dtype's range becomes its largest finite number: a healed weight must not turn infinite.
 */
export function encodeFloats(values: Float32Array, dtype: FloatDtype): Uint8Array {
  if (dtype === "F32") {
    const copy = values.slice();
    for (let at = 0; at < copy.length; at++) if (copy[at] === 0) copy[at] = 0;
    return new Uint8Array(copy.buffer);
  }
  const halves = new Uint16Array(values.length);
  if (dtype === "BF16") {
    const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
    for (let at = 0; at < values.length; at++) halves[at] = roundToBf16(bits[at]);
  } else {
    for (let at = 0; at < values.length; at++) halves[at] = encodeHalf(values[at]);
  }
  return new Uint8Array(halves.buffer);
}

function roundToBf16(bits: number): number {
  const magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f7fffff) return bits >>> 16; // ±∞ and NaN have nothing to round
  const rounded = (magnitude + 0x7fff + ((magnitude >>> 16) & 1)) >>> 16;
  const kept = Math.min(rounded, 0x7f7f);
  return kept === 0 ? 0 : kept | ((bits >>> 16) & 0x8000);
}

function decodeHalf(half: number): number {
  const sign = half & 0x8000 ? -1 : 1;
  const exponent = (half >>> 10) & 0x1f;
  const fraction = half & 0x3ff;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction === 0 ? sign * Number.POSITIVE_INFINITY : Number.NaN;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

function encodeHalf(value: number): number {
  scratchFloat[0] = value;
  const bits = scratchBits[0];
  const sign = (bits >>> 16) & 0x8000;
  const magnitude = Math.abs(value);
  if (Number.isNaN(value)) return 0x7e00;
  if (magnitude === Number.POSITIVE_INFINITY) return sign | 0x7c00;
  if (magnitude >= 65504) return sign | 0x7bff;
  // The spacing of halves at this size; multiplying by a power of two is exact, so one rounding happens.
  const exponent = Math.max(((bits >>> 23) & 0xff) - 127, -14);
  const steps = roundToEven(magnitude * 2 ** (10 - exponent));
  if (steps === 0) return 0;
  return sign | (exponent === -14 ? steps : steps - 1024 + ((exponent + 15) << 10));
}

function roundToEven(value: number): number {
  const floor = Math.floor(value);
  const rest = value - floor;
  if (rest > 0.5) return floor + 1;
  if (rest < 0.5) return floor;
  return floor % 2 === 0 ? floor : floor + 1;
}
