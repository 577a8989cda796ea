// Sample weights for the benches of the pack, from a small seeded generator: the same bytes on every machine.

/** mulberry32 */
export function seededRandom(seed) {
  let state = seed | 0;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

/** Gaussian weights (deviation 0.02) as raw words; those under `cut` deviations are zero. */
export function gaussianWords(dtype, count, cut, random) {
  const floats = new Float32Array(count);
  for (let i = 0; i < count; i += 2) {
    // Box–Muller gives two at a time.
    const radius = Math.sqrt(-2 * Math.log(1 - random()));
    const angle = 2 * Math.PI * random();
    for (const [at, x] of [
      [i, radius * Math.cos(angle)],
      [i + 1, radius * Math.sin(angle)],
    ]) {
      if (at < count) floats[at] = Math.abs(x) < cut ? 0 : 0.02 * x;
    }
  }
  if (dtype === "F32") return new Uint8Array(floats.buffer);
  const bits = new Uint32Array(floats.buffer);
  const words = new Uint16Array(count);
  for (let i = 0; i < count; i++) words[i] = dtype === "BF16" ? toBf16(bits[i]) : toF16(bits[i]);
  return new Uint8Array(words.buffer);
}

/** Every bit pattern equally likely, three zeros among ten words: escapes, NaN, infinities, subnormals. */
export function wildWords(dtype, count, random) {
  const size = dtype === "F32" ? 4 : 2;
  const bytes = new Uint8Array(size * count);
  for (let i = 0; i < count; i++) {
    if (random() < 0.3) continue;
    for (let byte = 0; byte < size; byte++) bytes[i * size + byte] = Math.floor(random() * 256);
  }
  return bytes;
}

/** Rounds to nearest even, as frameworks do. */
function toBf16(word) {
  return (word + 0x7fff + ((word >>> 16) & 1)) >>> 16;
}

/** Truncates; what is too small for F16 becomes zero. */
function toF16(word) {
  const exponent = ((word >>> 23) & 255) - 112;
  if (exponent <= 0) return (word >>> 16) & 0x8000;
  return ((word >>> 16) & 0x8000) | (exponent << 10) | ((word >>> 13) & 0x3ff);
}
