// Decoder of one band of the lossless pack. The layout and the readable spec: src/pack/band-format.ts and
// src/pack/reference.ts.
//
// The bytes are foreign: every count is checked against the bytes there are before it moves a pointer, every table is
// complete,
// so no input writes outside dst and scratch. Loads may pass the end of src by up to 16 bytes (the host leaves room);
// what they find there never reaches dst.

import { BAD_COUNT, BAD_EXPONENT, BAD_HEAD, BAD_LENGTH, BAD_STREAM, BAD_TABLE, OK } from "./unpack/status";
import { buildTable, decodeStreams, streamBytes } from "./unpack/streams";

export { xxh64 } from "./shared/xxh64";

const BLOCK_ELEMENTS: u32 = 65536;
const HEAD_BYTES: u32 = 36;
const TABLE_BYTES: u32 = 128;

// Scratch, offsets from its start. The host's SCRATCH_BYTES covers it.
const MASK_TABLE: usize = 0; //      a decoding table: see buildTable
const PAIR_TABLE: usize = 24576; //  another
const LENGTHS: usize = 49152; //     u8[256]
const EXPAND: usize = 49408; //      u8[256][8]: where the k-th set bit of a byte takes its survivor from, 0x80 elsewhere
const MASKS: usize = 51456; //       u8[8192 + 32]: one block's mask bytes, zeros behind them
const PAIRS: usize = 59680; //       u8[32768 + 32]: one block's pairs, zeros behind them
const EXPONENTS: usize = 92480; //   u8[65536 + 32]: one block's survivors' exponents
const TAIL: usize = 158048; //       u8[64]: the last, partial group of elements
// 158112 in all

let scratchAt: usize = 0;

/** Once a memory: scratch is u8[158,112]. */
export function init(scratch: usize): void {
  scratchAt = scratch;
  for (let mask: u32 = 0; mask < 256; mask++) {
    let taken: u32 = 0;
    for (let bit: u32 = 0; bit < 8; bit++) {
      const set = (mask >> bit) & 1;
      store<u8>(scratch + EXPAND + (mask << 3) + bit, set ? taken : 0x80);
      taken += set;
    }
  }
}

let restAt: usize = 0;
let midAt: usize = 0;
let midBit: u32 = 0;
let lowAt: usize = 0;
let escapeAt: usize = 0;
let escapesLeft: u32 = 0;

/**
 * Decode the band of n elements at src into dst, u8[n × element bytes].
 * Returns 0, or which promise of the layout the bytes break; dst is then undefined (and still nothing else is written).
 */
