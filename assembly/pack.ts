// Encoder of one band of the lossless pack. The layout and the readable spec: src/pack/band-format.ts and
// src/pack/reference.ts.
// Pure functions over pointers; the host owns the memory layout (src/pack/band-encoder.ts). Every function writes only
// the bytes it names.

export { countBytes, pairByTable, pairInWindow } from "./pack/pairs";
export { init, split } from "./pack/split";
export { encodeStreams } from "./pack/streams";
export { xxh64 } from "./shared/xxh64";

/**
 * Three bits a byte of src, count of them, to a little-endian bit stream at dst: u8[ceil(3 × count / 8)], then up to 8
 * bytes of scratch.
 */
export function packThreeBits(src: usize, count: u32, dst: usize): void {
  let bits: u64 = 0;
  let held: u64 = 0;
  for (let i: u32 = 0; i < count; i++) {
    bits |= (<u64>load<u8>(src + i)) << held;
    held += 3;
    if (held >= 48) {
      store<u64>(dst, bits);
      dst += 6;
      bits >>= 48;
      held -= 48;
    }
  }
  store<u64>(dst, bits);
}
