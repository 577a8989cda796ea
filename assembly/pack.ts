// Encoder of one band of the lossless pack. The layout and the readable spec: src/pack/band-format.ts and
// src/pack/reference.ts.
// Pure functions over pointers; the host owns the memory layout (src/pack/band-encoder.ts). Every function writes only
// the bytes it names.

let compressAt: usize = 0;

/** Once a memory: table is u8[256][8]: which lanes of eight the k-th survivor comes from. */
export function init(table: usize): void {
  compressAt = table;
  for (let mask: u32 = 0; mask < 256; mask++) {
    let taken: u32 = 0;
    for (let lane: u32 = 0; lane < 8; lane++) {
      if (((mask >> lane) & 1) == 0) continue;
      store<u8>(table + (mask << 3) + taken, lane);
      taken++;
    }
    for (; taken < 8; taken++) store<u8>(table + (mask << 3) + taken, 0x80);
  }
}

/**
 * Split n elements into mask bytes and the survivors' parts.
 *
 * dense       all elements survive, zero words too
 * src         u8[n × element bytes], and zeros up to the next multiple of 8 elements
 * masks       u8[ceil(n / 8)]: element 8i + k survives where bit k of byte i is set
 * exponents, rest, mid, low   u8[n + 8] each: a byte a survivor, the last 8 bytes scratch; mid is untouched for BF16,
 * low for all but F32
 * maskCounts  u32[256]
 * result      u32[3]: survivors, OR of all mid bytes, OR of all low bytes
 */
export function split(
  dtype: u32,
  src: usize,
  n: u32,
  dense: bool,
  masks: usize,
  exponents: usize,
  rest: usize,
  mid: usize,
  low: usize,
  maskCounts: usize,
  result: usize,
): void {
  memory.fill(maskCounts, 0, 1024);
  const zero = i16x8.splat(0);
  let at: usize = 0;
  let midBits = zero;
  let lowBits = zero;
  for (let i: u32 = 0; i < n; i += 8) {
    const inTail = n - i < 8;
    let mask: u32 = inTail ? (1 << (n - i)) - 1 : 255;
    let exponent: v128;
    let r: v128;
    if (dtype == 3) {
      const p = src + ((<usize>i) << 2);
      const a = v128.load(p);
      const b = v128.load(p, 16);
      if (!dense) mask &= ~(i32x4.bitmask(i32x4.eq(a, zero)) | (i32x4.bitmask(i32x4.eq(b, zero)) << 4));
      // The upper halves are BF16 words, the lower ones two planes.
      const upper = i16x8.shuffle(a, b, 1, 3, 5, 7, 9, 11, 13, 15);
      const lower = i16x8.shuffle(a, b, 0, 2, 4, 6, 8, 10, 12, 14);
      exponent = v128.and(i16x8.shr_u(upper, 7), i16x8.splat(255));
      r = v128.or(v128.and(i16x8.shr_u(upper, 8), i16x8.splat(0x80)), v128.and(upper, i16x8.splat(0x7f)));
      const m = i16x8.shr_u(lower, 8);
      const l = v128.and(lower, i16x8.splat(255));
      midBits = v128.or(midBits, m);
      lowBits = v128.or(lowBits, l);
      put(mid + at, m, mask);
      put(low + at, l, mask);
    } else {
      const words = v128.load(src + ((<usize>i) << 1));
      if (!dense) mask &= ~i16x8.bitmask(i16x8.eq(words, zero));
      const sign = v128.and(i16x8.shr_u(words, 8), i16x8.splat(0x80));
      if (dtype == 1) {
        exponent = v128.and(i16x8.shr_u(words, 7), i16x8.splat(255));
        r = v128.or(sign, v128.and(words, i16x8.splat(0x7f)));
      } else {
        exponent = v128.and(i16x8.shr_u(words, 10), i16x8.splat(31));
        r = v128.or(sign, v128.and(i16x8.shr_u(words, 3), i16x8.splat(0x7f)));
        const m = v128.and(words, i16x8.splat(7));
        midBits = v128.or(midBits, m);
        put(mid + at, m, mask);
      }
    }
    put(exponents + at, exponent, mask);
    put(rest + at, r, mask);
    at += <usize>popcnt<u32>(mask);
    store<u8>(masks + (i >> 3), mask);
    const count = maskCounts + ((<usize>mask) << 2);
    store<u32>(count, load<u32>(count) + 1);
  }
  store<u32>(result, <u32>at);
  store<u32>(result, orOfLanes(midBits), 4);
  store<u32>(result, orOfLanes(lowBits), 8);
}

/** The masked lanes of eight 16-bit values below 256, as bytes one behind the other; eight bytes are written. */
function put(at: usize, lanes: v128, mask: u32): void {
  const bytes = i8x16.narrow_i16x8_u(lanes, lanes);
  v128.store64_lane(at, i8x16.swizzle(bytes, v128.load64_zero(compressAt + ((<usize>mask) << 3))), 0);
}

function orOfLanes(lanes: v128): u32 {
  const folded = i64x2.extract_lane(lanes, 0) | i64x2.extract_lane(lanes, 1);
  const half = <u32>folded | <u32>(folded >> 32);
  return (half | (half >> 16)) & 0xffff;
}

