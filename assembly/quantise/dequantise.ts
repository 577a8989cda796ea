// GGUF blocks to the F32 they stand for. The readable form: src/export/dequantise.ts. Products of scales and levels fit
// an f32 exactly, so each weight is rounded once, as llama.cpp rounds it.
// source: llama.cpp ggml-quants.c dequantize_row_*; layouts: ggml-common.h

import { halfValue } from "./numbers";

function half(at: usize): f32 {
  return halfValue(load<u16>(at));
}

function put(target: usize, i: i32, value: f32): void {
  store<f32>(target + ((<usize>i) << 2), value);
}

/** Four signed bytes, widened, times a scale. */
function bytes4(at: usize): v128 {
  return f32x4.convert_i32x4_s(i32x4.extend_low_i16x8_s(i16x8.extend_low_i8x16_s(v128.load32_zero(at))));
}

export function dequantiseQ8_0(source: usize, target: usize, count: i32): void {
  for (const end = target + ((<usize>count) << 2); target < end; target += 128, source += 34) {
    const scale = f32x4.splat(half(source));
    for (let i: usize = 0; i < 32; i += 4) {
      v128.store(target + (i << 2), f32x4.mul(bytes4(source + 2 + i), scale));
    }
  }
}

/** 32 weights of 4 bits and a fifth in `high`: level × scale + shift; low nibbles first, then high ones. */
function nibbles32(nibbles: usize, high: u32, target: usize, scale: f32, shift: f32): void {
  for (let i = 0; i < 16; i++) {
    const byte: u32 = load<u8>(nibbles + i);
    put(target, i, <f32>((byte & 15) | (((high >> i) & 1) << 4)) * scale + shift);
    put(target, i + 16, <f32>((byte >> 4) | (((high >> (i + 16)) & 1) << 4)) * scale + shift);
  }
}

export function dequantiseQ4_0(source: usize, target: usize, count: i32): void {
  for (const end = target + ((<usize>count) << 2); target < end; target += 128, source += 18) {
    const scale = half(source);
    nibbles32(source + 2, 0, target, scale, -8 * scale);
  }
}

export function dequantiseQ4_1(source: usize, target: usize, count: i32): void {
  for (const end = target + ((<usize>count) << 2); target < end; target += 128, source += 20) {
    nibbles32(source + 4, 0, target, half(source), half(source + 2));
  }
}

export function dequantiseQ5_0(source: usize, target: usize, count: i32): void {
  for (const end = target + ((<usize>count) << 2); target < end; target += 128, source += 22) {
    const scale = half(source);
    nibbles32(source + 6, load<u32>(source + 2), target, scale, -16 * scale);
  }
}

export function dequantiseQ5_1(source: usize, target: usize, count: i32): void {
  for (const end = target + ((<usize>count) << 2); target < end; target += 128, source += 24) {
    nibbles32(source + 8, load<u32>(source + 4), target, half(source), half(source + 2));
  }
}

/** source: ggml-common.h `kvalues_iq4nl` */
const GRID = memory.data<i8>([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113]);

export function dequantiseIQ4_NL(source: usize, target: usize, count: i32): void {
  for (const end = target + ((<usize>count) << 2); target < end; target += 128, source += 18) {
    const scale = half(source);
    for (let i = 0; i < 16; i++) {
      const byte: usize = load<u8>(source + 2 + i);
      put(target, i, <f32>load<i8>(GRID + (byte & 15)) * scale);
      put(target, i + 16, <f32>load<i8>(GRID + (byte >> 4)) * scale);
    }
  }
}

/** The 6-bit scale of one of the eight groups of Q4_K and Q5_K; its minimum. Both lie packed in 12 bytes. */
function groupScale(at: usize, group: usize): u32 {
  if (group < 4) return load<u8>(at + group) & 63;
  return (load<u8>(at + group + 4) & 15) | ((load<u8>(at + group - 4) >> 6) << 4);
}

