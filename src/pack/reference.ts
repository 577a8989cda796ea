import type { FloatDtype } from "../safetensors/dtypes.js";
import {
  BLOCK_ELEMENTS,
  bandError,
  blockCount,
  DTYPE_CODES,
  ESCAPE_NIBBLE,
  EXPONENTS_AT,
  elementBytes,
  Fault,
  HEAD_BYTES,
  LENGTHS_AT,
  MAX_CODE_BITS,
  planeByteLengths,
  RANKED_EXPONENTS,
  streamRange,
} from "./band-format.js";
import {
  canonicalCodes,
  codeLengths,
  EXPONENT_COUNTS,
  isSingle,
  nibbleTable,
  rankExponents,
  ZERO_ENTRY,
} from "./pair-code.js";

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
  const counts = new Uint32Array(EXPONENT_COUNTS);
  for (const word of words) counts[word === 0 ? ZERO_ENTRY : splitWord(dtype, word).exponent]++;
  const ranked = rankExponents(counts);
  const nibbleOf = nibbleTable(ranked, counts);

  const pairs = new Uint8Array(Math.ceil(words.length / 2));
  const pairCounts = new Uint32Array(256);
  const survivors: Parts[] = [];
  const escapes: number[] = [];
  words.forEach((word, i) => {
    if (word === 0) return;
    const parts = splitWord(dtype, word);
    const nibble = nibbleOf[parts.exponent];
    survivors.push(parts);
    if (nibble === ESCAPE_NIBBLE) escapes.push(parts.exponent);
    pairs[i >> 1] |= nibble << (4 * (i & 1));
  });
  for (const pair of pairs) pairCounts[pair]++;
  const lengths = codeLengths(pairCounts);
  const codes = canonicalCodes(lengths);

  const streamLengths: number[] = [];
  const streams: number[] = [];
  for (let block = 0; block < blockCount(words.length); block++) {
    const inBlock = pairs.subarray((block * BLOCK_ELEMENTS) / 2, ((block + 1) * BLOCK_ELEMENTS) / 2);
    for (let stream = 0; stream < 4; stream++) {
      const bits: number[] = [];
      if (!isSingle(lengths)) {
        for (const pair of inBlock.subarray(...streamRange(inBlock.length, stream))) {
          for (let bit = 0; bit < codes[pair] >>> 16; bit++) bits.push((codes[pair] >>> bit) & 1);
        }
      }
      const bytes = packBits(bits);
      streamLengths.push(bytes.length);
      streams.push(...bytes);
    }
  }

  const hasMid = survivors.some((parts) => parts.mid !== 0);
  const hasLow = survivors.some((parts) => parts.low !== 0);
  const mid = !hasMid
    ? []
    : dtype === "F16"
      ? packBits(survivors.flatMap((parts) => [parts.mid & 1, (parts.mid >> 1) & 1, parts.mid >> 2]))
      : survivors.map((parts) => parts.mid);
  const low = hasLow ? survivors.map((parts) => parts.low) : [];

  const head = new DataView(new ArrayBuffer(HEAD_BYTES + 2 * streamLengths.length));
  head.setUint8(0, DTYPE_CODES[dtype]);
  head.setUint8(1, (hasMid ? 1 : 0) | (hasLow ? 2 : 0));
  head.setUint32(4, survivors.length, true);
  head.setUint32(8, escapes.length, true);
  head.setUint32(12, streams.length, true);
  ranked.forEach((exponent, place) => {
    head.setUint8(EXPONENTS_AT + place, exponent);
  });
  for (let i = 0; i < 128; i++) head.setUint8(LENGTHS_AT + i, lengths[2 * i] | (lengths[2 * i + 1] << 4));
  streamLengths.forEach((length, i) => {
    head.setUint16(HEAD_BYTES + 2 * i, length, true);
  });
  const rest = survivors.map((parts) => parts.rest);
  return Uint8Array.from([...new Uint8Array(head.buffer), ...streams, ...rest, ...mid, ...low, ...escapes]);
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
  const planes = view.getUint8(1);
  const knownPlanes = { BF16: 0, F16: 1, F32: 3 }[dtype];
  if (view.getUint8(0) !== DTYPE_CODES[dtype] || planes > knownPlanes) fail(Fault.HEAD);
  if (view.getUint16(2, true) !== 0 || view.getUint16(30, true) !== 0) fail(Fault.HEAD);
  const survivors = view.getUint32(4, true);
  const escapes = view.getUint32(8, true);
  const codeByteLength = view.getUint32(12, true);
  const blocks = blockCount(elementCount);
  if (survivors > elementCount || escapes > survivors || codeByteLength > packed.byteLength) fail(Fault.COUNT);
  const [midBytes, lowBytes] = planeByteLengths(dtype, planes, survivors);
  const streamsAt = HEAD_BYTES + 8 * blocks;
  const restAt = streamsAt + codeByteLength;
  const midAt = restAt + survivors;
  const lowAt = midAt + midBytes;
  const escapesAt = lowAt + lowBytes;
  if (escapesAt + escapes !== packed.byteLength) fail(Fault.LENGTH);
  const ranked = packed.subarray(EXPONENTS_AT, EXPONENTS_AT + RANKED_EXPONENTS);
  if (dtype === "F16" && ranked.some((exponent) => exponent > 31)) fail(Fault.EXPONENT);

  const lengths = Uint8Array.from(
    { length: 256 },
    (_, pair) => (packed[LENGTHS_AT + (pair >> 1)] >> (4 * (pair & 1))) & 15,
  );
  const used = lengths.reduce((n, length) => n + (length > 0 ? 1 : 0), 0);
  const kraft = lengths.reduce((sum, length) => sum + (length > 0 ? 2 ** (MAX_CODE_BITS - length) : 0), 0);
  const single = used === 1 && kraft === 2 ** (MAX_CODE_BITS - 1);
  if (lengths.some((length) => length > MAX_CODE_BITS)) fail(Fault.TABLE);
  if (!single && (used < 2 || kraft !== 2 ** MAX_CODE_BITS)) fail(Fault.TABLE);
  const pairOfCode = new Map<number, number>();
  canonicalCodes(lengths).forEach((code, pair) => {
    if (code !== 0) pairOfCode.set(code, pair);
  });

  const nibbles: number[] = [];
  const found = { survivors: 0, escapes: 0 };
  let streamAt = streamsAt;
  for (let block = 0; block < blocks; block++) {
    const elements = Math.min(BLOCK_ELEMENTS, elementCount - block * BLOCK_ELEMENTS);
    const inBlock = Math.ceil(elements / 2);
    const streamLengths = [0, 1, 2, 3].map((stream) => view.getUint16(HEAD_BYTES + 8 * block + 2 * stream, true));
    if (streamAt + streamLengths.reduce((a, b) => a + b) > restAt) fail(Fault.LENGTH);
    const pairs: number[] = [];
    streamLengths.forEach((length, stream) => {
      const [begin, end] = streamRange(inBlock, stream);
      const bytes = packed.subarray(streamAt, streamAt + length);
      if (single) {
        if (length !== 0) fail(Fault.STREAM);
        pairs.push(...new Array(end - begin).fill([...pairOfCode.values()][0]));
      } else {
        pairs.push(...(decodeStream(bytes, end - begin, pairOfCode) ?? fail(Fault.STREAM)));
      }
      streamAt += length;
    });
    if (elements % 2 === 1 && pairs[inBlock - 1] > 15) fail(Fault.STREAM);
    for (const nibble of pairs.flatMap((pair) => [pair & 15, pair >> 4])) {
      nibbles.push(nibble);
      if (nibble !== 0) found.survivors++;
      if (nibble === ESCAPE_NIBBLE) found.escapes++;
    }
    if (found.survivors > survivors || found.escapes > escapes) fail(Fault.COUNT);
  }
  if (streamAt !== restAt) fail(Fault.LENGTH);
  if (found.survivors !== survivors || found.escapes !== escapes) fail(Fault.COUNT);
  if (dtype === "F16") {
    if (packed.subarray(escapesAt).some((exponent) => exponent > 31)) fail(Fault.EXPONENT);
    const spareBits = 8 * midBytes - 3 * survivors;
    if (midBytes > 0 && packed[lowAt - 1] >> (8 - spareBits) !== 0) fail(Fault.STREAM);
  }

  const size = elementBytes(dtype);
  const raw = new DataView(new ArrayBuffer(size * elementCount));
  let survivor = 0;
  let escaped = 0;
  for (let i = 0; i < elementCount; i++) {
    if (nibbles[i] === 0) continue;
    const exponent = nibbles[i] === ESCAPE_NIBBLE ? packed[escapesAt + escaped++] : ranked[nibbles[i] - 1];
    let mid = 0;
    if (planes & 1)
      mid = dtype === "F16" ? threeBits(packed.subarray(midAt, lowAt), survivor) : packed[midAt + survivor];
    const low = planes & 2 ? packed[lowAt + survivor] : 0;
    const word = joinWord(dtype, { exponent, rest: packed[restAt + survivor], mid, low });
    if (size === 2) raw.setUint16(2 * i, word & 0xffff, true);
    else raw.setUint32(4 * i, word, true);
    survivor++;
  }
  return new Uint8Array(raw.buffer);
}

/** `count` pairs from one stream, or `undefined` where it ends too early, too late or with a set bit behind the last code. */
function decodeStream(bytes: Uint8Array, count: number, pairOfCode: ReadonlyMap<number, number>): number[] | undefined {
  const pairs: number[] = [];
  let position = 0;
  const next = () => (bytes[position >> 3] >> (position++ & 7)) & 1;
  while (pairs.length < count) {
    let code = 0;
    let length = 0;
    let pair: number | undefined;
    while (pair === undefined) {
      if (position === 8 * bytes.byteLength) return undefined;
      code |= next() << length++;
      pair = pairOfCode.get(code | (length << 16));
    }
    pairs.push(pair);
  }
  while (position % 8 !== 0) if (next() !== 0) return undefined;
  return position === 8 * bytes.byteLength ? pairs : undefined;
}

function threeBits(bytes: Uint8Array, index: number): number {
  let value = 0;
  for (let bit = 0; bit < 3; bit++) {
    const position = 3 * index + bit;
    value |= ((bytes[position >> 3] >> (position & 7)) & 1) << bit;
  }
  return value;
}
