import { decodeFloats, f16ToF32 } from "../safetensors/float-bits.js";
import { TENSOR_TYPES, type TensorType } from "./gguf/types.js";

/**
 * The F32 weights that GGUF blocks stand for.
 *
 * bytes    whole blocks, aligned to the dtype where the type is a float
 * returns  a new array, or for F32 a view of `bytes`
 *
 * Every product of a block's scales and levels fits an f64 exactly, so each weight is rounded once, to F32, as
 * llama.cpp rounds it.
 * source: ggml-org/llama.cpp ggml/src/ggml-quants.c dequantize_row_*; layouts: ggml/src/ggml-common.h
 */
export function dequantise(type: TensorType, bytes: Uint8Array): Float32Array {
  if (type === "F32" || type === "F16" || type === "BF16") return decodeFloats(bytes, type);
  const { blockLength, blockBytes } = TENSOR_TYPES[type];
  const blocks = bytes.byteLength / blockBytes;
  const out = new Float32Array(blocks * blockLength);
  const decode = BLOCK_DECODERS[type];
  for (let block = 0; block < blocks; block++) decode(bytes, block * blockBytes, out, block * blockLength);
  return out;
}

type BlockDecoder = (bytes: Uint8Array, at: number, out: Float32Array, to: number) => void;

function half(bytes: Uint8Array, at: number): number {
  return f16ToF32(bytes[at] | (bytes[at + 1] << 8));
}

function signed(byte: number): number {
  return (byte << 24) >> 24;
}

/**
 * 32 weights of 4 or 5 bits; `highBits` is where the fifth bits stand, `nibbles` the others: low nibbles first, then
 * high ones.
 */
function decode32(
  bytes: Uint8Array,
  nibbles: number,
  highBits: number | undefined,
  out: Float32Array,
  to: number,
  scale: number,
  shift: number,
): void {
  const high =
    highBits === undefined
      ? 0
      : bytes[highBits] | (bytes[highBits + 1] << 8) | (bytes[highBits + 2] << 16) | (bytes[highBits + 3] << 24);
  for (let i = 0; i < 16; i++) {
    const byte = bytes[nibbles + i];
    out[to + i] = ((byte & 15) | (((high >>> i) & 1) << 4)) * scale + shift;
    out[to + i + 16] = ((byte >> 4) | (((high >>> (i + 16)) & 1) << 4)) * scale + shift;
  }
}

/** The 6-bit scale and minimum of one of the eight groups of Q4_K and Q5_K, packed into 12 bytes. */
function groupScale(bytes: Uint8Array, at: number, group: number): [scale: number, minimum: number] {
  if (group < 4) return [bytes[at + group] & 63, bytes[at + group + 4] & 63];
  const low = bytes[at + group + 4];
  return [(low & 15) | ((bytes[at + group - 4] >> 6) << 4), (low >> 4) | ((bytes[at + group] >> 6) << 4)];
}

/** source: ggml-common.h `kvalues_iq4nl` */
const IQ4_NL_GRID = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113] as const;

const BLOCK_DECODERS: Readonly<Record<Exclude<TensorType, "F32" | "F16" | "BF16">, BlockDecoder>> = {
  Q8_0(bytes, at, out, to) {
    const scale = half(bytes, at);
    for (let i = 0; i < 32; i++) out[to + i] = signed(bytes[at + 2 + i]) * scale;
  },
  Q4_0(bytes, at, out, to) {
    const scale = half(bytes, at);
    decode32(bytes, at + 2, undefined, out, to, scale, -8 * scale);
  },
  IQ4_NL(bytes, at, out, to) {
    const scale = half(bytes, at);
    for (let i = 0; i < 16; i++) {
      const byte = bytes[at + 2 + i];
      out[to + i] = IQ4_NL_GRID[byte & 15] * scale;
      out[to + i + 16] = IQ4_NL_GRID[byte >> 4] * scale;
    }
  },
  Q4_1(bytes, at, out, to) {
    decode32(bytes, at + 4, undefined, out, to, half(bytes, at), half(bytes, at + 2));
  },
  Q5_0(bytes, at, out, to) {
    const scale = half(bytes, at);
    decode32(bytes, at + 6, at + 2, out, to, scale, -16 * scale);
  },
  Q5_1(bytes, at, out, to) {
    decode32(bytes, at + 8, at + 4, out, to, half(bytes, at), half(bytes, at + 2));
  },
  Q4_K(bytes, at, out, to) {
    const scale = half(bytes, at);
    const minimum = half(bytes, at + 2);
    for (let group = 0; group < 8; group++) {
      const [groupStep, groupShift] = groupScale(bytes, at + 4, group);
      const step = scale * groupStep;
      const shift = minimum * groupShift;
      // Two groups share 32 bytes: the even one has the low nibbles.
      const nibbles = at + 16 + (group >> 1) * 32;
      const bits = (group & 1) * 4;
      for (let i = 0; i < 32; i++) out[to + group * 32 + i] = step * ((bytes[nibbles + i] >> bits) & 15) - shift;
    }
  },
  Q5_K(bytes, at, out, to) {
    const scale = half(bytes, at);
    const minimum = half(bytes, at + 2);
    for (let group = 0; group < 8; group++) {
      const [groupStep, groupShift] = groupScale(bytes, at + 4, group);
      const step = scale * groupStep;
      const shift = minimum * groupShift;
      const nibbles = at + 48 + (group >> 1) * 32;
      const bits = (group & 1) * 4;
      for (let i = 0; i < 32; i++) {
        const level = ((bytes[nibbles + i] >> bits) & 15) | (((bytes[at + 16 + i] >> group) & 1) << 4);
        out[to + group * 32 + i] = step * level - shift;
      }
    }
  },
  Q6_K(bytes, at, out, to) {
    const scale = half(bytes, at + 208);
    for (let i = 0; i < 256; i++) {
      // Each half of 128 weights: four runs of 32, in the low nibbles of 64 bytes, then their high nibbles.
      const halfIndex = i >> 7;
      const run = (i >> 5) & 3;
      const lane = i & 31;
      const low = (bytes[at + halfIndex * 64 + (run & 1) * 32 + lane] >> ((run >> 1) * 4)) & 15;
      const high = (bytes[at + 128 + halfIndex * 32 + lane] >> (run * 2)) & 3;
      out[to + i] = scale * signed(bytes[at + 192 + (i >> 4)]) * ((low | (high << 4)) - 32);
    }
  },
};
