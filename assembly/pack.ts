// Encoder of one band of the lossless pack. The layout and the readable spec: src/pack/band-format.ts and src/pack/reference.ts.
// Pure functions over pointers; the host owns the memory layout (src/pack/encoder.ts). Every function writes only the bytes it names.

const BLOCK_PAIRS: u32 = 32768;

/** counts u32[257]: elements a biased exponent, entry 256 the zero words. scratch u32[4 × 257], zero at the start and at the end. */
export function countExponents(dtype: u32, src: usize, n: u32, counts: usize, scratch: usize): void {
  // Four tables: neighbours mostly share an exponent, and one table would wait for its own last store.
  memory.fill(scratch, 0, 4 * 257 * 4);
  let i: u32 = 0;
  const whole = n & ~3;
  if (dtype == 3) {
    for (; i < whole; i += 4) {
      const p = src + ((<usize>i) << 2);
      count32(load<u32>(p), scratch);
      count32(load<u32>(p, 4), scratch + 1028);
      count32(load<u32>(p, 8), scratch + 2056);
      count32(load<u32>(p, 12), scratch + 3084);
    }
    for (; i < n; i++) count32(load<u32>(src + ((<usize>i) << 2)), scratch);
  } else {
    const shift: u32 = dtype == 1 ? 7 : 10;
    const mask: u32 = dtype == 1 ? 255 : 31;
    for (; i < whole; i += 4) {
      const four = load<u64>(src + ((<usize>i) << 1));
      count16(<u32>four & 0xffff, shift, mask, scratch);
      count16(<u32>(four >> 16) & 0xffff, shift, mask, scratch + 1028);
      count16(<u32>(four >> 32) & 0xffff, shift, mask, scratch + 2056);
      count16(<u32>(four >> 48), shift, mask, scratch + 3084);
    }
    for (; i < n; i++) count16(load<u16>(src + ((<usize>i) << 1)), shift, mask, scratch);
  }
  for (let at: usize = 0; at < 1028; at += 4) {
    const sum =
      load<u32>(scratch + at) +
      load<u32>(scratch + at, 1028) +
      load<u32>(scratch + at, 2056) +
      load<u32>(scratch + at, 3084);
    store<u32>(counts + at, sum);
  }
  memory.fill(scratch, 0, 4 * 257 * 4);
}

function count16(word: u32, shift: u32, mask: u32, counts: usize): void {
  const at = counts + ((<usize>select<u32>((word >> shift) & mask, 256, word != 0)) << 2);
  store<u32>(at, load<u32>(at) + 1);
}

function count32(word: u32, counts: usize): void {
  const at = counts + ((<usize>select<u32>((word >> 23) & 255, 256, word != 0)) << 2);
  store<u32>(at, load<u32>(at) + 1);
}

let restAt: usize = 0;
let midAt: usize = 0;
let lowAt: usize = 0;
let escapeAt: usize = 0;
let midBits: u32 = 0;
let lowBits: u32 = 0;

/**
 * Split n elements into pair bytes, sign-mantissa bytes, planes and escapes.
 *
 * nibbleOf   u8[256]: the nibble of a biased exponent, 15 where it has none of its own
 * pairs      u8[ceil(n / 2)]: element 2i in the low nibble, 2i + 1 in the high one
 * rest       u8[n + 1]: survivors' sign (bit 7) and upper seven mantissa bits; one spare byte is scratch
 * mid, low   u8[n + 1] each: survivors' further mantissa bits, a byte each (F16: 3 bits in mid); untouched for BF16, low only for F32
 * escapes    u8[n]: exponents of the elements with nibble 15
 * pairCounts u32[256]
 * result     u32[4]: survivors, escapes, OR of all mid bytes, OR of all low bytes
 */
