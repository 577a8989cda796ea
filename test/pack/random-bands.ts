import type { FloatDtype } from "../../src/safetensors/dtypes.js";

/** A small seeded generator (mulberry32): the same numbers on every machine. */
export function seededRandom(seed: number): () => number {
  let state = seed | 0;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

/** Gaussian weights (deviation 0.02) as raw words; those under `cut` deviations are zero. */
export function gaussianBand(dtype: FloatDtype, elementCount: number, cut: number, random: () => number): Uint8Array {
  const floats = new Float32Array(elementCount);
  for (let i = 0; i < elementCount; i++) {
    const x = Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
    floats[i] = Math.abs(x) < cut ? 0 : 0.02 * x;
  }
  const bits = new Uint32Array(floats.buffer);
  if (dtype === "F32") return new Uint8Array(floats.buffer);
  const words = Uint16Array.from(bits, (word) => (dtype === "BF16" ? word >>> 16 : halfOf(word)));
  return new Uint8Array(words.buffer);
}

/** F32 bits to F16 bits by truncation; what is too small becomes ±0. */
function halfOf(word: number): number {
  const exponent = ((word >>> 23) & 255) - 112;
  if (exponent <= 0) return (word >>> 16) & 0x8000;
  return ((word >>> 16) & 0x8000) | (exponent << 10) | ((word >>> 13) & 0x3ff);
}

/**
 * Words with every bit pattern equally likely, some zeros and repeats among them: escapes, NaN, infinities, subnormals.
 */
export function wildBand(dtype: FloatDtype, elementCount: number, random: () => number): Uint8Array {
  const size = dtype === "F32" ? 4 : 2;
  const raw = new Uint8Array(size * elementCount);
  for (let i = 0; i < elementCount; i++) {
    const kind = random();
    if (kind < 0.3) continue;
    if (kind < 0.4 && i > 0) raw.copyWithin(i * size, (i - 1) * size, i * size);
    else for (let byte = 0; byte < size; byte++) raw[i * size + byte] = Math.floor(random() * 256);
  }
  return raw;
}
