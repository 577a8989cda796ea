import type { FloatDtype } from "../safetensors/dtypes.js";
import {
  BLOCK_ELEMENTS,
  bandError,
  blockCount,
  CODE_LENGTHS_BYTES,
  DTYPE_CODES,
  ESCAPE_NIBBLE,
  EXPONENTS_AT,
  elementBytes,
  Fault,
  Flag,
  HEAD_BYTES,
  MAX_CODE_BITS,
  planeByteLengths,
  RANKED_EXPONENTS,
  streamRange,
} from "./band-format.js";
import { canonicalCodes, codeLengths, isDense, isSingle, nibbleTable, rankExponents } from "./byte-code.js";

/** A survivor's parts; `rest` is sign and upper seven mantissa bits. */
interface Parts {
  exponent: number;
  rest: number;
  mid: number;
  low: number;
}

/** Take a word apart. Together with `joinWord` this is all that the codec knows of a dtype. */
export function splitWord(dtype: FloatDtype, word: number): Parts {
  if (dtype === "BF16") {
    return { exponent: (word >>> 7) & 255, rest: ((word >>> 8) & 0x80) | (word & 0x7f), mid: 0, low: 0 };
  }
  if (dtype === "F16") {
    return { exponent: (word >>> 10) & 31, rest: ((word >>> 8) & 0x80) | ((word >>> 3) & 0x7f), mid: word & 7, low: 0 };
  }
  return {
    exponent: (word >>> 23) & 255,
    rest: ((word >>> 24) & 0x80) | ((word >>> 16) & 0x7f),
    mid: (word >>> 8) & 255,
    low: word & 255,
  };
}

export function joinWord(dtype: FloatDtype, { exponent, rest, mid, low }: Parts): number {
  const sign = rest >>> 7;
  const upper = rest & 0x7f;
  if (dtype === "BF16") return (sign << 15) | (exponent << 7) | upper;
  if (dtype === "F16") return (sign << 15) | (exponent << 10) | (upper << 3) | mid;
  return ((sign << 31) | (exponent << 23) | (upper << 16) | (mid << 8) | low) >>> 0;
}

/** Words of a band, little-endian. */
function wordsOf(dtype: FloatDtype, raw: Uint8Array): number[] {
  const view = new DataView(raw.buffer, raw.byteOffset, raw.byteLength);
  const size = elementBytes(dtype);
  return Array.from({ length: raw.byteLength / size }, (_, i) =>
    size === 2 ? view.getUint16(2 * i, true) : view.getUint32(4 * i, true),
  );
}

/**
 * Code one band, readably. `assembly/pack.ts` gives the same bytes; this is the spec.
 *
 * raw      little-endian words, 1…2^20 of them
 * returns  the coded band, which may be longer than `raw`: the caller then keeps `raw`
 */
