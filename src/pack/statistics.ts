import type { FloatDtype } from "../safetensors/dtypes.js";
import { CODE_LENGTHS_BYTES, ESCAPE_NIBBLE, HEAD_BYTES } from "./band-format.js";
import { codedBits, codeLengths, entropyBits, isDense, nibbleTable, rankExponents } from "./byte-code.js";

/** What the codec would make of some words, without making it. */
export interface WordStatistics {
  elementCount: number;
  /** Words equal to ±0. */
  zeros: number;
  /** Bits of mask, exponents, rest bytes, planes and escapes: what grows with the words. */
  codedBits: number;
  /** Bytes of head and tables, which a band has once. */
  headBytes: number;
  /** Bits of the stream lengths that a block has. */
  blockBytes: number;
  /** Shannon's bound for zero-or-exponent without context, plus everything else raw. */
  boundBits: number;
  /**
   * What the format is not: one Huffman code for zero-or-exponent of each weight; a raw mask beside Huffman coded
   * exponents.
   */
  singleCodeBits: number;
  rawMaskBits: number;
}

/** Entry of the zero words in counts by exponent. */
const ZERO = 256;

/** raw: little-endian words, at an even (F32: fourfold) byte offset of their buffer. */
export function measureWords(dtype: FloatDtype, raw: Uint8Array): WordStatistics {
  const isWide = dtype === "F32";
  const words = isWide
    ? new Uint32Array(raw.buffer, raw.byteOffset, raw.byteLength >> 2)
    : new Uint16Array(raw.buffer, raw.byteOffset, raw.byteLength >> 1);
  const shift = { BF16: 7, F16: 10, F32: 23 }[dtype];
  const mask = dtype === "F16" ? 31 : 255;
  const signless = isWide ? 0x7fffffff : 0x7fff;
  const counts = new Uint32Array(ZERO + 1);
  const maskCounts = new Uint32Array(256);
  let negativeZeros = 0;
  let allBits = 0;
  let maskByte = 0;
  for (let i = 0; i < words.length; i++) {
    const word = words[i];
    allBits |= word;
    if (word === 0) counts[ZERO]++;
    else {
      maskByte |= 1 << (i & 7);
      counts[(word >>> shift) & mask]++;
      if ((word & signless) === 0) negativeZeros++;
    }
    if ((i & 7) === 7 || i === words.length - 1) {
      maskCounts[maskByte]++;
      maskByte = 0;
    }
  }
  let wordBits = 8;
  if (dtype === "F16" && (allBits & 7) !== 0) wordBits += 3;
  if (isWide && (allBits & 0xff00) !== 0) wordBits += 8;
  if (isWide && (allBits & 0xff) !== 0) wordBits += 8;

  const zeroWords = counts[ZERO];
  const dense = isDense(maskCounts, zeroWords, wordBits);
  const exponentCounts = counts.slice(0, ZERO);
  if (dense) exponentCounts[0] += zeroWords;
  const nibbleOf = nibbleTable(rankExponents(exponentCounts), exponentCounts);
  const pairCounts = new Uint32Array(256);
  let escapes = 0;
  let pair = -1;
  for (let i = 0; i < words.length; i++) {
    if (words[i] === 0 && !dense) continue;
    const nibble = nibbleOf[(words[i] >>> shift) & mask];
    if (nibble === ESCAPE_NIBBLE) escapes++;
    if (pair < 0) pair = nibble;
    else {
      pairCounts[pair | (nibble << 4)]++;
      pair = -1;
    }
  }
  if (pair >= 0) pairCounts[pair]++;
  const alive = words.length - (dense ? 0 : zeroWords);
  const codes = (dense ? 0 : 1) + (alive > 0 ? 1 : 0);
  const bits = (bytes: Uint32Array) => codedBits(bytes, codeLengths(bytes));
  const rest = wordBits * (words.length - zeroWords);
  const trueExponents = counts.subarray(0, ZERO);
  return {
    elementCount: words.length,
    zeros: zeroWords + negativeZeros,
    codedBits: (dense ? 0 : bits(maskCounts)) + bits(pairCounts) + wordBits * alive + 8 * escapes,
    headBytes: HEAD_BYTES + codes * CODE_LENGTHS_BYTES,
    blockBytes: 8 * codes,
    boundBits: entropyBits(counts) + rest,
    singleCodeBits: bits(counts) + rest,
    rawMaskBits: words.length + bits(trueExponents) + rest,
  };
}
