// Types of blocks of 32 weights. Each function reads `count` f32 weights at `source`, rows of `rowLength`, and writes
// whole blocks; `importance` is the place of `rowLength` f32 or 0.
// source: llama.cpp ggml-quants.c quantize_row_{q8_0,q4_0,q5_0,q5_1}_ref, quantize_row_{q4_0,q5_0,q5_1}_impl
import { clamp, gather4, halfBits, roundHalfAway4, scatter4, weight } from "./numbers";
import * as range from "./ranged";
import { chosen, fitSymmetric, importance as laneImportance, values } from "./symmetric";

const levels = memory.data(4 * 32);
const products = memory.data(4 * 32 * 4, 16);

/** 32 weights → f16 scale, 32 × i8. */
export function quantiseQ8_0(source: usize, target: usize, count: i32, _rowLength: i32, _importance: usize): void {
  for (let block = 0; block < count; block += 32) {
    const x = source + ((<usize>block) << 2);
    let largest4 = f32x4.abs(v128.load(x));
    for (let i: usize = 16; i < 128; i += 16) largest4 = f32x4.max(largest4, f32x4.abs(v128.load(x + i)));
    const largest = max<f32>(
      max<f32>(f32x4.extract_lane(largest4, 0), f32x4.extract_lane(largest4, 1)),
      max<f32>(f32x4.extract_lane(largest4, 2), f32x4.extract_lane(largest4, 3)),
    );
    const scale = largest / 127.0;
    const inverse = f32x4.splat(scale != 0 ? <f32>1.0 / scale : 0);
    store<u16>(target, <u16>halfBits(scale));
    for (let i: usize = 0; i < 32; i += 8) {
      const at = x + (i << 2);
      const words = i16x8.narrow_i32x4_s(
        roundHalfAway4(f32x4.mul(v128.load(at), inverse)),
        roundHalfAway4(f32x4.mul(v128.load(at, 16), inverse)),
      );
      // The low bytes, as storing an i8 takes them.
      const bytes = i8x16.shuffle(words, words, 0, 2, 4, 6, 8, 10, 12, 14, 0, 2, 4, 6, 8, 10, 12, 14);
      v128.store64_lane(target + 2 + i, bytes, 0);
    }
    target += 34;
  }
}

/** 32 weights → f16 scale, 32 × 4 bits with offset 8; the weight largest in size becomes −8. */
export function quantiseQ4_0(source: usize, target: usize, count: i32, rowLength: i32, importance: usize): void {
  if (importance != 0) return weightedSymmetric(source, target, count, rowLength, importance, 8);
  for (let block = 0; block < count; block += 32) {
    plainLevels(source + ((<usize>block) << 2), target, 8);
    packNibbles(levels, target + 2);
    target += 18;
  }
}

/** 32 weights → f16 scale, 32 high bits, 32 × 4 low bits, offset 16. */
export function quantiseQ5_0(source: usize, target: usize, count: i32, rowLength: i32, importance: usize): void {
  if (importance != 0) return weightedSymmetric(source, target, count, rowLength, importance, 16);
  for (let block = 0; block < count; block += 32) {
    plainLevels(source + ((<usize>block) << 2), target, 16);
    packHighBits(levels, target + 2);
    packNibbles(levels, target + 6);
    target += 22;
  }
}

/** 32 weights → f16 scale, f16 minimum, 32 high bits, 32 × 4 low bits. */
export function quantiseQ5_1(source: usize, target: usize, count: i32, rowLength: i32, importance: usize): void {
  for (let block = 0; block < count; block += 32) {
    const x = source + ((<usize>block) << 2);
    if (importance == 0) {
      let least = weight(x, 0);
      let largest = least;
      for (let i = 1; i < 32; i++) {
        least = min<f32>(least, weight(x, i));
        largest = max<f32>(largest, weight(x, i));
      }
      const scale: f32 = (largest - least) / 31.0;
      const inverse: f32 = scale != 0 ? <f32>1.0 / scale : 0;
      store<u16>(target, <u16>halfBits(scale));
      store<u16>(target + 2, <u16>halfBits(least));
      for (let i = 0; i < 32; i++) store<u8>(levels + i, <u8>(<i32>((weight(x, i) - least) * inverse + 0.5)));
    } else {
      const inRow = block % rowLength;
      const spread = meanSquare(source + ((<usize>(block - inRow)) << 2), rowLength);
      weigh(x, importance + ((<usize>inRow) << 2), spread, 32, products);
      gather4(x, 0, 1, 32, range.values);
      gather4(products, 0, 1, 32, range.importance);
      const scale = f32x4.extract_lane(range.fitRange(32, 31, -0.9, 0.05, 36), 0);
      store<u16>(target, <u16>halfBits(scale));
      store<u16>(target + 2, <u16>halfBits(-f32x4.extract_lane(range.fittedMins, 0)));
      scatter4(range.chosen, 1, 32, levels, 32);
    }
    packHighBits(levels, target + 4);
    packNibbles(levels, target + 8);
    target += 24;
  }
}

