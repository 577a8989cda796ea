/** Numbers in [0, 1), the same for a seed. */
export function randomNumbers(seed: number): () => number {
  let state = seed >>> 0;
  // A counter through MurmurHash3's finaliser. source: Steele, Lea & Flood 2014,
  // https://doi.org/10.1145/2660193.2660195
  return () => {
    state = (state + 0x9e3779b9) >>> 0;
    let mixed = state;
    mixed = Math.imul(mixed ^ (mixed >>> 16), 0x85ebca6b);
    mixed = Math.imul(mixed ^ (mixed >>> 13), 0xc2b2ae35);
    return ((mixed ^ (mixed >>> 16)) >>> 0) / 2 ** 32;
  };
}
