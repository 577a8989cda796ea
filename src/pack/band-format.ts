import { PhysariumError } from "../errors.js";
import { bytesPerFloat, type FloatDtype } from "../safetensors/dtypes.js";

/**
 * One coded band: up to 2^20 neighbouring elements of one tensor, with tables of its own, so that bands are read alone.
 *
 * A word is a **zero** (all bits 0; −0 is none) or a **survivor** with an exponent, a rest byte (sign, upper seven mantissa bits)
 * and, by dtype, further mantissa bits. Every element has a **nibble**: 0 for a zero, 1…14 for the band's most frequent
 * exponents, 15 for any other (an **escape**). Two neighbours' nibbles are a **pair**, and pairs are Huffman coded with at most 12 bits.
 *
 * ```
 * byte   what
 * 0      u8   dtype: 1 BF16, 2 F16, 3 F32
 * 1      u8   planes present: 1 = mid (F16: the 3 last mantissa bits; F32: bits 8…15), 2 = low (F32: bits 0…7);
 *             a plane that would hold only zeros is left out
 * 2      u16  0
 * 4      u32  survivors
 * 8      u32  escapes
 * 12     u32  bytes of all code streams
 * 16     14×u8  biased exponent of nibble 1…14, 0 where unused
 * 30     u16  0
 * 32     128×u8 code length of pair p: bits 4·(p & 1) … of byte p >> 1; 0 where the pair does not occur
 * 160    u16[4 × blocks]  bytes of each stream; a block is 65,536 elements, the last one shorter
 *        the streams; a block's pairs are cut into four runs of ceil(pairs / 4), each its own stream, first code bit in bit 0 of the
 *             first byte, codes canonical as in RFC 1951 (3.2.2) and sent from their first bit on, zero bits up to the byte's end
 *        u8[survivors]  rest bytes
 *        mid plane: F16 3 bits a survivor, first in bit 0, u8[ceil(3·survivors / 8)]; F32 u8[survivors]
 *        low plane: F32 u8[survivors]
 *        u8[escapes]    exponents of the escapes
 * ```
 * All numbers are little-endian. Where only one pair occurs its length is 1 and all streams are empty. Element 2i is the low nibble of pair
 * i; the missing neighbour of an odd last element has nibble 0.
 *
 * Why pairs of nibbles: a Huffman code of single symbols loses 0.3–0.6 % of the size at 0–50 % sparsity and 4 % at 90 %, a code of pairs 0.1 %
 * and 1 %; a byte a pair keeps the decoder's table at 16 KiB, and a 16-entry table from nibble to exponent is one SIMD instruction.
 */
export const HEAD_BYTES = 160;
export const EXPONENTS_AT = 16;
export const LENGTHS_AT = 32;

/** A byte swizzle has 16 entries: zero, escape and 14 exponents. A Gaussian tensor has 0.01 % of its weights below the 14th. */
export const RANKED_EXPONENTS = 14;
export const ESCAPE_NIBBLE = 15;

/** The decoder's table has 2^12 entries of 4 bytes: half of a first-level cache. 11 bits cost 0.1 % of size, 13 bits gain 0.01 %. */
export const MAX_CODE_BITS = 12;

/** 32 KiB of pairs stay in the first-level cache between decoding them and joining them with the survivors' bytes. */
export const BLOCK_ELEMENTS = 65_536;

/** Bands hold at most this: encode and decode buffers are sized for it (about 14 MiB a worker). */
export const MAX_BAND_ELEMENTS = 1 << 20;

export const DTYPE_CODES: Readonly<Record<FloatDtype, 1 | 2 | 3>> = { BF16: 1, F16: 2, F32: 3 };

/** What a decoder returns or throws for bytes that break the layout, by the kernel's status. */
const FAULTS: readonly [code: string, what: string][] = [
  ["INTERNAL", "no fault"],
  ["DONOR_PACK_HEAD", "its head names another dtype, an unknown plane or a non-zero reserved field"],
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

/** The pairs of stream 0…3 of a block of `pairs` pairs: [begin, end). */
export function streamRange(pairs: number, stream: number): [begin: number, end: number] {
  const quarter = Math.ceil(pairs / 4);
  return [Math.min(stream * quarter, pairs), Math.min((stream + 1) * quarter, pairs)];
}

/** Bytes of the mid and low plane of `survivors` survivors. */
export function planeByteLengths(dtype: FloatDtype, planes: number, survivors: number): [mid: number, low: number] {
  const mid = dtype === "F16" ? Math.ceil((3 * survivors) / 8) : survivors;
  return [planes & 1 ? mid : 0, planes & 2 ? survivors : 0];
}

export function elementBytes(dtype: FloatDtype): 2 | 4 {
  return bytesPerFloat(dtype);
}
