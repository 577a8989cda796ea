// The kernels of surgery. Each works on a rectangle of `rows` × `cols` weights, row-major and gapless, that holds whole
// columns of tiles; state arrays have one entry a tile column. Specification: src/flow/tile-mean.ts, src/flow/cut.ts.
// No buffer is checked here: src/flow/kernels.ts lays memory out and owns every pointer.

import { infinityOf, magnitudes4, pattern1, valueOf } from "../shared/weights";

const CHUNK: i32 = 256;

/** Room for 16 weights: the tail of a row is padded with zeros here, so that one loop serves all widths. */
const pad: usize = memory.data(64, 16);

/** Sixteen f32 lanes as `(v0+v1)+(v2+v3)` in f32, then `(l0+l1)+(l2+l3)` in f64. */
// @ts-ignore: decorator
@inline
function addLanes(v0: v128, v1: v128, v2: v128, v3: v128): f64 {
  const v = f32x4.add(f32x4.add(v0, v1), f32x4.add(v2, v3));
  return (
    <f64>f32x4.extract_lane(v, 0) +
    <f64>f32x4.extract_lane(v, 1) +
    (<f64>f32x4.extract_lane(v, 2) + <f64>f32x4.extract_lane(v, 3))
  );
}

/** A chunk that overflowed or holds NaN or infinities, summed in f64 over its finite weights; counts the others. */
function sumExactly<T>(ptr: usize, count: i32, nonFinite: usize): f64 {
  let sum: f64 = 0;
  for (let i = 0; i < count; i++) {
    const pattern = pattern1<T>(ptr + i * sizeof<T>());
    if (pattern >= infinityOf<T>()) store<u32>(nonFinite, load<u32>(nonFinite) + 1);
    else sum += <f64>valueOf<T>(pattern);
  }
  return sum;
}

// @ts-ignore: decorator
@inline
function sumChunk<T>(ptr: usize, count: i32, nonFinite: usize): f64 {
  const zero = f32x4.splat(0);
  let v0 = zero;
  let v1 = zero;
  let v2 = zero;
  let v3 = zero;
  // Halves have no infinity as singles do, so their largest pattern is watched.
  let largest = zero;
  const step: usize = 16 * sizeof<T>();
  const whole = count & ~15;
  let p = ptr;
  const end = ptr + whole * sizeof<T>();
  for (; p < end; p += step) {
    v0 = f32x4.add(v0, magnitudes4<T>(p));
    v1 = f32x4.add(v1, magnitudes4<T>(p + 4 * sizeof<T>()));
    v2 = f32x4.add(v2, magnitudes4<T>(p + 8 * sizeof<T>()));
    v3 = f32x4.add(v3, magnitudes4<T>(p + 12 * sizeof<T>()));
    if (isInteger<T>() && isSigned<T>()) {
      largest = i16x8.max_u(largest, v128.and(v128.load(p), i16x8.splat(0x7fff)));
      largest = i16x8.max_u(largest, v128.and(v128.load(p + 16), i16x8.splat(0x7fff)));
    }
  }
  const rest = count - whole;
  if (rest > 0) {
    memory.fill(pad, 0, 64);
    memory.copy(pad, p, rest * sizeof<T>());
    v0 = f32x4.add(v0, magnitudes4<T>(pad));
    v1 = f32x4.add(v1, magnitudes4<T>(pad + 4 * sizeof<T>()));
    v2 = f32x4.add(v2, magnitudes4<T>(pad + 8 * sizeof<T>()));
    v3 = f32x4.add(v3, magnitudes4<T>(pad + 12 * sizeof<T>()));
    if (isInteger<T>() && isSigned<T>()) {
      largest = i16x8.max_u(largest, v128.and(v128.load(pad), i16x8.splat(0x7fff)));
      largest = i16x8.max_u(largest, v128.and(v128.load(pad + 16), i16x8.splat(0x7fff)));
    }
  }
  const sum = addLanes(v0, v1, v2, v3);
  const finite = isInteger<T>() && isSigned<T>() ? !v128.any_true(i16x8.ge_u(largest, i16x8.splat(0x7c00))) : sum - sum == 0;
  return finite ? sum : sumExactly<T>(ptr, count, nonFinite);
}

/**
 * Adds every tile column's magnitudes to `sums` (f64 a tile); NaN and infinities are counted in `nonFinite` (u32 a
 * tile).
 */
// @ts-ignore: decorator
@inline
function sumTiles<T>(data: usize, rows: i32, cols: i32, blockSize: i32, sums: usize, nonFinite: usize): void {
  let row = data;
  for (let i = 0; i < rows; i++, row += cols * sizeof<T>()) {
    let tile = 0;
    for (let left = 0; left < cols; left += blockSize, tile++) {
      const right = min(left + blockSize, cols);
      let sum = load<f64>(sums + tile * 8);
      for (let j = left; j < right; j += CHUNK) {
        sum += sumChunk<T>(row + j * sizeof<T>(), min(CHUNK, right - j), nonFinite + tile * 4);
      }
      store<f64>(sums + tile * 8, sum);
    }
  }
}