export function split(
  dtype: u32,
  src: usize,
  n: u32,
  nibbleOf: usize,
  pairs: usize,
  rest: usize,
  mid: usize,
  low: usize,
  escapes: usize,
  pairCounts: usize,
  result: usize,
): void {
  restAt = rest;
  midAt = mid;
  lowAt = low;
  escapeAt = escapes;
  midBits = 0;
  lowBits = 0;
  memory.fill(pairCounts, 0, 1024);
  const whole = n & ~1;
  if (dtype == 1) splitBf16(src, whole, nibbleOf, pairs, pairCounts);
  else {
    for (let i: u32 = 0; i < whole; i += 2) {
      const first = dtype == 2 ? nibble16(src, i, nibbleOf) : nibble32(src, i, nibbleOf);
      const second = dtype == 2 ? nibble16(src, i + 1, nibbleOf) : nibble32(src, i + 1, nibbleOf);
      countPair(pairs + (i >> 1), first | (second << 4), pairCounts);
    }
  }
  if (whole != n) {
    let last: u32;
    if (dtype == 1) last = nibbleBf16(load<u16>(src + ((<usize>whole) << 1)), nibbleOf);
    else last = dtype == 2 ? nibble16(src, whole, nibbleOf) : nibble32(src, whole, nibbleOf);
    countPair(pairs + (whole >> 1), last, pairCounts);
  }
  store<u32>(result, <u32>(restAt - rest));
  store<u32>(result, <u32>(escapeAt - escapes), 4);
  store<u32>(result, midBits, 8);
  store<u32>(result, lowBits, 12);
}

function countPair(at: usize, pair: u32, pairCounts: usize): void {
  store<u8>(at, pair);
  const count = pairCounts + ((<usize>pair) << 2);
  store<u32>(count, load<u32>(count) + 1);
}

function splitBf16(src: usize, whole: u32, nibbleOf: usize, pairs: usize, pairCounts: usize): void {
  let out = restAt;
  let i: u32 = 0;
  // Four elements a turn, kept in locals; an escape leaves the fast path.
  for (; i + 4 <= whole; i += 4) {
    const four = load<u64>(src + ((<usize>i) << 1));
    const a = <u32>four & 0xffff;
    const b = <u32>(four >> 16) & 0xffff;
    const c = <u32>(four >> 32) & 0xffff;
    const d = <u32>(four >> 48);
    const na = select<u32>(load<u8>(nibbleOf + ((a >> 7) & 255)), 0, a != 0);
    const nb = select<u32>(load<u8>(nibbleOf + ((b >> 7) & 255)), 0, b != 0);
    const nc = select<u32>(load<u8>(nibbleOf + ((c >> 7) & 255)), 0, c != 0);
    const nd = select<u32>(load<u8>(nibbleOf + ((d >> 7) & 255)), 0, d != 0);
    store<u8>(out, ((a >> 8) & 0x80) | (a & 0x7f));
    out += <usize>(a != 0);
    store<u8>(out, ((b >> 8) & 0x80) | (b & 0x7f));
    out += <usize>(b != 0);
    store<u8>(out, ((c >> 8) & 0x80) | (c & 0x7f));
    out += <usize>(c != 0);
    store<u8>(out, ((d >> 8) & 0x80) | (d & 0x7f));
    out += <usize>(d != 0);
    if (na == 15) escape(a >> 7);
    if (nb == 15) escape(b >> 7);
    if (nc == 15) escape(c >> 7);
    if (nd == 15) escape(d >> 7);
    const at = pairs + (i >> 1);
    countPair(at, na | (nb << 4), pairCounts);
    countPair(at + 1, nc | (nd << 4), pairCounts);
  }
  restAt = out;
  for (; i < whole; i += 2) {
    const first = nibbleBf16(load<u16>(src + ((<usize>i) << 1)), nibbleOf);
    const second = nibbleBf16(load<u16>(src + ((<usize>i) << 1), 2), nibbleOf);
    countPair(pairs + (i >> 1), first | (second << 4), pairCounts);
  }
}

function escape(exponent: u32): void {
  store<u8>(escapeAt, exponent & 255);
  escapeAt++;
}