export function decodeBand(dtype: u32, src: usize, srcBytes: u32, n: u32, dst: usize): u32 {
  if (srcBytes < HEAD_BYTES) return BAD_LENGTH;
  const flags: u32 = load<u8>(src, 1);
  if (load<u8>(src) != dtype || dtype < 1 || dtype > 3 || load<u16>(src, 2) != 0 || load<u8>(src, 35) != 0) return BAD_HEAD;
  if (flags & ~(dtype == 1 ? 4 : dtype == 2 ? 5 : 7)) return BAD_HEAD;
  const survivors = load<u32>(src, 4);
  const escapes = load<u32>(src, 8);
  const maskBytes = load<u32>(src, 12);
  const pairBytes = load<u32>(src, 16);
  const masked = (flags & 4) != 0;
  if (survivors > n || escapes > survivors || (!masked && survivors != n)) return BAD_COUNT;
  if (maskBytes > srcBytes || pairBytes > srcBytes) return BAD_LENGTH;
  const blocks = (n + BLOCK_ELEMENTS - 1) / BLOCK_ELEMENTS;
  const midBytes = flags & 1 ? (dtype == 2 ? (3 * survivors + 7) >> 3 : survivors) : 0;
  const lowBytes = flags & 2 ? survivors : 0;
  const codes: u32 = (masked ? 1 : 0) + (survivors != 0 ? 1 : 0);
  const streamsAt = HEAD_BYTES + codes * (TABLE_BYTES + 8 * blocks);
  if (streamsAt + maskBytes + pairBytes + survivors + midBytes + lowBytes + escapes != srcBytes) return BAD_LENGTH;
  if (dtype == 2) for (let i: usize = 20; i < 35; i++) if (load<u8>(src + i) > 31) return BAD_EXPONENT;

  let tables = src + HEAD_BYTES;
  const maskOnly = masked ? buildTable(tables, scratchAt + MASK_TABLE, scratchAt + LENGTHS) : 0xff;
  if (masked) tables += TABLE_BYTES;
  if (maskOnly == 0xffff) return BAD_TABLE;
  const pairOnly = survivors != 0 ? buildTable(tables, scratchAt + PAIR_TABLE, scratchAt + LENGTHS) : 0;
  if (survivors != 0) tables += TABLE_BYTES;
  if (pairOnly == 0xffff) return BAD_TABLE;

  let lengths = tables;
  let maskCode = src + streamsAt;
  let pairCode = maskCode + maskBytes;
  const maskEnd = pairCode;
  const pairEnd = pairCode + pairBytes;
  restAt = pairEnd;
  midAt = restAt + survivors;
  midBit = 0;
  lowAt = midAt + midBytes;
  const planesEnd = lowAt + lowBytes;
  escapeAt = planesEnd;
  escapesLeft = escapes;
  let survivorsLeft = survivors;
  const masks = scratchAt + MASKS;
  const pairs = scratchAt + PAIRS;
  const elementShift: usize = dtype == 3 ? 2 : 1;

  for (let block: u32 = 0; block < blocks; block++) {
    const elements = min<u32>(BLOCK_ELEMENTS, n - block * BLOCK_ELEMENTS);
    const inMasks = (elements + 7) >> 3;
    if (masked) {
      const status = decodeStreams(maskCode, maskEnd, lengths, maskOnly, scratchAt + MASK_TABLE, masks, inMasks);
      if (status != OK) return status;
      maskCode += streamBytes(lengths);
      lengths += 8;
      // No element survives behind the last.
      if (elements & 7 && load<u8>(masks + inMasks - 1) >> (elements & 7)) return BAD_STREAM;
    } else {
      memory.fill(masks, 0xff, inMasks);
      const last: u32 = 0xff >> ((8 - (elements & 7)) & 7);
      store<u8>(masks + inMasks - 1, last);
    }
    memory.fill(masks + inMasks, 0, 32);

    const alive = countBits(masks, inMasks);
    if (alive > survivorsLeft) return BAD_COUNT;
    survivorsLeft -= alive;
    if (survivors != 0) {
      const inPairs = (alive + 1) >> 1;
      const status = decodeStreams(pairCode, pairEnd, lengths, pairOnly, scratchAt + PAIR_TABLE, pairs, inPairs);
      if (status != OK) return status;
      pairCode += streamBytes(lengths);
      lengths += 8;
      // An odd last survivor has an empty neighbour.
      if (alive & 1 && load<u8>(pairs + inPairs - 1) > 15) return BAD_STREAM;
      memory.fill(pairs + inPairs, 0, 32);
      if (!exponentsOf(src + 20, inPairs)) return BAD_COUNT;
    }
    if (dtype == 1) joinBf16(elements, dst);
    else if (dtype == 2) joinF16(elements, dst, (flags & 1) != 0);
    else joinF32(elements, dst, flags);
    dst += (<usize>elements) << elementShift;
  }
  if (maskCode != maskEnd || pairCode != pairEnd) return BAD_LENGTH;
  if (survivorsLeft | escapesLeft) return BAD_COUNT;
  if (dtype == 2) {
    for (let at = planesEnd; at < planesEnd + escapes; at++) if (load<u8>(at) > 31) return BAD_EXPONENT;
    // The bits behind the last three.
    const spare = (midBytes << 3) - 3 * survivors;
    if (midBytes && load<u8>(planesEnd - 1) >> (8 - spare)) return BAD_STREAM;
  }
  return OK;
}

