// Decoder of one band of the lossless pack. The layout and the readable spec: src/pack/band-format.ts and src/pack/reference.ts.
//
// The bytes are foreign: every count is checked against the bytes there are before it moves a pointer, every table is complete,
// so no input writes outside dst and scratch. Loads may pass the end of src by up to 16 bytes (the host leaves room);
// what they find there never reaches dst.

const BLOCK_PAIRS: u32 = 32768;
const HEAD_BYTES: u32 = 160;
const WINDOW_BITS: u32 = 12;
const WINDOW_MASK: u64 = 4095;

// Scratch, offsets from its start. The host's SCRATCH_BYTES covers it.
const TABLE: usize = 0; //          u32[4096]: up to three pairs in the low bytes, their bits << 24, their count << 28
const SINGLE: usize = 16384; //     u16[4096]: one pair | its length << 8
const LENGTHS: usize = 24576; //    u8[256]
const EXPAND: usize = 24832; //     u8[256][8]: where the k-th set bit of a byte takes its survivor from, 0x80 elsewhere
const PAIRS: usize = 26880; //      u8[32768 + 32]: one block's pairs, zeros behind them
const TAIL: usize = 59680; //       u8[64]: the last, partial group of elements
const NIBBLES: usize = 59744; //    u8[16]: exponents of a group that holds escapes

const OK: u32 = 0;
const BAD_HEAD: u32 = 1;
const BAD_LENGTH: u32 = 2;
const BAD_TABLE: u32 = 3;
const BAD_STREAM: u32 = 4;
const BAD_COUNT: u32 = 5;
const BAD_EXPONENT: u32 = 6;

let scratchAt: usize = 0;

/** Once a memory: scratch is u8[59,776]. */
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

/**
 * Decode the band of n elements at src into dst, u8[n × element bytes].
 * Returns 0, or which promise of the layout the bytes break; dst is then undefined (and still nothing else is written).
 */
