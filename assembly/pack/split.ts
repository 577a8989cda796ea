// Elements to mask bytes and the survivors' parts, sixteen elements at a time.

/** Where the k-th survivor of a mask byte's eight lanes comes from: u8[256][8], then the same for the next eight. */
let compressAt: usize = 0;
const UPPER: usize = 2048;

/** Once a memory: table is u8[4096]. */
export function init(table: usize): void {
  compressAt = table;
  for (let mask: u32 = 0; mask < 256; mask++) {
    const row = table + (mask << 3);
    let taken: u32 = 0;
    for (let lane: u32 = 0; lane < 8; lane++) {
      if (((mask >> lane) & 1) == 0) continue;
      store<u8>(row + taken, lane);
      store<u8>(row + UPPER + taken, lane + 8);
      taken++;
    }
    for (; taken < 8; taken++) {
      store<u8>(row + taken, 0x80);
      store<u8>(row + UPPER + taken, 0x80);
    }
  }
}

/** Where the survivors' parts of a block go. */
let exponentsAt: usize = 0;
let restAt: usize = 0;
let midAt: usize = 0;
let lowAt: usize = 0;
let maskCountsAt: usize = 0;
/** The OR of what went to the last two planes. */
let midBits: v128 = i64x2.splat(0);
let lowBits: v128 = i64x2.splat(0);

/**
 * Split one block of n elements into mask bytes and the survivors' parts.
 *
 * dense       all elements survive, zero words too
 * src         u8[n × element bytes]
 * masks       u8[ceil(n / 8)]: element 8i + k survives where bit k of byte i is set
 * exponents, rest, mid, low   u8[n + 16] each: a byte a survivor, the last 16 bytes scratch; mid is untouched for BF16,
 * low for all but F32
 * maskCounts  u32[2][256]: two histograms, whose sum is the mask bytes'; added to
 * tail        u8[64]: scratch
 * planes      u32[2]: OR of all mid bytes, OR of all low bytes; added to
 * returns     survivors
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
  tail: usize,
  planes: usize,
): u32 {
  exponentsAt = exponents;
  restAt = rest;
  midAt = mid;
  lowAt = low;
  maskCountsAt = maskCounts;
  midBits = i64x2.splat(0);
  lowBits = i64x2.splat(0);
  const forced: u32 = dense ? 0xffff : 0;
  const whole = n & ~15;
  const shift: usize = dtype == 3 ? 2 : 1;
  let survivors: usize;
  if (dtype == 1) survivors = splitBf16(src, whole, forced, masks);
  else if (dtype == 2) survivors = splitF16(src, whole, forced, masks);
  else survivors = splitF32(src, whole, forced, masks);
  const left = n - whole;
  if (left) {
    // The last group stands alone, zeros behind it: what follows in memory is another band's.
    memory.fill(tail, 0, 64);
    memory.copy(tail, src + ((<usize>whole) << shift), left << <u32>shift);
    survivors += splitTail(dtype, tail, left, forced, masks + (whole >> 3), survivors);
  }
  store<u32>(planes, load<u32>(planes) | orOfBytes(midBits));
  store<u32>(planes, load<u32>(planes, 4) | orOfBytes(lowBits), 4);
  return <u32>survivors;
}

function splitBf16(src: usize, n: u32, forced: u32, masks: usize): usize {
  let at: usize = 0;
  for (let i: u32 = 0; i < n; i += 16) {
    const alive = bf16(src, forced, 0xffff, at);
    store<u16>(masks + (i >> 3), alive);
    countMasks(alive);
    at += <usize>popcnt<u32>(alive);
    src += 32;
  }
  return at;
}

function splitF16(src: usize, n: u32, forced: u32, masks: usize): usize {
  let at: usize = 0;
  for (let i: u32 = 0; i < n; i += 16) {
    const alive = f16(src, forced, 0xffff, at);
    store<u16>(masks + (i >> 3), alive);
    countMasks(alive);
    at += <usize>popcnt<u32>(alive);
    src += 32;
  }
  return at;
}

function splitF32(src: usize, n: u32, forced: u32, masks: usize): usize {
  let at: usize = 0;
  for (let i: u32 = 0; i < n; i += 16) {
    const alive = f32Words(src, forced, 0xffff, at);
    store<u16>(masks + (i >> 3), alive);
    countMasks(alive);
    at += <usize>popcnt<u32>(alive);
    src += 64;
  }
  return at;
}

/** The last `left` elements, at most 15, which lie in 64 bytes of their own; returns how many survive. */
function splitTail(dtype: u32, src: usize, left: u32, forced: u32, masks: usize, at: usize): usize {
  const there: u32 = (1 << left) - 1;
  let alive: u32;
  if (dtype == 1) alive = bf16(src, forced, there, at);
  else if (dtype == 2) alive = f16(src, forced, there, at);
  else alive = f32Words(src, forced, there, at);
  store<u8>(masks, alive);
  countMask(alive & 255, maskCountsAt);
  if (left > 8) {
    store<u8>(masks, alive >> 8, 1);
    countMask(alive >> 8, maskCountsAt);
  }
  return <usize>popcnt<u32>(alive);
}

function countMask(mask: u32, counts: usize): void {
  const at = counts + ((<usize>mask) << 2);
  store<u32>(at, load<u32>(at) + 1);
}

