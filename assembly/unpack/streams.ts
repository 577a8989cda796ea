// Streams of prefix codes, four to a block: their decoding tables, and the bytes they hold.

import { BAD_LENGTH, BAD_STREAM, OK } from "./status";

const WINDOW_BITS: u32 = 12;
const WINDOW_MASK: u64 = 4095;

/**
 * Within a decoding table: u32[4096], up to three bytes, their bits << 24, their count << 28; then u16[4096], one byte
 * | its length << 8.
 */
const SINGLE: usize = 16384;

/** Bytes of a block's four streams, whose lengths stand at `lengths`, u16[4]. */
export function streamBytes(lengths: usize): u32 {
  return (<u32>load<u16>(lengths)) + load<u16>(lengths, 2) + load<u16>(lengths, 4) + load<u16>(lengths, 6);
}

/**
 * Build a decoding table from 256 code lengths of 4 bits, which come to stand at `lengths`, a byte each.
 * Returns 0x100, the byte where the code has only that one, or 0xffff where the lengths are no complete code.
 */
export function buildTable(packedLengths: usize, table: usize, lengths: usize): u32 {
  let used: u32 = 0;
  let only: u32 = 0;
  let kraft: u32 = 0;
  for (let byte: u32 = 0; byte < 256; byte++) {
    const length: u32 = (load<u8>(packedLengths + (byte >> 1)) >> ((byte & 1) << 2)) & 15;
    if (length > WINDOW_BITS) return 0xffff;
    store<u8>(lengths + byte, length);
    if (length == 0) continue;
    used++;
    only = byte;
    kraft += 4096 >> length;
  }
  if (used == 1 && load<u8>(lengths + only) == 1) return only;
  if (kraft != 4096 || used < 2) return 0xffff;

  const single = table + SINGLE;
  let code: u32 = 0;
  for (let length: u32 = 1; length <= WINDOW_BITS; length++) {
    for (let byte: u32 = 0; byte < 256; byte++) {
      if (load<u8>(lengths + byte) != length) continue;
      let reversed: u32 = 0;
      for (let bit: u32 = 0; bit < length; bit++) reversed |= ((code >> bit) & 1) << (length - 1 - bit);
      const entry = byte | (length << 8);
      for (let at = reversed; at < 4096; at += 1 << length) store<u16>(single + ((<usize>at) << 1), entry);
      code++;
    }
    code <<= 1;
  }

  for (let window: u32 = 0; window < 4096; window++) {
    const first: u32 = load<u16>(single + ((<usize>window) << 1));
    let bits = first >> 8;
    let entry = first & 255;
    let count: u32 = 1;
    const second: u32 = load<u16>(single + ((<usize>(window >> bits)) << 1));
    if (bits + (second >> 8) <= WINDOW_BITS) {
      entry |= (second & 255) << 8;
      bits += second >> 8;
      count = 2;
      const third: u32 = load<u16>(single + ((<usize>(window >> bits)) << 1));
      if (bits + (third >> 8) <= WINDOW_BITS) {
        entry |= (third & 255) << 16;
        bits += third >> 8;
        count = 3;
      }
    }
    store<u32>(table + ((<usize>window) << 2), entry | (bits << 24) | (count << 28));
  }
  return 0x100;
}

function lookUp(table: usize, bits: u64): u32 {
  return load<u32>(table + ((<usize>(bits & WINDOW_MASK)) << 2));
}

/** One block's four streams to `count` bytes at dst; where only one byte occurs the streams are empty. */
export function decodeStreams(
  code: usize,
  codeEnd: usize,
  lengths: usize,
  only: u32,
  table: usize,
  dst: usize,
  count: u32,
): u32 {
  const sum = streamBytes(lengths);
  if (code + sum > codeEnd) return BAD_LENGTH;
  if (only != 0x100) {
    if (sum != 0) return BAD_STREAM;
    memory.fill(dst, <u8>only, count);
    return OK;
  }
  return decodeFour(code, lengths, table, dst, count) ? OK : BAD_STREAM;
}