export function sumTilesBf16(data: usize, rows: i32, cols: i32, blockSize: i32, sums: usize, nonFinite: usize): void {
  sumTiles<u16>(data, rows, cols, blockSize, sums, nonFinite);
}
export function sumTilesF16(data: usize, rows: i32, cols: i32, blockSize: i32, sums: usize, nonFinite: usize): void {
  sumTiles<i16>(data, rows, cols, blockSize, sums, nonFinite);
}
export function sumTilesF32(data: usize, rows: i32, cols: i32, blockSize: i32, sums: usize, nonFinite: usize): void {
  sumTiles<f32>(data, rows, cols, blockSize, sums, nonFinite);
}

/**
 * Zeroes every weight whose magnitude pattern lies under its tile's cut, and counts per tile: `dead` (zeros now) and
 * `zeros` (±0 before). Cuts are 1 … infinity, so zeros always go, and −0 becomes +0.
 */
export function applyCuts16(data: usize, rows: i32, cols: i32, blockSize: i32, cuts: usize, dead: usize, zeros: usize): void {
  const magnitudeMask = i16x8.splat(0x7fff);
  const none = i16x8.splat(0);
  let row = data;
  for (let i = 0; i < rows; i++, row += cols * 2) {
    let tile = 0;
    for (let left = 0; left < cols; left += blockSize, tile++) {
      const right = min(left + blockSize, cols);
      const cut = load<u32>(cuts + tile * 4);
      const cuts8 = i16x8.splat(<i16>cut);
      let deadHere: i32 = 0;
      let zerosHere: i32 = 0;
      let p = row + left * 2;
      const end = row + right * 2;
      // Lanes count up to 2^15 − 1 of eight weights each before they are added up.
      while (p + 16 <= end) {
        const stop = min(end - 15, p + 16 * 32767);
        let deadLanes = none;
        let zeroLanes = none;
        for (; p < stop; p += 16) {
          const v = v128.load(p);
          const magnitudes = v128.and(v, magnitudeMask);
          const below = i16x8.lt_s(magnitudes, cuts8);
          deadLanes = i16x8.sub(deadLanes, below);
          zeroLanes = i16x8.sub(zeroLanes, i16x8.eq(magnitudes, none));
          v128.store(p, v128.andnot(v, below));
        }
        deadHere += sum16(deadLanes);
        zerosHere += sum16(zeroLanes);
      }
      for (; p < end; p += 2) {
        const magnitude = <u32>load<u16>(p) & 0x7fff;
        if (magnitude < cut) {
          store<u16>(p, 0);
          deadHere++;
          if (magnitude == 0) zerosHere++;
        }
      }
      store<u32>(dead + tile * 4, load<u32>(dead + tile * 4) + deadHere);
      store<u32>(zeros + tile * 4, load<u32>(zeros + tile * 4) + zerosHere);
    }
  }
}

// @ts-ignore: decorator
@inline
function sum16(lanes: v128): i32 {
  return sum32(i32x4.extadd_pairwise_i16x8_s(lanes));
}

// @ts-ignore: decorator
@inline
function sum32(v: v128): i32 {
  return i32x4.extract_lane(v, 0) + i32x4.extract_lane(v, 1) + i32x4.extract_lane(v, 2) + i32x4.extract_lane(v, 3);
}

/** `applyCuts16` for F32. */
export function applyCuts32(data: usize, rows: i32, cols: i32, blockSize: i32, cuts: usize, dead: usize, zeros: usize): void {
  const magnitudeMask = i32x4.splat(0x7fffffff);
  const none = i32x4.splat(0);
  let row = data;
  for (let i = 0; i < rows; i++, row += cols * 4) {
    let tile = 0;
    for (let left = 0; left < cols; left += blockSize, tile++) {
      const right = min(left + blockSize, cols);
      const cut = load<u32>(cuts + tile * 4);
      const cuts4 = i32x4.splat(cut);
      let deadLanes = none;
      let zeroLanes = none;
      let p = row + left * 4;
      const end = row + right * 4;
      for (; p + 16 <= end; p += 16) {
        const v = v128.load(p);
        const magnitudes = v128.and(v, magnitudeMask);
        const below = i32x4.lt_s(magnitudes, cuts4);
        deadLanes = i32x4.sub(deadLanes, below);
        zeroLanes = i32x4.sub(zeroLanes, i32x4.eq(magnitudes, none));
        v128.store(p, v128.andnot(v, below));
      }
      let deadHere = sum32(deadLanes);
      let zerosHere = sum32(zeroLanes);
      for (; p < end; p += 4) {
        const magnitude = load<u32>(p) & 0x7fffffff;
        if (magnitude < cut) {
          store<u32>(p, 0);
          deadHere++;
          if (magnitude == 0) zerosHere++;
        }
      }
      store<u32>(dead + tile * 4, load<u32>(dead + tile * 4) + deadHere);
      store<u32>(zeros + tile * 4, load<u32>(zeros + tile * 4) + zerosHere);
    }
  }
}