function groupMinimum(at: usize, group: usize): u32 {
  if (group < 4) return load<u8>(at + group + 4) & 63;
  return (load<u8>(at + group + 4) >> 4) | ((load<u8>(at + group) >> 6) << 4);
}

/** step × level − shift for four levels in the low bytes of a vector. */
function ranged4(levels: v128, step: v128, shift: v128): v128 {
  const wide = i32x4.extend_low_i16x8_u(i16x8.extend_low_i8x16_u(levels));
  return f32x4.sub(f32x4.mul(step, f32x4.convert_i32x4_s(wide)), shift);
}

export function dequantiseQ4_K(source: usize, target: usize, count: i32): void {
  for (const end = target + ((<usize>count) << 2); target < end; target += 1024, source += 144) {
    const scale = half(source);
    const minimum = half(source + 2);
    for (let group: usize = 0; group < 8; group++) {
      const step = f32x4.splat(scale * <f32>groupScale(source + 4, group));
      const shift = f32x4.splat(minimum * <f32>groupMinimum(source + 4, group));
      // Two groups share 32 bytes: the even one has the low nibbles.
      const nibbles = source + 16 + (group >> 1) * 32;
      const bits = <i32>(group & 1) << 2;
      for (let i: usize = 0; i < 32; i += 4) {
        const four = v128.and(i8x16.shr_u(v128.load32_zero(nibbles + i), bits), i8x16.splat(15));
        v128.store(target + ((group * 32 + i) << 2), ranged4(four, step, shift));
      }
    }
  }
}

export function dequantiseQ5_K(source: usize, target: usize, count: i32): void {
  for (const end = target + ((<usize>count) << 2); target < end; target += 1024, source += 176) {
    const scale = half(source);
    const minimum = half(source + 2);
    for (let group: usize = 0; group < 8; group++) {
      const step = f32x4.splat(scale * <f32>groupScale(source + 4, group));
      const shift = f32x4.splat(minimum * <f32>groupMinimum(source + 4, group));
      const nibbles = source + 48 + (group >> 1) * 32;
      const bits = <i32>(group & 1) << 2;
      for (let i: usize = 0; i < 32; i += 4) {
        const low = v128.and(i8x16.shr_u(v128.load32_zero(nibbles + i), bits), i8x16.splat(15));
        const fifth = v128.and(i8x16.shr_u(v128.load32_zero(source + 16 + i), <i32>group), i8x16.splat(1));
        v128.store(target + ((group * 32 + i) << 2), ranged4(v128.or(low, i8x16.shl(fifth, 4)), step, shift));
      }
    }
  }
}

export function dequantiseQ6_K(source: usize, target: usize, count: i32): void {
  for (const end = target + ((<usize>count) << 2); target < end; target += 1024, source += 210) {
    const scale = half(source + 208);
    for (let run: usize = 0; run < 16; run++) {
      // Each half of 128 weights: four runs of 32, in the low nibbles of 64 bytes, then their high nibbles; a scale for
      // every 16.
      const side = run >> 3;
      const quarter = (run >> 1) & 3;
      const lane = (run & 1) << 4;
      const low = source + side * 64 + (quarter & 1) * 32 + lane;
      const high = source + 128 + side * 32 + lane;
      const step = f32x4.splat(scale * <f32>load<i8>(source + 192 + run));
      for (let i: usize = 0; i < 16; i += 4) {
        const four = v128.and(i8x16.shr_u(v128.load32_zero(low + i), <i32>(quarter >> 1) << 2), i8x16.splat(15));
        const two = v128.and(i8x16.shr_u(v128.load32_zero(high + i), <i32>quarter << 1), i8x16.splat(3));
        const levels = i8x16.sub(v128.or(four, i8x16.shl(two, 4)), i8x16.splat(32));
        const wide = f32x4.convert_i32x4_s(i32x4.extend_low_i16x8_s(i16x8.extend_low_i8x16_s(levels)));
        v128.store(target + ((run * 16 + i) << 2), f32x4.mul(step, wide));
      }
    }
  }
}
