// Types of super-blocks of 256 weights. Each function reads `count` f32 weights at `source`, rows of `rowLength`, and
// writes whole blocks; `importance` is the place of `rowLength` f32 or 0.
// source: llama.cpp ggml-quants.c quantize_row_{q4_K,q5_K,q6_K}_{ref,impl}
import { weigh } from "./blocks-32";
import { clamp, GROUP_MAX_EPS, gather4, halfBits, halfValue, nearestInt, scatter4, weight } from "./numbers";
import * as range from "./ranged";
import * as symmetric from "./symmetric";

const levels = memory.data(256);
const importances = memory.data(256 * 4, 16);
const scales = memory.data(16 * 4, 16);
const mins = memory.data(8 * 4, 16);
const groupSums = memory.data(8 * 4);
const scaleLevels = memory.data(8);
const minLevels = memory.data(8);

/** 256 weights → 128 bytes of low nibbles, 64 of high bit pairs, 16 × i8 scales, f16 scale of scales. */
export function quantiseQ6_K(source: usize, target: usize, count: i32, rowLength: i32, importance: usize): void {
  for (let block = 0; block < count; block += 256) {
    const x = source + ((<usize>block) << 2);
    const columns = importance + ((<usize>(block % rowLength)) << 2);
    let size: f32 = 0;
    let largest: f32 = 0;
    for (let first = 0; first < 16; first += 4) {
      const offset = (<usize>first) << 6;
      gather4(x + offset, 64, 4, 16, symmetric.values);
      if (importance != 0) gather4(columns + offset, 64, 4, 16, symmetric.importance);
      v128.store(scales + ((<usize>first) << 2), symmetric.fitSymmetric(16, 32, importance != 0));
      scatter4(symmetric.chosen, 4, 16, levels + ((<usize>first) << 4), 16);
    }
    for (let group = 0; group < 16; group++) {
      const scale = weight(scales, group);
      if (abs<f32>(scale) > size) {
        size = abs<f32>(scale);
        largest = scale;
      }
    }
    if (size < GROUP_MAX_EPS) {
      memory.fill(target, 0, 210);
      target += 210;
      continue;
    }
    const inverse: f32 = <f32>-128.0 / largest;
    const scaleBits = halfBits(<f32>1.0 / inverse);
    const scaleOfScales = halfValue(scaleBits);
    store<u16>(target + 208, <u16>scaleBits);
    for (let group = 0; group < 16; group++) {
      const scale = min<i32>(127, nearestInt(inverse * weight(scales, group)));
      store<i8>(target + 192 + group, <i8>scale);
      const step: f32 = scaleOfScales * <f32>scale;
      if (step == 0) continue;
      for (let i = group * 16; i < group * 16 + 16; i++) {
        store<u8>(levels + i, <u8>(32 + clamp(nearestInt(weight(x, i) / step), -32, 31)));
      }
    }
    packSixBits(levels, target);
    target += 210;
  }
}

/** 256 levels 0 … 63 as Q6_K keeps them. */
export function packSixBits(from: usize, target: usize): void {
  for (let half = 0; half < 2; half++) {
    const at = from + ((<usize>half) << 7);
    const low = target + ((<usize>half) << 6);
    const high = target + 128 + ((<usize>half) << 5);
    for (let i = 0; i < 32; i++) {
      const a = load<u8>(at + i);
      const b = load<u8>(at + i + 32);
      const c = load<u8>(at + i + 64);
      const d = load<u8>(at + i + 96);
      store<u8>(low + i, (a & 15) | ((c & 15) << 4));
      store<u8>(low + i + 32, (b & 15) | ((d & 15) << 4));
      store<u8>(high + i, (a >> 4) | ((b >> 4) << 2) | ((c >> 4) << 4) | ((d >> 4) << 6));
    }
  }
}

/** 256 weights → f16 scale and min of the groups' 6-bit ones, 12 bytes of those, 128 bytes of nibbles. */
export function quantiseQ4_K(source: usize, target: usize, count: i32, rowLength: i32, importance: usize): void {
  for (let block = 0; block < count; block += 256) {
    const x = source + ((<usize>block) << 2);
    fitGroups(x, target, importance == 0 ? 0 : importance + ((<usize>(block % rowLength)) << 2), 15);
    packPairs(levels, target + 16);
    target += 144;
  }
}

/** The same with 32 bytes of fifth bits before the nibbles. */
export function quantiseQ5_K(source: usize, target: usize, count: i32, rowLength: i32, importance: usize): void {
  for (let block = 0; block < count; block += 256) {
    const x = source + ((<usize>block) << 2);
    fitGroups(x, target, importance == 0 ? 0 : importance + ((<usize>(block % rowLength)) << 2), 31);
    packFifthBits(levels, target + 16);
    packPairs(levels, target + 48);
    target += 176;
  }
}