/** The streams side by side: a lookup waits for the one before it in its stream, not for the other three. */
function decodeFour(code: usize, lengths: usize, table: usize, dst: usize, count: u32): bool {
  const quarter = (count + 3) >> 2;
  let a = code;
  const aEnd = a + load<u16>(lengths);
  let b = aEnd;
  const bEnd = b + load<u16>(lengths, 2);
  let c = bEnd;
  const cEnd = c + load<u16>(lengths, 4);
  let d = cEnd;
  const dEnd = d + load<u16>(lengths, 6);
  let aOut = dst;
  const aStop = dst + min<u32>(quarter, count);
  let bOut = aStop;
  const bStop = dst + min<u32>(2 * quarter, count);
  let cOut = bStop;
  const cStop = dst + min<u32>(3 * quarter, count);
  let dOut = cStop;
  const dStop = dst + count;
  let aBit: u64 = 0;
  let bBit: u64 = 0;
  let cBit: u64 = 0;
  let dBit: u64 = 0;

  // A turn takes at most 7 + 48 bits of the 64 loaded and stores at most 12 bytes and one behind them, a stream.
  while (
    a + 8 <= aEnd &&
    b + 8 <= bEnd &&
    c + 8 <= cEnd &&
    d + 8 <= dEnd &&
    aOut + 16 <= aStop &&
    bOut + 16 <= bStop &&
    cOut + 16 <= cStop &&
    dOut + 16 <= dStop
  ) {
    let aBits = load<u64>(a) >> aBit;
    let bBits = load<u64>(b) >> bBit;
    let cBits = load<u64>(c) >> cBit;
    let dBits = load<u64>(d) >> dBit;
    for (let turn = 0; turn < 4; turn++) {
      const aEntry = lookUp(table, aBits);
      const bEntry = lookUp(table, bBits);
      const cEntry = lookUp(table, cBits);
      const dEntry = lookUp(table, dBits);
      store<u32>(aOut, aEntry);
      store<u32>(bOut, bEntry);
      store<u32>(cOut, cEntry);
      store<u32>(dOut, dEntry);
      aOut += aEntry >> 28;
      bOut += bEntry >> 28;
      cOut += cEntry >> 28;
      dOut += dEntry >> 28;
      const aTook = <u64>((aEntry >> 24) & 15);
      const bTook = <u64>((bEntry >> 24) & 15);
      const cTook = <u64>((cEntry >> 24) & 15);
      const dTook = <u64>((dEntry >> 24) & 15);
      aBits >>= aTook;
      bBits >>= bTook;
      cBits >>= cTook;
      dBits >>= dTook;
      aBit += aTook;
      bBit += bTook;
      cBit += cTook;
      dBit += dTook;
    }
    a += <usize>(aBit >> 3);
    b += <usize>(bBit >> 3);
    c += <usize>(cBit >> 3);
    d += <usize>(dBit >> 3);
    aBit &= 7;
    bBit &= 7;
    cBit &= 7;
    dBit &= 7;
  }
  return (
    finishStream(a, <u32>aBit, aEnd, aOut, aStop, table) &&
    finishStream(b, <u32>bBit, bEnd, bOut, bStop, table) &&
    finishStream(c, <u32>cBit, cEnd, cOut, cStop, table) &&
    finishStream(d, <u32>dBit, dEnd, dOut, dStop, table)
  );
}

/** The rest of one stream, the last codes one by one; it must end in its last byte, zero bits behind it. */
function finishStream(at: usize, bit: u32, end: usize, out: usize, stop: usize, table: usize): bool {
  while (at + 8 <= end && out + 16 <= stop) {
    let bits = load<u64>(at) >> bit;
    for (let turn = 0; turn < 4; turn++) {
      const entry = lookUp(table, bits);
      store<u32>(out, entry);
      out += entry >> 28;
      const took = (entry >> 24) & 15;
      bits >>= took;
      bit += took;
    }
    at += bit >> 3;
    bit &= 7;
  }
  const single = table + SINGLE;
  while (out < stop) {
    let window: u32 = 0;
    if (at < end) window = load<u8>(at);
    if (at + 1 < end) window |= (<u32>load<u8>(at, 1)) << 8;
    if (at + 2 < end) window |= (<u32>load<u8>(at, 2)) << 16;
    const entry: u32 = load<u16>(single + ((<usize>((window >> bit) & 4095)) << 1));
    store<u8>(out, entry);
    out++;
    bit += entry >> 8;
    at += bit >> 3;
    bit &= 7;
    if (at > end || (at == end && bit > 0)) return false;
  }
  if (bit > 0) {
    if (load<u8>(at) >> bit) return false;
    at++;
  }
  return at == end;
}
