// Where one balanced tile and its factors lie while it is worked on: src/flow/kernels.ts owns the bytes, `place` cuts them.

import { finiteMagnitudes4, infinityOf, pattern1 } from "../shared/weights";

/** Sweeps of the contract. */
export const SWEEPS: i32 = 8;

export let width: i32 = 0; // columns, padded to sixteen
export let tile: usize = 0; // f32 (rows, width): magnitudes, NaN and infinities as 0
export let col32: usize = 0; // f32 (width): column factors
export let sum32: usize = 0; // f32 (width): column sums of some rows
export let away32: usize = 0; // f32 (width): Σ|P − 1/n| a column
export let row32: usize = 0; // f32 (rows): row factors
export let sum64: usize = 0; // f64 (width): column sums
export let col64: usize = 0; // f64 (width): column factors
export let row64: usize = 0; // f64 (rows): row factors

/** Cut the scratch memory for a tile of `rows` × `cols`: its size is `tileScratch` in src/flow/kernels.ts. */
export function place(scratch: usize, rows: i32, cols: i32): void {
  width = (cols + 15) & ~15;
  const padded = (rows + 3) & ~3;
  tile = scratch;
  col32 = tile + rows * width * 4;
  sum32 = col32 + width * 4;
  away32 = sum32 + width * 4;
  row32 = away32 + width * 4;
  sum64 = row32 + padded * 4;
  col64 = sum64 + width * 8;
  row64 = col64 + width * 8;
}

/** Magnitudes of the tile as f32. */
// @ts-ignore: decorator
@inline
export function take<T>(data: usize, rows: i32, cols: i32, stride: i32): void {
  const whole = cols & ~3;
  for (let i = 0; i < rows; i++) {
    const from = data + i * stride * sizeof<T>();
    const to = tile + i * width * 4;
    let j = 0;
    for (; j < whole; j += 4) v128.store(to + j * 4, finiteMagnitudes4<T>(from + j * sizeof<T>()));
    if (j < width) memory.fill(to + j * 4, 0, (width - j) * 4);
    for (; j < cols; j++) {
      const pattern = pattern1<T>(from + j * sizeof<T>());
      if (pattern < infinityOf<T>()) store<f32>(to + j * 4, valueAt<T>(from + j * sizeof<T>()));
    }
  }
}

/** One weight's magnitude, exact. */
// @ts-ignore: decorator
@inline
function valueAt<T>(ptr: usize): f32 {
  if (isFloat<T>()) return reinterpret<f32>(load<u32>(ptr) & 0x7fffffff);
  const pattern = <u32>load<u16>(ptr) & 0x7fff;
  if (isSigned<T>()) return reinterpret<f32>(pattern << 13) * reinterpret<f32>(0x77800000);
  return reinterpret<f32>(pattern << 16);
}

// @ts-ignore: decorator
@inline
export function high(v: v128): v128 {
  return i8x16.shuffle(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 8, 9, 10, 11, 12, 13, 14, 15);
}
