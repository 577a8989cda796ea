// Survivors' exponents to nibbles, two a byte, and what is counted on the way.

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
  for (let at: usize = 0; at < 1024; at += 16) {
    const a = i32x4.add(v128.load(scratch + at), v128.load(scratch + at, 1024));
    const b = i32x4.add(v128.load(scratch + at, 2048), v128.load(scratch + at, 3072));
    v128.store(counts + at, i32x4.add(a, b));
  }
}

function countByte(byte: u32, counts: usize): void {
  const at = counts + ((<usize>byte) << 2);
  store<u32>(at, load<u32>(at) + 1);
}

/**
 * Pair the survivors of one block by where their exponents lie in a window of fifteen.
 *
 * first      place 0 is the exponent `first`, place 14 is `first` + 14; whatever lies outside has place 15
 * pairs      u8[ceil(survivors / 2)]: place of survivor 2i in the low nibble, of 2i + 1 in the high one; 0 where an odd
 * last survivor has no neighbour
 * outside    u8[survivors]: exponents of those with place 15
 * pairCounts u32[4][256]: four histograms, whose sum is the pairs'; added to. An odd last pair is not counted
 * returns    exponents written outside
 */
export function pairInWindow(
  exponents: usize,
  survivors: u32,
  first: u32,
  pairs: usize,
  outside: usize,
  pairCounts: usize,
): u32 {
  let out = outside;
  let i: u32 = 0;
  const base = i8x16.splat(<i8>first);
  const fifteen = i8x16.splat(15);
  for (; i + 16 <= survivors; i += 16) {
    const places = i8x16.min_u(i8x16.sub(v128.load(exponents + i), base), fifteen);
    let strays: u32 = i8x16.bitmask(i8x16.eq(places, fifteen));
    while (strays) {
      store<u8>(out, load<u8>(exponents + i + ctz(strays)));
      out++;
      strays &= strays - 1;
    }
    const pair = v128.and(v128.or(places, i16x8.shr_u(places, 4)), i16x8.splat(255));
    const eight = i64x2.extract_lane(i8x16.narrow_i16x8_u(pair, pair), 0);
    store<u64>(pairs + (i >> 1), eight);
    countByte(<u32>eight & 255, pairCounts);
    countByte((<u32>eight >> 8) & 255, pairCounts + 1024);
    countByte((<u32>eight >> 16) & 255, pairCounts + 2048);
    countByte(<u32>eight >> 24, pairCounts + 3072);
    countByte(<u32>(eight >> 32) & 255, pairCounts);
    countByte(<u32>(eight >> 40) & 255, pairCounts + 1024);
    countByte(<u32>(eight >> 48) & 255, pairCounts + 2048);
    countByte(<u32>(eight >> 56), pairCounts + 3072);
  }
  for (; i < survivors; i += 2) {
    let pair = min<u32>((load<u8>(exponents + i) - first) & 255, 15);
    if (pair == 15) {
      store<u8>(out, load<u8>(exponents + i));
      out++;
    }
    if (i + 1 < survivors) {
      const place = min<u32>((load<u8>(exponents + i, 1) - first) & 255, 15);
      pair |= place << 4;
      if (place == 15) {
        store<u8>(out, load<u8>(exponents + i, 1));
        out++;
      }
      countByte(pair, pairCounts);
    }
    store<u8>(pairs + (i >> 1), pair);
  }
  return <u32>(out - outside);
}

/**
 * Pair the survivors of one block by a table, for exponents that no window of fifteen holds.
 *
 * nibbleOf   u8[256]: the nibble of a biased exponent, 15 where it has none of its own
 * pairs      u8[ceil(survivors / 2)]: survivor 2i in the low nibble, 2i + 1 in the high one
 * escapes    u8[survivors]: exponents of those with nibble 15
 * pairCounts u32[256], added to
 * returns    escapes written
 */
export function pairByTable(
  exponents: usize,
  survivors: u32,
  nibbleOf: usize,
  pairs: usize,
  escapes: usize,
  pairCounts: usize,
): u32 {
  let out = escapes;
  for (let i: u32 = 0; i < survivors; i += 2) {
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