function nibbleBf16(word: u32, nibbleOf: usize): u32 {
  if (word == 0) return 0;
  const exponent = (word >> 7) & 255;
  store<u8>(restAt, ((word >> 8) & 0x80) | (word & 0x7f));
  restAt++;
  const nibble: u32 = load<u8>(nibbleOf + exponent);
  if (nibble == 15) escape(exponent);
  return nibble;
}

function nibble16(src: usize, i: u32, nibbleOf: usize): u32 {
  const word: u32 = load<u16>(src + ((<usize>i) << 1));
  const exponent = (word >> 10) & 31;
  const nibble = select<u32>(load<u8>(nibbleOf + exponent), 0, word != 0);
  store<u8>(restAt, ((word >> 8) & 0x80) | ((word >> 3) & 0x7f));
  store<u8>(midAt, word & 7);
  midBits |= word & 7;
  restAt += <usize>(word != 0);
  midAt += <usize>(word != 0);
  if (nibble == 15) escape(exponent);
  return nibble;
}

function nibble32(src: usize, i: u32, nibbleOf: usize): u32 {
  const word = load<u32>(src + ((<usize>i) << 2));
  const exponent = (word >> 23) & 255;
  const nibble = select<u32>(load<u8>(nibbleOf + exponent), 0, word != 0);
  store<u8>(restAt, ((word >> 24) & 0x80) | ((word >> 16) & 0x7f));
  store<u8>(midAt, (word >> 8) & 255);
  store<u8>(lowAt, word & 255);
  midBits |= (word >> 8) & 255;
  lowBits |= word & 255;
  restAt += <usize>(word != 0);
  midAt += <usize>(word != 0);
  lowAt += <usize>(word != 0);
  if (nibble == 15) escape(exponent);
  return nibble;
}

/** Three bits a byte of src, count of them, to a little-endian bit stream at dst: u8[ceil(3 × count / 8)], then up to 7 bytes of scratch. */
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
 * Code the pairs: four streams a block of 32,768 pairs, one behind the other.
 *
 * codes    u32[256]: code bits, the first in bit 0, | length << 16
 * lengths  u16[4 × blocks]: each stream's bytes
 * dst      the streams, then up to 8 bytes of scratch
 * returns  bytes of all streams
 */
export function encodeStreams(pairs: usize, pairCount: u32, codes: usize, lengths: usize, dst: usize): u32 {
  let out = dst;
  for (let block: u32 = 0; block < pairCount; block += BLOCK_PAIRS) {
    const inBlock = min<u32>(BLOCK_PAIRS, pairCount - block);
    const quarter = (inBlock + 3) >> 2;
    for (let s: u32 = 0; s < 4; s++) {
      const begin = pairs + block + min<u32>(s * quarter, inBlock);
      const end = pairs + block + min<u32>((s + 1) * quarter, inBlock);
      const stop = encodeStream(begin, end, codes, out);
      store<u16>(lengths, <u32>(stop - out));
      lengths += 2;
      out = stop;
    }
  }
  return <u32>(out - dst);
}

function encodeStream(at: usize, end: usize, codes: usize, out: usize): usize {
  let bits: u64 = 0;
  let held: u64 = 0;
  // Four codes of at most 12 bits beside at most 7 left over: 55 bits.
  while (at + 4 <= end) {
    const four = load<u32>(at);
    at += 4;
    const a = load<u32>(codes + ((<usize>(four & 255)) << 2));
    const b = load<u32>(codes + ((<usize>((four >> 8) & 255)) << 2));
    const c = load<u32>(codes + ((<usize>((four >> 16) & 255)) << 2));
    const d = load<u32>(codes + ((<usize>(four >> 24)) << 2));
    bits |= (<u64>(a & 0xffff)) << held;
    held += <u64>(a >> 16);
    bits |= (<u64>(b & 0xffff)) << held;
    held += <u64>(b >> 16);
    bits |= (<u64>(c & 0xffff)) << held;
    held += <u64>(c >> 16);
    bits |= (<u64>(d & 0xffff)) << held;
    held += <u64>(d >> 16);
    store<u64>(out, bits);
    out += <usize>(held >> 3);
    bits >>= held & ~7;
    held &= 7;
  }
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