export function encodeBandReference(dtype: FloatDtype, raw: Uint8Array): Uint8Array {
  const words = wordsOf(dtype, raw);
  const parts = words.map((word) => splitWord(dtype, word));
  const hasMid = parts.some((part) => part.mid !== 0);
  const hasLow = parts.some((part) => part.low !== 0);
  const wordBits = 8 + (hasMid ? (dtype === "F16" ? 3 : 8) : 0) + (hasLow ? 8 : 0);
  const zeros = words.filter((word) => word === 0).length;
  const masksOfZeros = maskBytes(words.map((word) => word !== 0));
  const dense = isDense(countBytes(masksOfZeros.flat()), zeros, wordBits);
  const alive = words.map((word) => dense || word !== 0);

  const survivors = parts.filter((_, i) => alive[i]);
  const exponentCounts = countBytes(survivors.map((part) => part.exponent));
  const ranked = rankExponents(exponentCounts);
  const nibbleOf = nibbleTable(ranked, exponentCounts);
  const escapes = survivors.map((part) => part.exponent).filter((exponent) => nibbleOf[exponent] === ESCAPE_NIBBLE);
  const pairs: number[][] = [];
  for (let block = 0; block < blockCount(words.length); block++) {
    const [begin, end] = [block * BLOCK_ELEMENTS, (block + 1) * BLOCK_ELEMENTS];
    const nibbles = parts
      .slice(begin, end)
      .filter((_, i) => alive[begin + i])
      .map((part) => nibbleOf[part.exponent]);
    pairs.push(
      Array.from(
        { length: Math.ceil(nibbles.length / 2) },
        (_, i) => nibbles[2 * i] | ((nibbles[2 * i + 1] ?? 0) << 4),
      ),
    );
  }
  const codedMasks = dense ? undefined : encodeBytes(masksOfZeros);
  const codedPairs = survivors.length === 0 ? undefined : encodeBytes(pairs);

  const head = new DataView(new ArrayBuffer(HEAD_BYTES));
  head.setUint8(0, DTYPE_CODES[dtype]);
  head.setUint8(1, (hasMid ? Flag.MID : 0) | (hasLow ? Flag.LOW : 0) | (dense ? 0 : Flag.MASK));
  head.setUint32(4, survivors.length, true);
  head.setUint32(8, escapes.length, true);
  head.setUint32(12, codedMasks?.streams.length ?? 0, true);
  head.setUint32(16, codedPairs?.streams.length ?? 0, true);
  ranked.forEach((exponent, place) => {
    head.setUint8(EXPONENTS_AT + place, exponent);
  });
  const mids = survivors.map((part) => part.mid);
  const midPlane = dtype === "F16" ? packBits(mids.flatMap((mid) => [mid & 1, (mid >> 1) & 1, mid >> 2])) : mids;
  return Uint8Array.from([
    ...new Uint8Array(head.buffer),
    ...(codedMasks?.lengths ?? []),
    ...(codedPairs?.lengths ?? []),
    ...pairs
      .flatMap((_, block) => [...(codedMasks?.streamLengths[block] ?? []), ...(codedPairs?.streamLengths[block] ?? [])])
      .flatMap((length) => [length & 255, length >> 8]),
    ...(codedMasks?.streams ?? []),
    ...(codedPairs?.streams ?? []),
    ...survivors.map((part) => part.rest),
    ...(hasMid ? midPlane : []),
    ...(hasLow ? survivors.map((part) => part.low) : []),
    ...escapes,
  ]);
}

/** Eight elements a byte, block by block. */
function maskBytes(alive: readonly boolean[]): number[][] {
  const blocks: number[][] = [];
  for (let begin = 0; begin < alive.length; begin += BLOCK_ELEMENTS) {
    blocks.push(packBits(alive.slice(begin, begin + BLOCK_ELEMENTS).map(Number)));
  }
  return blocks;
}

function countBytes(bytes: readonly number[]): Uint32Array {
  const counts = new Uint32Array(256);
  for (const byte of bytes) counts[byte]++;
  return counts;
}

/** The blocks' bytes as streams, with their table. */
function encodeBytes(blocks: readonly number[][]) {
  const lengths = codeLengths(countBytes(blocks.flat()));
  const codes = canonicalCodes(lengths);
  const streams: number[] = [];
  const streamLengths = blocks.map((bytes) =>
    [0, 1, 2, 3].map((stream) => {
      const bits: number[] = [];
      for (const byte of isSingle(lengths) ? [] : bytes.slice(...streamRange(bytes.length, stream))) {
        for (let bit = 0; bit < codes[byte] >>> 16; bit++) bits.push((codes[byte] >>> bit) & 1);
      }
      const coded = packBits(bits);
      streams.push(...coded);
      return coded.length;
    }),
  );
  const packedLengths = Array.from({ length: 128 }, (_, i) => lengths[2 * i] | (lengths[2 * i + 1] << 4));
  return { lengths: packedLengths, streamLengths, streams };
}

/** Bits to bytes, the first in bit 0, zeros behind the last. */
function packBits(bits: readonly number[]): number[] {
  const bytes: number[] = new Array(Math.ceil(bits.length / 8)).fill(0);
  bits.forEach((bit, i) => {
    bytes[i >> 3] |= bit << (i & 7);
  });
  return bytes;
}

/**
 * Decode one band, readably and one bit at a time. `assembly/unpack.ts` accepts and refuses the same bytes.
 *
 * `where` opens the messages. Throws `DONOR_PACK_*`: the first promise of the layout that the bytes break.
 */