/** 256 levels, the low four bits of two groups of 32 sharing bytes. */
export function packPairs(from: usize, target: usize): void {
  for (let pair = 0; pair < 4; pair++) {
    const at = from + ((<usize>pair) << 6);
    for (let i = 0; i < 32; i++) {
      store<u8>(target + ((<usize>pair) << 5) + i, (load<u8>(at + i) & 15) | (load<u8>(at + i + 32) << 4));
    }
  }
}

/** Bit g of byte i is the fifth bit of level i of group g. */
export function packFifthBits(from: usize, target: usize): void {
  for (let i = 0; i < 32; i++) {
    let bits = 0;
    for (let group = 0; group < 8; group++) bits |= ((<i32>load<u8>(from + (group << 5) + i)) >> 4) << group;
    store<u8>(target + i, <u8>bits);
  }
}

/** Scales, minima and levels 0 … top of a super-block; the first 16 bytes of the block are written. */
function fitGroups(x: usize, target: usize, columns: usize, top: f32): void {
  const weighted = columns != 0;
  if (weighted) {
    let squares: f32 = 0;
    for (let i = 0; i < 256; i++) squares += weight(x, i) * weight(x, i);
    weigh(x, columns, (<f32>2.0 * squares) / <f32>256.0, 256, importances);
  }
  for (let group = 0; group < 8; group++) {
    const at = x + ((<usize>group) << 7);
    const to = importances + ((<usize>group) << 7);
    let sum: f32 = 0;
    if (weighted) {
      for (let i = 0; i < 32; i++) sum += weight(to, i);
    } else {
      for (let i = 0; i < 32; i++) sum += weight(at, i) * weight(at, i);
      const spread = sqrt<f32>(sum / 32.0);
      for (let i = 0; i < 32; i++) store<f32>(to + ((<usize>i) << 2), spread + abs<f32>(weight(at, i)));
    }
    store<f32>(groupSums + ((<usize>group) << 2), sum);
  }
  for (let half = 0; half < 2; half++) {
    const offset = (<usize>half) << 9;
    gather4(x + offset, 128, 4, 32, range.values);
    gather4(importances + offset, 128, 4, 32, range.importance);
    const fitted = weighted
      ? range.fitRange(32, top, -0.9, 0.05, 36)
      : top == 15
        ? range.fitRange(32, top, -1, 0.1, 20)
        : range.fitRange(32, top, -0.5, 0.1, 15);
    v128.store(scales + ((<usize>half) << 4), fitted);
    v128.store(mins + ((<usize>half) << 4), range.fittedMins);
    scatter4(range.chosen, 4, 32, levels + ((<usize>half) << 7), 32);
  }
  let scaleBits: u32;
  let minBits: u32;
  if (weighted) {
    scaleBits = halfBits(range.fitPositive(scales, scaleLevels, groupSums));
    minBits = halfBits(range.fitPositive(mins, minLevels, groupSums));
  } else {
    scaleBits = halfBits(plainScales(scales, scaleLevels));
    minBits = halfBits(plainScales(mins, minLevels));
  }
  const scaleOfScales = halfValue(scaleBits);
  const scaleOfMins = halfValue(minBits);
  store<u16>(target, <u16>scaleBits);
  store<u16>(target + 2, <u16>minBits);
  packScales(target + 4);
  for (let group = 0; group < 8; group++) {
    const step: f32 = scaleOfScales * <f32>load<u8>(scaleLevels + group);
    if (step == 0) continue;
    const shift: f32 = scaleOfMins * <f32>load<u8>(minLevels + group);
    for (let i = group * 32; i < group * 32 + 32; i++) {
      store<u8>(levels + i, <u8>clamp(nearestInt((weight(x, i) + shift) / step), 0, <i32>top));
    }
  }
}

/** Eight values that are not negative on the grid 0 … 63 of their largest; returns its step. */
function plainScales(from: usize, to: usize): f32 {
  let largest: f32 = 0;
  for (let group = 0; group < 8; group++) if (weight(from, group) > largest) largest = weight(from, group);
  const inverse: f32 = largest > 0 ? <f32>63.0 / largest : 0;
  for (let group = 0; group < 8; group++) {
    store<u8>(to + group, <u8>min<i32>(63, nearestInt(inverse * weight(from, group)) & 255));
  }
  return largest / 63.0;
}

/** Eight scales and eight minima of 6 bits in 12 bytes. */
function packScales(packed: usize): void {
  for (let group = 0; group < 8; group++) {
    const scale = <u32>load<u8>(scaleLevels + group);
    const minimum = <u32>load<u8>(minLevels + group);
    if (group < 4) {
      store<u8>(packed + group, <u8>scale);
      store<u8>(packed + group + 4, <u8>minimum);
    } else {
      store<u8>(packed + group + 4, <u8>((scale & 15) | ((minimum & 15) << 4)));
      store<u8>(packed + group - 4, <u8>(load<u8>(packed + group - 4) | ((scale >> 4) << 6)));
      store<u8>(packed + group, <u8>(load<u8>(packed + group) | ((minimum >> 4) << 6)));
    }
  }
}