/** Levels 0 … 2 · half − 1 into `levels`, the f16 scale at `target`. */
function plainLevels(x: usize, target: usize, half: i32): void {
  let size: f32 = 0;
  let largest: f32 = 0;
  for (let i = 0; i < 32; i++) {
    const value = weight(x, i);
    if (abs<f32>(value) > size) {
      size = abs<f32>(value);
      largest = value;
    }
  }
  const scale: f32 = largest / -(<f32>half);
  const inverse: f32 = scale != 0 ? <f32>1.0 / scale : 0;
  store<u16>(target, <u16>halfBits(scale));
  for (let i = 0; i < 32; i++) {
    const level = <i32>(weight(x, i) * inverse + (<f32>half + <f32>0.5));
    store<u8>(levels + i, <u8>clamp(level, 0, 2 * half - 1));
  }
}

/** Q4_0 (half 8) and Q5_0 (half 16) where columns count differently; four blocks of a row at once. */
function weightedSymmetric(
  source: usize,
  target: usize,
  count: i32,
  rowLength: i32,
  importance: usize,
  half: i32,
): void {
  const blockBytes: usize = half == 8 ? 18 : 22;
  for (let row = 0; row < count; row += rowLength) {
    const x = source + ((<usize>row) << 2);
    const spread = meanSquare(x, rowLength);
    for (let start = 0; start < rowLength; start += 128) {
      const at = x + ((<usize>start) << 2);
      const blocks = min<i32>(4, (rowLength - start) >> 5);
      weigh(at, importance + ((<usize>start) << 2), spread, blocks << 5, products);
      gather4(at, 128, blocks, 32, values);
      gather4(products, 128, blocks, 32, laneImportance);
      const scales = fitSymmetric(32, <f32>half, true);
      v128.store(products, scales);
      scatter4(chosen, blocks, 32, levels, 32);
      for (let block = 0; block < blocks; block++) {
        const from = levels + ((<usize>block) << 5);
        store<u16>(target, <u16>halfBits(weight(products, block)));
        if (half == 16) packHighBits(from, target + 2);
        packNibbles(from, target + blockBytes - 16);
        target += blockBytes;
      }
    }
  }
}

/** The mean of the squares of a row. */
function meanSquare(x: usize, length: i32): f32 {
  let squares: f32 = 0;
  for (let i = 0; i < length; i++) squares += weight(x, i) * weight(x, i);
  return squares / <f32>length;
}

/** Importance of each weight: its column's, times the root of the row's spread plus its own square. */
export function weigh(x: usize, columns: usize, spread: f32, length: i32, target: usize): void {
  for (let i = 0; i < length; i++) {
    const value = weight(x, i);
    const product: f32 = weight(columns, i) * sqrt<f32>(spread + value * value);
    store<f32>(target + ((<usize>i) << 2), product);
  }
}

/** 32 levels: the low four bits of i and i + 16 share a byte. */
export function packNibbles(from: usize, target: usize): void {
  for (let i = 0; i < 16; i++) {
    store<u8>(target + i, (load<u8>(from + i) & 15) | ((load<u8>(from + i + 16) & 15) << 4));
  }
}

/** The fifth bits of 32 levels, in order. */
function packHighBits(from: usize, target: usize): void {
  let bits: u32 = 0;
  for (let i = 0; i < 32; i++) bits |= (<u32>((load<u8>(from + i) >> 4) & 1)) << i;
  store<u32>(target, bits);
}