export function decodeBandReference(
  dtype: FloatDtype,
  packed: Uint8Array,
  elementCount: number,
  where: string,
): Uint8Array {
  const fail = (status: number): never => {
    throw bandError(status, where);
  };
  if (packed.byteLength < HEAD_BYTES) fail(Fault.LENGTH);
  const view = new DataView(packed.buffer, packed.byteOffset, packed.byteLength);
  const flags = view.getUint8(1);
  const knownFlags = { BF16: Flag.MASK, F16: Flag.MASK | Flag.MID, F32: Flag.MASK | Flag.MID | Flag.LOW }[dtype];
  if (view.getUint8(0) !== DTYPE_CODES[dtype] || (flags & ~knownFlags) !== 0) fail(Fault.HEAD);
  if (view.getUint16(2, true) !== 0 || view.getUint8(HEAD_BYTES - 1) !== 0) fail(Fault.HEAD);
  const survivors = view.getUint32(4, true);
  const escapes = view.getUint32(8, true);
  const maskByteLength = view.getUint32(12, true);
  const pairByteLength = view.getUint32(16, true);
  const hasMask = (flags & Flag.MASK) !== 0;
  const hasPairs = survivors !== 0;
  if (survivors > elementCount || escapes > survivors || (!hasMask && survivors !== elementCount)) fail(Fault.COUNT);
  const blocks = blockCount(elementCount);
  const codes = Number(hasMask) + Number(hasPairs);
  const [midBytes, lowBytes] = planeByteLengths(dtype, flags, survivors);
  const streamLengthsAt = HEAD_BYTES + codes * CODE_LENGTHS_BYTES;
  const masksAt = streamLengthsAt + codes * 8 * blocks;
  const pairsAt = masksAt + maskByteLength;
  const restAt = pairsAt + pairByteLength;
  const midAt = restAt + survivors;
  const lowAt = midAt + midBytes;
  const escapesAt = lowAt + lowBytes;
  if (escapesAt + escapes !== packed.byteLength) fail(Fault.LENGTH);
  const ranked = packed.subarray(EXPONENTS_AT, EXPONENTS_AT + RANKED_EXPONENTS);
  if (dtype === "F16" && ranked.some((exponent) => exponent > 31)) fail(Fault.EXPONENT);
  const tableAt = (code: number) =>
    parseTable(packed.subarray(HEAD_BYTES + code * CODE_LENGTHS_BYTES)) ?? fail(Fault.TABLE);
  const maskTable = hasMask ? tableAt(0) : undefined;
  const pairTable = hasPairs ? tableAt(Number(hasMask)) : undefined;

  let lengthsAt = streamLengthsAt;
  const cursor = { masks: masksAt, pairs: pairsAt };
  const nextBytes = (which: "masks" | "pairs", table: Table, count: number): number[] => {
    const lengths = [0, 2, 4, 6].map((at) => view.getUint16(lengthsAt + at, true));
    lengthsAt += 8;
    const end = cursor[which] + lengths.reduce((a, b) => a + b);
    if (end > (which === "masks" ? pairsAt : restAt)) fail(Fault.LENGTH);
    const bytes: number[] = [];
    lengths.forEach((length, stream) => {
      const [first, stop] = streamRange(count, stream);
      const coded = packed.subarray(cursor[which], cursor[which] + length);
      bytes.push(...(decodeStream(coded, stop - first, table) ?? fail(Fault.STREAM)));
      cursor[which] += length;
    });
    return bytes;
  };

  const alive: boolean[] = [];
  const nibbles: number[] = [];
  let escaped = 0;
  for (let block = 0; block < blocks; block++) {
    const elements = Math.min(BLOCK_ELEMENTS, elementCount - block * BLOCK_ELEMENTS);
    const masks = maskTable === undefined ? undefined : nextBytes("masks", maskTable, Math.ceil(elements / 8));
    if (masks !== undefined && elements % 8 !== 0 && masks[masks.length - 1] >> (elements % 8) !== 0)
      fail(Fault.STREAM);
    let inBlock = 0;
    for (let i = 0; i < elements; i++) {
      alive.push(masks === undefined || ((masks[i >> 3] >> (i & 7)) & 1) === 1);
      if (alive[alive.length - 1]) inBlock++;
    }
    if (nibbles.length + inBlock > survivors) fail(Fault.COUNT);
    if (pairTable === undefined) continue;
    const pairs = nextBytes("pairs", pairTable, Math.ceil(inBlock / 2));
    if (inBlock % 2 === 1 && pairs[pairs.length - 1] > 15) fail(Fault.STREAM);
    const found = pairs.flatMap((pair) => [pair & 15, pair >> 4]).slice(0, inBlock);
    for (const nibble of found) nibbles.push(nibble);
    escaped += found.filter((nibble) => nibble === ESCAPE_NIBBLE).length;
    if (escaped > escapes) fail(Fault.COUNT);
  }
  if (cursor.masks !== pairsAt || cursor.pairs !== restAt) fail(Fault.LENGTH);
  if (nibbles.length !== survivors || escaped !== escapes) fail(Fault.COUNT);
  if (dtype === "F16") {
    if (packed.subarray(escapesAt).some((exponent) => exponent > 31)) fail(Fault.EXPONENT);
    const spareBits = 8 * midBytes - 3 * survivors;
    if (midBytes > 0 && packed[lowAt - 1] >> (8 - spareBits) !== 0) fail(Fault.STREAM);
  }

  const size = elementBytes(dtype);
  const raw = new DataView(new ArrayBuffer(size * elementCount));
  let survivor = 0;
  let escapesTaken = 0;
  for (let i = 0; i < elementCount; i++) {
    if (!alive[i]) continue;
    const nibble = nibbles[survivor];
    const exponent = nibble === ESCAPE_NIBBLE ? packed[escapesAt + escapesTaken++] : ranked[nibble];
    let mid = 0;
    if (flags & Flag.MID)
      mid = dtype === "F16" ? threeBits(packed.subarray(midAt, lowAt), survivor) : packed[midAt + survivor];
    const low = flags & Flag.LOW ? packed[lowAt + survivor] : 0;
    const word = joinWord(dtype, { exponent, rest: packed[restAt + survivor], mid, low });
    if (size === 2) raw.setUint16(2 * i, word, true);
    else raw.setUint32(4 * i, word, true);
    survivor++;
  }
  return new Uint8Array(raw.buffer);
}

