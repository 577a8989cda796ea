import type { FloatDtype } from "../safetensors/dtypes.js";
import { ESCAPE_NIBBLE } from "./band-format.js";
import {
  codedBits,
  codeLengths,
  EXPONENT_COUNTS,
  entropyBits,
  nibbleTable,
  rankExponents,
  ZERO_ENTRY,
} from "./pair-code.js";

/** What the codec would make of some words, without making it: bits without heads and tables. */
export interface WordStatistics {
  elementCount: number;
  /** Words equal to ±0. */
  zeros: number;
  /** Bits the pair code, rest bytes, planes and escapes take. */
  codedBits: number;
  /** Shannon's bound for zero-or-exponent without context, plus everything else raw. */
  boundBits: number;
  /** The same with one Huffman code a weight instead of a pair, and with a raw mask beside coded exponents: what the format is not. */
  singleCodeBits: number;
  rawMaskBits: number;
}

/** raw: little-endian words, at an even (F32: fourfold) byte offset of their buffer. */
export function measureWords(dtype: FloatDtype, raw: Uint8Array): WordStatistics {
  const isWide = dtype === "F32";
  const words = isWide
    ? new Uint32Array(raw.buffer, raw.byteOffset, raw.byteLength >> 2)
    : new Uint16Array(raw.buffer, raw.byteOffset, raw.byteLength >> 1);
  const shift = { BF16: 7, F16: 10, F32: 23 }[dtype];
  const mask = dtype === "F16" ? 31 : 255;
  const signless = isWide ? 0x7fffffff : 0x7fff;
  const counts = new Uint32Array(EXPONENT_COUNTS);
  let negativeZeros = 0;
  let allBits = 0;
  for (let i = 0; i < words.length; i++) {
    const word = words[i];
    allBits |= word;
    if (word === 0) counts[ZERO_ENTRY]++;
    else {
      counts[(word >>> shift) & mask]++;
      if ((word & signless) === 0) negativeZeros++;
    }
  }
  const survivors = words.length - counts[ZERO_ENTRY];
  const nibbleOf = nibbleTable(rankExponents(counts), counts);
  const pairCounts = new Uint32Array(256);
  let escapes = 0;
  for (let i = 0; i < words.length; i += 2) {
    const first = words[i] === 0 ? 0 : nibbleOf[(words[i] >>> shift) & mask];
    const other = i + 1 < words.length ? words[i + 1] : 0;
    const second = other === 0 ? 0 : nibbleOf[(other >>> shift) & mask];
    if (first === ESCAPE_NIBBLE) escapes++;
    if (second === ESCAPE_NIBBLE) escapes++;
    pairCounts[first | (second << 4)]++;
  }
  let restBits = 8;
  if (dtype === "F16" && (allBits & 7) !== 0) restBits += 3;
  if (isWide && (allBits & 0xff00) !== 0) restBits += 8;
  if (isWide && (allBits & 0xff) !== 0) restBits += 8;
  const rest = restBits * survivors;
  const exponentCounts = counts.subarray(0, ZERO_ENTRY);
  return {
    elementCount: words.length,
    zeros: counts[ZERO_ENTRY] + negativeZeros,
    codedBits: codedBits(pairCounts, codeLengths(pairCounts)) + rest + 8 * escapes,
    boundBits: entropyBits(counts) + rest,
    singleCodeBits: codedBits(counts, codeLengths(counts)) + rest,
    rawMaskBits: words.length + codedBits(exponentCounts, codeLengths(exponentCounts)) + rest,
  };
}