export function decodeBand(dtype: u32, src: usize, srcBytes: u32, n: u32, dst: usize): u32 {
  if (srcBytes < HEAD_BYTES) return BAD_LENGTH;
  const planes: u32 = load<u8>(src, 1);
  if (load<u8>(src) != dtype || dtype < 1 || dtype > 3 || load<u16>(src, 2) != 0 || load<u16>(src, 30) != 0)
    return BAD_HEAD;
  if (planes > (dtype == 1 ? 0 : dtype == 2 ? 1 : 3)) return BAD_HEAD;
  const survivors = load<u32>(src, 4);
  const escapes = load<u32>(src, 8);
  const codeBytes = load<u32>(src, 12);
  const pairCount = (n + 1) >> 1;
  const blocks = (pairCount + BLOCK_PAIRS - 1) / BLOCK_PAIRS;
  if (survivors > n || escapes > survivors || codeBytes > srcBytes) return BAD_COUNT;
  const midBytes = planes & 1 ? (dtype == 2 ? (3 * survivors + 7) >> 3 : survivors) : 0;
  const lowBytes = planes & 2 ? survivors : 0;
  if (HEAD_BYTES + 8 * blocks + codeBytes + survivors + midBytes + lowBytes + escapes != srcBytes) return BAD_LENGTH;
  for (let i: usize = 16; i < 30; i++) if (dtype == 2 && load<u8>(src + i) > 31) return BAD_EXPONENT;

  const single = buildTable(src + 32);
  if (single == 0xffff) return BAD_TABLE;

  const blockLengths = src + HEAD_BYTES;
  let code = blockLengths + 8 * blocks;
  const codeEnd = code + codeBytes;
  restAt = codeEnd;
  midAt = restAt + survivors;
  midBit = 0;
  lowAt = midAt + midBytes;
  escapeAt = lowAt + lowBytes;
  const escapeEnd = escapeAt + escapes;
  let survivorsLeft = survivors;
  let escapesLeft = escapes;
  const elementShift: usize = dtype == 3 ? 2 : 1;

  for (let block: u32 = 0; block < blocks; block++) {
    const inBlock = min<u32>(BLOCK_PAIRS, pairCount - block * BLOCK_PAIRS);
    const lengths = blockLengths + ((<usize>block) << 3);
    const sum: u32 = <u32>load<u16>(lengths) + load<u16>(lengths, 2) + load<u16>(lengths, 4) + load<u16>(lengths, 6);
    if (code + sum > codeEnd) return BAD_LENGTH;
    const pairs = scratchAt + PAIRS;
    if (single != 0x100) {
      if (sum != 0) return BAD_STREAM;
      memory.fill(pairs, <u8>single, inBlock);
    } else if (!decodeStreams(code, lengths, inBlock)) return BAD_STREAM;
    code += sum;
    memory.fill(pairs + inBlock, 0, 32);

    const elements = min<u32>(2 * inBlock, n - 2 * block * BLOCK_PAIRS);
    // An odd last element has an empty neighbour.
    if (elements & 1 && load<u8>(pairs + (elements >> 1)) > 15) return BAD_STREAM;
    const counted = countNibbles(pairs, inBlock);
    const alive = <u32>counted;
    const escaped = <u32>(counted >> 32);
    if (alive > survivorsLeft || escaped > escapesLeft) return BAD_COUNT;
    survivorsLeft -= alive;
    escapesLeft -= escaped;
    if (dtype == 1) joinBf16(src + 16, elements, dst);
    else if (dtype == 2) joinF16(src + 16, elements, dst, planes != 0);
    else joinF32(src + 16, elements, dst, planes);
    dst += (<usize>elements) << elementShift;
  }
  if (code != codeEnd) return BAD_LENGTH;
  if (survivorsLeft | escapesLeft) return BAD_COUNT;
  if (escapeAt != escapeEnd) return BAD_COUNT;
  if (dtype == 2) {
    for (let at = escapeEnd - escapes; at < escapeEnd; at++) if (load<u8>(at) > 31) return BAD_EXPONENT;
    // The bits behind the last three.
    const spare = (midBytes << 3) - 3 * survivors;
    if (midBytes && load<u8>(lowAt - 1) >> (8 - spare)) return BAD_STREAM;
  }
  return OK;
}

/**
 * Build TABLE, SINGLE and LENGTHS from 256 code lengths of 4 bits.
 * Returns 0x100, the pair where the code has only that one, or 0xffff where the lengths are no complete code.
 */