interface Table {
  /** The byte where the code has only one. */
  readonly only: number | undefined;
  /** `code | length << 16` → byte. */
  readonly byteOf: ReadonlyMap<number, number>;
}

/** A table of code lengths, or `undefined` where they are no complete code. */
function parseTable(bytes: Uint8Array): Table | undefined {
  const lengths = Uint8Array.from({ length: 256 }, (_, byte) => (bytes[byte >> 1] >> (4 * (byte & 1))) & 15);
  if (lengths.some((length) => length > MAX_CODE_BITS)) return undefined;
  const kraft = lengths.reduce((sum, length) => sum + (length > 0 ? 2 ** (MAX_CODE_BITS - length) : 0), 0);
  const used = lengths.reduce((count, length) => count + (length > 0 ? 1 : 0), 0);
  const isOnly = used === 1 && kraft === 2 ** (MAX_CODE_BITS - 1);
  if (!isOnly && (used < 2 || kraft !== 2 ** MAX_CODE_BITS)) return undefined;
  const byteOf = new Map<number, number>();
  canonicalCodes(lengths).forEach((code, byte) => {
    if (code !== 0) byteOf.set(code, byte);
  });
  return { only: isOnly ? lengths.indexOf(1) : undefined, byteOf };
}

/**
 * `count` bytes from one stream, or `undefined` where it ends too early, too late or with a set bit behind the last
 * code.
 */
function decodeStream(coded: Uint8Array, count: number, { only, byteOf }: Table): number[] | undefined {
  if (only !== undefined) return coded.byteLength === 0 ? new Array(count).fill(only) : undefined;
  const bytes: number[] = [];
  let position = 0;
  const next = () => (coded[position >> 3] >> (position++ & 7)) & 1;
  while (bytes.length < count) {
    let code = 0;
    let length = 0;
    let byte: number | undefined;
    while (byte === undefined) {
      if (position === 8 * coded.byteLength) return undefined;
      code |= next() << length++;
      byte = byteOf.get(code | (length << 16));
    }
    bytes.push(byte);
  }
  while (position % 8 !== 0) if (next() !== 0) return undefined;
  return position === 8 * coded.byteLength ? bytes : undefined;
}

function threeBits(bytes: Uint8Array, index: number): number {
  let value = 0;
  for (let bit = 0; bit < 3; bit++) {
    const position = 3 * index + bit;
    value |= ((bytes[position >> 3] >> (position & 7)) & 1) << bit;
  }
  return value;
}
