// Quantisation to GGUF's block types, as llama.cpp's functions do it: the same f32 operations in the same order, so the
// blocks are equal to the bit (tests hold them to digests that llama.cpp's own library made), with the importance of
// columns and without. Each function reads `count` f32 weights at `source`, whole rows of `rowLength`, and writes whole
// blocks at `target`; `importance` is the place of `rowLength` f32, or 0. Weights are finite.
//
// source: ggml-org/llama.cpp ggml/src/ggml-quants.c (MIT); block layouts: ggml/src/ggml-common.h

export { quantiseQ4_0, quantiseQ5_0, quantiseQ5_1, quantiseQ8_0 } from "./quantise/blocks-32";
export {
  dequantiseIQ4_NL,
  dequantiseQ4_0,
  dequantiseQ4_1,
  dequantiseQ4_K,
  dequantiseQ5_0,
  dequantiseQ5_1,
  dequantiseQ5_K,
  dequantiseQ6_K,
  dequantiseQ8_0,
} from "./quantise/dequantise";
export { countZeros, narrow, widen } from "./quantise/floats";
export { quantiseIQ4_NL } from "./quantise/iq4-nl";
export { quantiseQ4_K, quantiseQ5_K, quantiseQ6_K } from "./quantise/super-blocks";
export { compareStored, tally } from "./quantise/tally";

/** First byte that the caller may use. */
export function freeMemoryFrom(): usize {
  return (__heap_base + 63) & ~63;
}