/** counts u32[256] of n bytes. scratch u32[4 × 256]. */
export function countBytes(src: usize, n: u32, counts: usize, scratch: usize): void {
  // Four tables: neighbours are mostly alike, and one table would wait for its own last store.
  memory.fill(scratch, 0, 4096);
  let i: u32 = 0;
  for (; i + 4 <= n; i += 4) {
    const four = load<u32>(src + i);
    countByte(four & 255, scratch);
    countByte((four >> 8) & 255, scratch + 1024);
    countByte((four >> 16) & 255, scratch + 2048);
    countByte(four >> 24, scratch + 3072);
  }
  for (; i < n; i++) countByte(load<u8>(src + i), scratch);
  memory.fill(counts, 0, 1024);
  addTables(scratch, counts);
}

/** Adds four tables of 256 counts, one behind the other, to one. */
function addTables(tables: usize, counts: usize): void {
  for (let at: usize = 0; at < 1024; at += 16) {
    const a = i32x4.add(v128.load(tables + at), v128.load(tables + at, 1024));
    const b = i32x4.add(v128.load(tables + at, 2048), v128.load(tables + at, 3072));
    v128.store(counts + at, i32x4.add(v128.load(counts + at), i32x4.add(a, b)));
  }
}

function countByte(byte: u32, counts: usize): void {
  const at = counts + ((<usize>byte) << 2);
  store<u32>(at, load<u32>(at) + 1);
}

/**
 * Pair the survivors of one block.
 *
 * nibbleOf   u8[256]: the nibble of a biased exponent, 15 where it has none of its own
 * base       every exponent with a nibble of its own lies in base … base + 15; above 240 where they lie wider apart
 * pairs      u8[ceil(survivors / 2)]: survivor 2i in the low nibble, 2i + 1 in the high one
 * escapes    u8[survivors]: exponents of those with nibble 15
 * pairCounts u32[256], added to
 * scratch    u32[4 × 256]
 * returns    escapes written
 */
export function pairUp(
  exponents: usize,
  survivors: u32,
  nibbleOf: usize,
  base: u32,
  pairs: usize,
  escapes: usize,
  pairCounts: usize,
  scratch: usize,
): u32 {
  let out = escapes;
  let i: u32 = 0;
  if (base <= 240) {
    memory.fill(scratch, 0, 4096);
    const table = v128.load(nibbleOf + base);
    const first = i8x16.splat(<i8>base);
    const escape = i8x16.splat(15);
    for (; i + 16 <= survivors; i += 16) {
      const place = i8x16.sub(v128.load(exponents + i), first);
      const outside = v128.and(i8x16.gt_u(place, escape), escape);
      const nibbles = v128.or(i8x16.swizzle(table, place), outside);
      if (v128.any_true(i8x16.eq(nibbles, escape))) out = collectEscapes(exponents + i, nibbleOf, out);
      const pair = v128.and(v128.or(nibbles, i16x8.shr_u(nibbles, 4)), i16x8.splat(255));
      const eight = i64x2.extract_lane(i8x16.narrow_i16x8_u(pair, pair), 0);
      store<u64>(pairs + (i >> 1), eight);
      countByte(<u32>eight & 255, scratch);
      countByte((<u32>eight >> 8) & 255, scratch + 1024);
      countByte((<u32>eight >> 16) & 255, scratch + 2048);
      countByte(<u32>eight >> 24, scratch + 3072);
      countByte(<u32>(eight >> 32) & 255, scratch);
      countByte(<u32>(eight >> 40) & 255, scratch + 1024);
      countByte(<u32>(eight >> 48) & 255, scratch + 2048);
      countByte(<u32>(eight >> 56) & 255, scratch + 3072);
    }
    addTables(scratch, pairCounts);
  }
  for (; i < survivors; i += 2) {
    const first: u32 = load<u8>(exponents + i);
    let pair: u32 = load<u8>(nibbleOf + first);
    if (pair == 15) {
      store<u8>(out, first);
      out++;
    }
    if (i + 1 < survivors) {
      const second: u32 = load<u8>(exponents + i, 1);
      const nibble: u32 = load<u8>(nibbleOf + second);
      pair |= nibble << 4;
      if (nibble == 15) {
        store<u8>(out, second);
        out++;
      }
    }
    store<u8>(pairs + (i >> 1), pair);
    countByte(pair, pairCounts);
  }
  return <u32>(out - escapes);
}

/** The exponents without a nibble of their own among sixteen; returns where the next one goes. */
function collectEscapes(exponents: usize, nibbleOf: usize, out: usize): usize {
  for (let lane: usize = 0; lane < 16; lane++) {
    const exponent = load<u8>(exponents + lane);
    if (load<u8>(nibbleOf + exponent) != 15) continue;
    store<u8>(out, exponent);
    out++;
  }
  return out;
}

/**
 * Three bits a byte of src, count of them, to a little-endian bit stream at dst: u8[ceil(3 × count / 8)], then up to 8
 * bytes of scratch.
 */