function buildTable(packedLengths: usize): u32 {
  const lengths = scratchAt + LENGTHS;
  let used: u32 = 0;
  let only: u32 = 0;
  let kraft: u32 = 0;
  for (let pair: u32 = 0; pair < 256; pair++) {
    const length: u32 = (load<u8>(packedLengths + (pair >> 1)) >> ((pair & 1) << 2)) & 15;
    if (length > WINDOW_BITS) return 0xffff;
    store<u8>(lengths + pair, length);
    if (length == 0) continue;
    used++;
    only = pair;
    kraft += 4096 >> length;
  }
  if (used == 1 && load<u8>(lengths + only) == 1) return only;
  if (kraft != 4096 || used < 2) return 0xffff;

  const single = scratchAt + SINGLE;
  let code: u32 = 0;
  for (let length: u32 = 1; length <= WINDOW_BITS; length++) {
    for (let pair: u32 = 0; pair < 256; pair++) {
      if (load<u8>(lengths + pair) != length) continue;
      let reversed: u32 = 0;
      for (let bit: u32 = 0; bit < length; bit++) reversed |= ((code >> bit) & 1) << (length - 1 - bit);
      const entry = pair | (length << 8);
      for (let at = reversed; at < 4096; at += 1 << length) store<u16>(single + ((<usize>at) << 1), entry);
      code++;
    }
    code <<= 1;
  }

  const table = scratchAt + TABLE;
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

let streamAt: usize = 0;

function lookUp(table: usize, bits: u64): u32 {
  return load<u32>(table + ((<usize>(bits & WINDOW_MASK)) << 2));
}

/** One block's four streams to PAIRS, side by side: a lookup waits for the one before it in its stream, not for the other three. */
function decodeStreams(code: usize, lengths: usize, inBlock: u32): bool {
  const table = scratchAt + TABLE;
  const pairs = scratchAt + PAIRS;
  const quarter = (inBlock + 3) >> 2;
  let a = code;
  const aEnd = a + load<u16>(lengths);
  let b = aEnd;
  const bEnd = b + load<u16>(lengths, 2);
  let c = bEnd;
  const cEnd = c + load<u16>(lengths, 4);
  let d = cEnd;
  const dEnd = d + load<u16>(lengths, 6);
  let aOut = pairs;
  const aStop = pairs + min<u32>(quarter, inBlock);
  let bOut = aStop;
  const bStop = pairs + min<u32>(2 * quarter, inBlock);
  let cOut = bStop;
  const cStop = pairs + min<u32>(3 * quarter, inBlock);
  let dOut = cStop;
  const dStop = pairs + inBlock;
  let aBit: u64 = 0;
  let bBit: u64 = 0;
  let cBit: u64 = 0;
  let dBit: u64 = 0;

  // A turn takes at most 7 + 48 bits of the 64 loaded and stores at most 12 pairs and a byte behind them, a stream.
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
    finishStream(a, <u32>aBit, aEnd, aOut, aStop) &&
    finishStream(b, <u32>bBit, bEnd, bOut, bStop) &&
    finishStream(c, <u32>cBit, cEnd, cOut, cStop) &&
    finishStream(d, <u32>dBit, dEnd, dOut, dStop)
  );
}