/** Set bits of `count` bytes; up to 15 zero bytes behind them are read too. */
function countBits(src: usize, count: u32): u32 {
  let sum = i32x4.splat(0);
  for (let i: u32 = 0; i < count; i += 16) {
    const bits = i8x16.popcnt(v128.load(src + i));
    sum = i32x4.add(sum, i32x4.extadd_pairwise_i16x8_u(i16x8.extadd_pairwise_i8x16_u(bits)));
  }
  return i32x4.extract_lane(sum, 0) + i32x4.extract_lane(sum, 1) + i32x4.extract_lane(sum, 2) + i32x4.extract_lane(sum, 3);
}

/**
 * PAIRS to EXPONENTS through the band's fifteen exponents; nibble 15 takes its own from the escapes. False where there
 * are too few.
 */
function exponentsOf(ranked: usize, inPairs: u32): bool {
  // Entry 15 is a reserved zero byte of the head.
  const table = v128.load(ranked);
  const fifteen = i8x16.splat(15);
  const pairs = scratchAt + PAIRS;
  const exponents = scratchAt + EXPONENTS;
  for (let i: u32 = 0; i < inPairs; i += 8) {
    const v = v128.load64_zero(pairs + i);
    const low = v128.and(v, fifteen);
    const high = v128.and(i16x8.shr_u(v, 4), fifteen);
    const nibbles = i8x16.shuffle(low, high, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const out = exponents + ((<usize>i) << 1);
    v128.store(out, i8x16.swizzle(table, nibbles));
    let escaped: u32 = i8x16.bitmask(i8x16.eq(nibbles, fifteen));
    while (escaped) {
      if (escapesLeft == 0) return false;
      escapesLeft--;
      store<u8>(out + ctz(escaped), load<u8>(escapeAt));
      escapeAt++;
      escaped &= escaped - 1;
    }
  }
  return true;
}

/** For sixteen elements of which `alive` survive: which of the next survivors each takes, 0x80 and up for the dead. */
function takeIndex(alive: u32): v128 {
  const expand = scratchAt + EXPAND;
  const low = v128.load64_zero(expand + ((<usize>(alive & 255)) << 3));
  const high = v128.load64_zero(expand + ((<usize>(alive >> 8)) << 3));
  const shifted = i8x16.add(high, i8x16.splat(<i8>popcnt<u32>(alive & 255)));
  return i8x16.shuffle(low, shifted, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23);
}

function joinBf16(elements: u32, dst: usize): void {
  const masks = scratchAt + MASKS;
  let exponents = scratchAt + EXPONENTS;
  const sign = i8x16.splat(<i8>0x80);
  let rest = restAt;
  let out = dst;
  for (let i: u32 = 0; i < elements; i += 16) {
    if (i + 16 > elements) out = scratchAt + TAIL;
    const alive: u32 = load<u16>(masks + (i >> 3));
    const take = takeIndex(alive);
    const count = popcnt<u32>(alive);
    const exponent = i8x16.swizzle(v128.load(exponents), take);
    exponents += count;
    const r = i8x16.swizzle(v128.load(rest), take);
    rest += count;
    // sign | exponent >> 1 above, exponent's last bit | mantissa below
    const upper = v128.or(v128.and(r, sign), i8x16.shr_u(exponent, 1));
    const lower = v128.or(v128.andnot(r, sign), v128.and(i16x8.shl(exponent, 7), sign));
    v128.store(out, i8x16.shuffle(lower, upper, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23));
    v128.store(out, i8x16.shuffle(lower, upper, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31), 16);
    out += 32;
  }
  restAt = rest;
  const tail = elements & 15;
  if (tail) memory.copy(dst + ((<usize>(elements - tail)) << 1), scratchAt + TAIL, tail << 1);
}

/** Eight fields of three bits, from bit midBit of midAt on, a byte each. */
function threeBitsAt(at: usize, bit: u32): u64 {
  let x: u64 = (<u64>load<u32>(at) >> bit) & 0xffffff;
  x = (x | (x << 20)) & 0x00000fff_00000fff;
  x = (x | (x << 10)) & 0x003f003f_003f003f;
  return (x | (x << 5)) & 0x07070707_07070707;
}

function joinF16(elements: u32, dst: usize, hasMid: bool): void {
  const masks = scratchAt + MASKS;
  let exponents = scratchAt + EXPONENTS;
  let rest = restAt;
  let mid = midAt;
  let bit = midBit;
  let out = dst;
  for (let i: u32 = 0; i < elements; i += 16) {
    if (i + 16 > elements) out = scratchAt + TAIL;
    const alive: u32 = load<u16>(masks + (i >> 3));
    const take = takeIndex(alive);
    const count = popcnt<u32>(alive);
    const exponent = i8x16.swizzle(v128.load(exponents), take);
    exponents += count;
    const r = i8x16.swizzle(v128.load(rest), take);
    rest += count;
    let m = i8x16.splat(0);
    if (hasMid) {
      m = i64x2.replace_lane(m, 0, threeBitsAt(mid, bit));
      m = i64x2.replace_lane(m, 1, threeBitsAt(mid + 3, bit));
      m = i8x16.swizzle(m, take);
      bit += 3 * count;
      mid += bit >> 3;
      bit &= 7;
    }
    v128.store(
      out,
      f16Words(i16x8.extend_low_i8x16_u(r), i16x8.extend_low_i8x16_u(exponent), i16x8.extend_low_i8x16_u(m)),
    );
    v128.store(
      out,
      f16Words(i16x8.extend_high_i8x16_u(r), i16x8.extend_high_i8x16_u(exponent), i16x8.extend_high_i8x16_u(m)),
      16,
    );
    out += 32;
  }
  restAt = rest;
  midAt = mid;
  midBit = bit;
  const tail = elements & 15;
  if (tail) memory.copy(dst + ((<usize>(elements - tail)) << 1), scratchAt + TAIL, tail << 1);
}

function f16Words(r: v128, exponent: v128, m: v128): v128 {
  const sign = i16x8.shl(v128.and(r, i16x8.splat(0x80)), 8);
  const mantissa = v128.or(i16x8.shl(v128.and(r, i16x8.splat(0x7f)), 3), m);
  return v128.or(v128.or(sign, mantissa), i16x8.shl(exponent, 10));
}

function joinF32(elements: u32, dst: usize, flags: u32): void {
  const masks = scratchAt + MASKS;
  let exponents = scratchAt + EXPONENTS;
  const sign = i8x16.splat(<i8>0x80);
  let rest = restAt;
  let mid = midAt;
  let low = lowAt;
  let out = dst;
  for (let i: u32 = 0; i < elements; i += 16) {
    if (i + 16 > elements) out = scratchAt + TAIL;
    const alive: u32 = load<u16>(masks + (i >> 3));
    const take = takeIndex(alive);
    const count = popcnt<u32>(alive);
    const exponent = i8x16.swizzle(v128.load(exponents), take);
    exponents += count;
    const r = i8x16.swizzle(v128.load(rest), take);
    rest += count;
    let m = i8x16.splat(0);
    let l = i8x16.splat(0);
    if (flags & 1) {
      m = i8x16.swizzle(v128.load(mid), take);
      mid += count;
    }
    if (flags & 2) {
      l = i8x16.swizzle(v128.load(low), take);
      low += count;
    }
    const upper = v128.or(v128.and(r, sign), i8x16.shr_u(exponent, 1));
    const lower = v128.or(v128.andnot(r, sign), v128.and(i16x8.shl(exponent, 7), sign));
    const high0 = i8x16.shuffle(lower, upper, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const high1 = i8x16.shuffle(lower, upper, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    const low0 = i8x16.shuffle(l, m, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const low1 = i8x16.shuffle(l, m, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    v128.store(out, i16x8.shuffle(low0, high0, 0, 8, 1, 9, 2, 10, 3, 11));
    v128.store(out, i16x8.shuffle(low0, high0, 4, 12, 5, 13, 6, 14, 7, 15), 16);
    v128.store(out, i16x8.shuffle(low1, high1, 0, 8, 1, 9, 2, 10, 3, 11), 32);
    v128.store(out, i16x8.shuffle(low1, high1, 4, 12, 5, 13, 6, 14, 7, 15), 48);
    out += 64;
  }
  restAt = rest;
  midAt = mid;
  lowAt = low;
  const tail = elements & 15;
  if (tail) memory.copy(dst + ((<usize>(elements - tail)) << 2), scratchAt + TAIL, tail << 2);
}