/** Two tables: neighbours are mostly alike, and one table would wait for its own last store. */
function countMasks(alive: u32): void {
  countMask(alive & 255, maskCountsAt);
  countMask(alive >> 8, maskCountsAt + 1024);
}

/** Of sixteen words in two vectors: bit k is set where word k is not all zero bits. */
function nonZero(a: v128, b: v128): u32 {
  const zero = i64x2.splat(0);
  return ~i8x16.bitmask(i8x16.narrow_i16x8_s(i16x8.eq(a, zero), i16x8.eq(b, zero)));
}

/** Split sixteen elements of those that are `there`; returns which survive. */
function bf16(src: usize, forced: u32, there: u32, at: usize): u32 {
  const a = v128.load(src);
  const b = v128.load(src, 16);
  const alive = (nonZero(a, b) | forced) & there;
  putUpper(a, b, alive, at);
  return alive;
}

/** Exponents and rest bytes of sixteen words of sign, eight bits of exponent, seven of mantissa. */
function putUpper(a: v128, b: v128, alive: u32, at: usize): void {
  const low = i8x16.shuffle(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  const high = i8x16.shuffle(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
  // A set last bit of the exponent makes the lower byte negative: −1 is taken away there.
  const exponent = i8x16.sub(i8x16.add(high, high), i8x16.lt_s(low, i64x2.splat(0)));
  put(exponentsAt + at, exponent, alive);
  put(restAt + at, v128.bitselect(high, low, i8x16.splat(<i8>0x80)), alive);
}

function f16(src: usize, forced: u32, there: u32, at: usize): u32 {
  const a = v128.load(src);
  const b = v128.load(src, 16);
  const alive = (nonZero(a, b) | forced) & there;
  const five = i16x8.splat(31);
  const exponent = i8x16.narrow_i16x8_u(v128.and(i16x8.shr_u(a, 10), five), v128.and(i16x8.shr_u(b, 10), five));
  const three = i16x8.splat(7);
  const m = i8x16.narrow_i16x8_u(v128.and(a, three), v128.and(b, three));
  midBits = v128.or(midBits, m);
  put(exponentsAt + at, exponent, alive);
  put(restAt + at, i8x16.narrow_i16x8_u(f16Rest(a), f16Rest(b)), alive);
  put(midAt + at, m, alive);
  return alive;
}

/** Sign and upper seven bits of mantissa, in the lower byte of each lane. */
function f16Rest(words: v128): v128 {
  const sign = v128.and(i16x8.shr_u(words, 8), i16x8.splat(0x80));
  return v128.or(sign, v128.and(i16x8.shr_u(words, 3), i16x8.splat(0x7f)));
}

function f32Words(src: usize, forced: u32, there: u32, at: usize): u32 {
  const zero = i64x2.splat(0);
  const a = v128.load(src);
  const b = v128.load(src, 16);
  const c = v128.load(src, 32);
  const d = v128.load(src, 48);
  const deadAb = i16x8.narrow_i32x4_s(i32x4.eq(a, zero), i32x4.eq(b, zero));
  const deadCd = i16x8.narrow_i32x4_s(i32x4.eq(c, zero), i32x4.eq(d, zero));
  const alive = (~i8x16.bitmask(i8x16.narrow_i16x8_s(deadAb, deadCd)) | forced) & there;
  // The upper halves are BF16 words, the lower ones two planes.
  const upperAb = i16x8.shuffle(a, b, 1, 3, 5, 7, 9, 11, 13, 15);
  const upperCd = i16x8.shuffle(c, d, 1, 3, 5, 7, 9, 11, 13, 15);
  putUpper(upperAb, upperCd, alive, at);
  const lowerAb = i16x8.shuffle(a, b, 0, 2, 4, 6, 8, 10, 12, 14);
  const lowerCd = i16x8.shuffle(c, d, 0, 2, 4, 6, 8, 10, 12, 14);
  const l = i8x16.shuffle(lowerAb, lowerCd, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  const m = i8x16.shuffle(lowerAb, lowerCd, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
  midBits = v128.or(midBits, m);
  lowBits = v128.or(lowBits, l);
  put(midAt + at, m, alive);
  put(lowAt + at, l, alive);
  return alive;
}

/** The bytes that `alive` marks among sixteen, one behind the other; up to sixteen bytes are written. */
function put(at: usize, bytes: v128, alive: u32): void {
  if (alive == 0xffff) {
    v128.store(at, bytes);
    return;
  }
  const lower = v128.load64_zero(compressAt + ((<usize>(alive & 255)) << 3));
  const upper = v128.load64_zero(compressAt + UPPER + ((<usize>(alive >> 8)) << 3));
  v128.store64_lane(at, i8x16.swizzle(bytes, lower), 0);
  v128.store64_lane(at + <usize>popcnt<u32>(alive & 255), i8x16.swizzle(bytes, upper), 0);
}

function orOfBytes(bytes: v128): u32 {
  const folded = i64x2.extract_lane(bytes, 0) | i64x2.extract_lane(bytes, 1);
  const half = <u32>folded | <u32>(folded >> 32);
  return (half | (half >> 8) | (half >> 16) | (half >> 24)) & 255;
}
