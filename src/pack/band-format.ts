import { PhysariumError } from "../errors.js";
import { bytesPerFloat, type FloatDtype } from "../safetensors/dtypes.js";

/**
 * One coded band: up to 2^20 neighbouring elements of one tensor, with tables of its own, so that bands are read alone.
 *
 * A **survivor** is a word that is not all zero bits (−0 is one); it has an exponent, a rest byte (sign, upper seven
 * mantissa bits) and, by dtype, further mantissa bits. A **mask byte** says which of eight neighbouring elements
 * survive. A survivor's
 * **nibble** is 0…14 for the band's
 * most frequent exponents, 15 for any other (an **escape**); two successive survivors' nibbles are a **pair**. Mask
 * bytes and pairs are Huffman coded, each with its own table, no code longer than 12 bits; the rest is raw.
 *
 * ```
 * byte   what
 * 0      u8   dtype: 1 BF16, 2 F16, 3 F32
 * 1      u8   flags: 1 mid plane present (F16: the 3 last mantissa bits; F32: bits 8…15), 2 low plane present (F32:
 * bits 0…7),
 *             4 mask present. A plane that would hold only zeros is left out; without a mask every element counts as a
 *             survivor, zero words too
 * 2      u16  0
 * 4      u32  survivors
 * 8      u32  escapes
 * 12     u32  bytes of all mask streams
 * 16     u32  bytes of all pair streams
 * 20     15×u8  biased exponent of nibble 0…14, 0 where unused
 * 35     u8   0
 * 36     128×u8 code length of mask byte m: bits 4·(m & 1) … of byte m >> 1; 0 where it does not occur       (if there
 * is a mask)
 *        128×u8 code lengths of the pairs, likewise                                                          (if
 *        anything survives)
 *        for each block (65,536 elements, the last one fewer): u16[4] bytes of its mask streams (if …), u16[4] of its
 *        pair streams (if …)
 *        all mask streams, block by block
 *        all pair streams, block by block
 *        u8[survivors]  rest bytes
 *        mid plane: F16 3 bits a survivor, first in bit 0, u8[ceil(3·survivors / 8)]; F32 u8[survivors]
 *        low plane: F32 u8[survivors]
 *        u8[escapes]    exponents of the escapes
 * ```
 * All numbers are little-endian. A block's mask bytes (and so its pairs) are cut into four runs of a quarter, rounded
 * up, each its own stream: codes canonical as in RFC 1951 (3.2.2), sent from their first bit on, first in bit 0 of the
 * first byte, zero bits up to the byte's end. Where only one byte occurs its length is 1 and its streams are empty.
 * Element 8i + k is bit k of mask byte i; bits behind the last element are 0. Pairs start anew with each block:
 * survivor 2i is the low nibble of pair i, and the missing neighbour of an odd last survivor has nibble 0.
 *
 * Why bytes of eight mask bits and pairs of exponents: a Huffman code loses up to half a bit a symbol, and one of such
 * groups loses it once for eight (two) weights; N:M patterns and dead channels show in mask bytes, too. Why nibbles: a
 * byte a pair keeps a decoding table at 16 KiB, and from nibble to exponent is one SIMD instruction. `bench/pack.mjs`
 * prints the sizes of the alternatives.
 */
export const HEAD_BYTES = 36;
export const EXPONENTS_AT = 20;
export const CODE_LENGTHS_BYTES = 128;

export const Flag = { MID: 1, LOW: 2, MASK: 4 } as const;

/**
 * A byte swizzle has 16 entries: an escape and 15 exponents. A Gaussian tensor has about one weight in 6,000 below the
 * 15th.
 */
export const RANKED_EXPONENTS = 15;
export const ESCAPE_NIBBLE = 15;

/** A decoding table has 2^12 entries of 4 bytes, and two of them fit into a first-level cache. */
export const MAX_CODE_BITS = 12;

/** What is decoded of a block stays in the second-level cache until it is joined. */
export const BLOCK_ELEMENTS = 65_536;

/** Bands hold at most this: encode and decode buffers are sized for it (about 16 MiB a worker). */
export const MAX_BAND_ELEMENTS = 1 << 20;

export const DTYPE_CODES: Readonly<Record<FloatDtype, 1 | 2 | 3>> = { BF16: 1, F16: 2, F32: 3 };

/** What a decoder returns or throws for bytes that break the layout, by the kernel's status. */
const FAULTS: readonly [code: string, what: string][] = [
  ["INTERNAL", "no fault"],
  ["DONOR_PACK_HEAD", "its head names another dtype, an unknown flag or a non-zero reserved field"],
  ["DONOR_PACK_LENGTH", "its parts do not add up to its length"],
  ["DONOR_PACK_TABLE", "its code lengths are no complete code of at most 12 bits"],
  ["DONOR_PACK_STREAM", "a code stream does not end where its block does"],
  ["DONOR_PACK_COUNT", "its streams hold another number of survivors or escapes than its head says"],
  ["DONOR_PACK_EXPONENT", "it holds an exponent that its dtype does not have"],
];

export const Fault = { HEAD: 1, LENGTH: 2, TABLE: 3, STREAM: 4, COUNT: 5, EXPONENT: 6 } as const;

/** The error for a decoder's status; `where` names file, tensor and band. */
export function bandError(status: number, where: string): PhysariumError {
  const [code, what] = FAULTS[status] ?? ["INTERNAL", `unknown decoder status ${status}`];
  return new PhysariumError(code, `${where}: the packed band is damaged: ${what}; copy or download the file again`, {
    where,
    status,
  });
}

/** Blocks of a band of `elementCount` elements. */
export function blockCount(elementCount: number): number {
  return Math.ceil(elementCount / BLOCK_ELEMENTS);
}

/** The bytes of stream 0…3 of a block's `count` bytes: [begin, end). */
export function streamRange(count: number, stream: number): [begin: number, end: number] {
  const quarter = Math.ceil(count / 4);
  return [Math.min(stream * quarter, count), Math.min((stream + 1) * quarter, count)];
}

/** Bytes of the mid and low plane of `survivors` survivors. */
export function planeByteLengths(dtype: FloatDtype, flags: number, survivors: number): [mid: number, low: number] {
  const mid = dtype === "F16" ? Math.ceil((3 * survivors) / 8) : survivors;
  return [flags & Flag.MID ? mid : 0, flags & Flag.LOW ? survivors : 0];
}

export function elementBytes(dtype: FloatDtype): 2 | 4 {
  return bytesPerFloat(dtype);
}