export function packThreeBits(src: usize, count: u32, dst: usize): void {
  let bits: u64 = 0;
  let held: u64 = 0;
  for (let i: u32 = 0; i < count; i++) {
    bits |= (<u64>load<u8>(src + i)) << held;
    held += 3;
    if (held >= 48) {
      store<u64>(dst, bits);
      dst += 6;
      bits >>= 48;
      held -= 48;
    }
  }
  store<u64>(dst, bits);
}

/**
 * Code the bytes of one block in four streams, one behind the other.
 *
 * codes    u32[256]: code bits, the first in bit 0, | length << 16
 * lengths  u16[4]: each stream's bytes
 * aside    room for one stream, and 8 bytes of scratch
 * dst      the streams, then up to 8 bytes of scratch
 * returns  bytes of all four
 */
export function encodeStreams(src: usize, count: u32, codes: usize, lengths: usize, aside: usize, dst: usize): u32 {
  const quarter = (count + 3) >> 2;
  let out = dst;
  for (let s: u32 = 0; s < 4; s += 2) {
    const begin = min<u32>(s * quarter, count);
    const middle = min<u32>((s + 1) * quarter, count);
    const end = min<u32>((s + 2) * quarter, count);
    encodeTwo(src + begin, src + middle, src + end, codes, out, aside);
    store<u16>(lengths + (s << 1), <u32>firstLength);
    store<u16>(lengths + (s << 1), <u32>secondLength, 2);
    memory.copy(out + firstLength, aside, secondLength);
    out += firstLength + secondLength;
  }
  return <u32>(out - dst);
}

let firstLength: usize = 0;
let secondLength: usize = 0;

/** Two streams side by side, because a code waits only for the one before it in its stream. */
function encodeTwo(at1: usize, middle: usize, end: usize, codes: usize, dst1: usize, dst2: usize): void {
  let at2 = middle;
  let bits1: u64 = 0;
  let held1: u64 = 0;
  let out1 = dst1;
  let bits2: u64 = 0;
  let held2: u64 = 0;
  let out2 = dst2;
  // Four codes of at most 12 bits beside at most 7 left over: 55 bits.
  while (at1 + 4 <= middle && at2 + 4 <= end) {
    const four1 = load<u32>(at1);
    const four2 = load<u32>(at2);
    at1 += 4;
    at2 += 4;
    const a1 = load<u32>(codes + ((<usize>(four1 & 255)) << 2));
    const a2 = load<u32>(codes + ((<usize>(four2 & 255)) << 2));
    const b1 = load<u32>(codes + ((<usize>((four1 >> 8) & 255)) << 2));
    const b2 = load<u32>(codes + ((<usize>((four2 >> 8) & 255)) << 2));
    bits1 |= (<u64>(a1 & 0xffff)) << held1;
    bits2 |= (<u64>(a2 & 0xffff)) << held2;
    held1 += <u64>(a1 >> 16);
    held2 += <u64>(a2 >> 16);
    const c1 = load<u32>(codes + ((<usize>((four1 >> 16) & 255)) << 2));
    const c2 = load<u32>(codes + ((<usize>((four2 >> 16) & 255)) << 2));
    bits1 |= (<u64>(b1 & 0xffff)) << held1;
    bits2 |= (<u64>(b2 & 0xffff)) << held2;
    held1 += <u64>(b1 >> 16);
    held2 += <u64>(b2 >> 16);
    const d1 = load<u32>(codes + ((<usize>(four1 >> 24)) << 2));
    const d2 = load<u32>(codes + ((<usize>(four2 >> 24)) << 2));
    bits1 |= (<u64>(c1 & 0xffff)) << held1;
    bits2 |= (<u64>(c2 & 0xffff)) << held2;
    held1 += <u64>(c1 >> 16);
    held2 += <u64>(c2 >> 16);
    bits1 |= (<u64>(d1 & 0xffff)) << held1;
    bits2 |= (<u64>(d2 & 0xffff)) << held2;
    held1 += <u64>(d1 >> 16);
    held2 += <u64>(d2 >> 16);
    store<u64>(out1, bits1);
    store<u64>(out2, bits2);
    out1 += <usize>(held1 >> 3);
    out2 += <usize>(held2 >> 3);
    bits1 >>= held1 & ~7;
    bits2 >>= held2 & ~7;
    held1 &= 7;
    held2 &= 7;
  }
  firstLength = encodeRest(at1, middle, codes, bits1, held1, out1) - dst1;
  secondLength = encodeRest(at2, end, codes, bits2, held2, out2) - dst2;
}

/** What is left of a stream, code by code; returns its end. */
function encodeRest(at: usize, end: usize, codes: usize, bits: u64, held: u64, out: usize): usize {
  while (at < end) {
    const code = load<u32>(codes + ((<usize>load<u8>(at)) << 2));
    at++;
    bits |= (<u64>(code & 0xffff)) << held;
    held += <u64>(code >> 16);
    store<u64>(out, bits);
    out += <usize>(held >> 3);
    bits >>= held & ~7;
    held &= 7;
  }
  return out + <usize>(held > 0);
}