/** The rest of one stream, the last codes one by one; it must end in its last byte, zero bits behind it. */
function finishStream(at: usize, bit: u32, end: usize, out: usize, stop: usize): bool {
  const table = scratchAt + TABLE;
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
  const single = scratchAt + SINGLE;
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

/** Nibbles that are not 0 (low word) and that are 15 (high word) in `count` pairs; up to 15 zero bytes behind them are read too. */
function countNibbles(pairs: usize, count: u32): u64 {
  const lowMask = i8x16.splat(0x0f);
  const highMask = i8x16.splat(<i8>0xf0);
  const zero = i8x16.splat(0);
  let empty: u32 = 0;
  let escaped: u32 = 0;
  for (let i: u32 = 0; i < count; i += 16) {
    const v = v128.load(pairs + i);
    const low = v128.and(v, lowMask);
    const high = v128.and(v, highMask);
    empty += popcnt<u32>(i8x16.bitmask(i8x16.eq(low, zero)) | (i8x16.bitmask(i8x16.eq(high, zero)) << 16));
    escaped += popcnt<u32>(i8x16.bitmask(i8x16.eq(low, lowMask)) | (i8x16.bitmask(i8x16.eq(high, highMask)) << 16));
  }
  const seen = 2 * ((count + 15) & ~15);
  return <u64>(seen - empty) | ((<u64>escaped) << 32);
}

/** Sixteen nibbles in the order of their elements from eight pairs. */
function nibblesAt(pairs: usize): v128 {
  const v = v128.load64_zero(pairs);
  const low = v128.and(v, i8x16.splat(0x0f));
  const high = v128.and(i16x8.shr_u(v, 4), i8x16.splat(0x0f));
  return i8x16.shuffle(low, high, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
}

/** For sixteen elements of which `alive` survive: which of the next survivors each takes, 0x80 and up for the dead. */
function takeIndex(alive: u32): v128 {
  const expand = scratchAt + EXPAND;
  const low = v128.load64_zero(expand + ((<usize>(alive & 255)) << 3));
  const high = v128.load64_zero(expand + ((<usize>(alive >> 8)) << 3));
  const shifted = i8x16.add(high, i8x16.splat(<i8>popcnt<u32>(alive & 255)));
  return i8x16.shuffle(low, shifted, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23);
}

/** The exponents of sixteen elements; nibble 15 takes its own from the escapes. */
function exponentsOf(nibbles: v128, exponents: v128): v128 {
  const found = i8x16.swizzle(exponents, nibbles);
  const escaped = i8x16.bitmask(i8x16.eq(nibbles, i8x16.splat(15)));
  return escaped == 0 ? found : patchEscapes(found, escaped);
}

function patchEscapes(found: v128, escaped: u32): v128 {
  const at = scratchAt + NIBBLES;
  v128.store(at, found);
  while (escaped) {
    store<u8>(at + ctz(escaped), load<u8>(escapeAt));
    escapeAt++;
    escaped &= escaped - 1;
  }
  return v128.load(at);
}

/** The fourteen exponents of the head as a table by nibble: entry 0 is the zero word's. */
function exponentTable(head: usize): v128 {
  // One byte before the exponents so that entry i is exponent i; entries 0 and 15 are cleared.
  const v = v128.load(head - 1);
  return v128.and(v, i8x16(0, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 0));
}

function joinBf16(head: usize, elements: u32, dst: usize): void {
  const exponents = exponentTable(head);
  const pairs = scratchAt + PAIRS;
  const sign = i8x16.splat(<i8>0x80);
  let rest = restAt;
  let out = dst;
  for (let i: u32 = 0; i < elements; i += 16) {
    if (i + 16 > elements) out = scratchAt + TAIL;
    const nibbles = nibblesAt(pairs + (i >> 1));
    const alive: u32 = i8x16.bitmask(i8x16.ne(nibbles, i8x16.splat(0)));
    const exponent = exponentsOf(nibbles, exponents);
    const r = i8x16.swizzle(v128.load(rest), takeIndex(alive));
    rest += popcnt<u32>(alive);
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

function joinF16(head: usize, elements: u32, dst: usize, hasMid: bool): void {
  const exponents = exponentTable(head);
  const pairs = scratchAt + PAIRS;
  let rest = restAt;
  let mid = midAt;
  let bit = midBit;
  let out = dst;
  for (let i: u32 = 0; i < elements; i += 16) {
    if (i + 16 > elements) out = scratchAt + TAIL;
    const nibbles = nibblesAt(pairs + (i >> 1));
    const alive: u32 = i8x16.bitmask(i8x16.ne(nibbles, i8x16.splat(0)));
    const exponent = exponentsOf(nibbles, exponents);
    const take = takeIndex(alive);
    const r = i8x16.swizzle(v128.load(rest), take);
    const count = popcnt<u32>(alive);
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

function joinF32(head: usize, elements: u32, dst: usize, planes: u32): void {
  const exponents = exponentTable(head);
  const pairs = scratchAt + PAIRS;
  const sign = i8x16.splat(<i8>0x80);
  let rest = restAt;
  let mid = midAt;
  let low = lowAt;
  let out = dst;
  for (let i: u32 = 0; i < elements; i += 16) {
    if (i + 16 > elements) out = scratchAt + TAIL;
    const nibbles = nibblesAt(pairs + (i >> 1));
    const alive: u32 = i8x16.bitmask(i8x16.ne(nibbles, i8x16.splat(0)));
    const exponent = exponentsOf(nibbles, exponents);
    const take = takeIndex(alive);
    const count = popcnt<u32>(alive);
    const r = i8x16.swizzle(v128.load(rest), take);
    rest += count;
    let m = i8x16.splat(0);
    let l = i8x16.splat(0);
    if (planes & 1) {
      m = i8x16.swizzle(v128.load(mid), take);
      mid += count;
    }
    if (planes & 2) {
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
