// IQ4_NL: 32 weights on a grid whose steps widen away from zero.
// source: llama.cpp ggml-quants.c `quantize_row_iq4_nl_impl`; the grid: ggml-common.h `kvalues_iq4nl`
import { packNibbles, weigh } from "./blocks-32";
import { GROUP_MAX_EPS, halfBits, weight } from "./numbers";

const GRID = memory.data<i8>([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113]);
/** Scales tried on either side of the obvious one. */
const TRIALS = 7;

const levels = memory.data(32);
const importances = memory.data(32 * 4);
let products: f32 = 0;
let squares: f32 = 0;

/** The grid's point nearest to a value; of two equally near the upper. */
function nearestPoint(value: f32): i32 {
  if (value <= <f32>-127.0) return 0;
  if (value >= <f32>113.0) return 15;
  let low = 0;
  let high = 15;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (value < <f32>load<i8>(GRID + middle)) high = middle;
    else low = middle;
  }
  return value - <f32>load<i8>(GRID + high - 1) < <f32>load<i8>(GRID + high) - value ? high - 1 : high;
}

/** Sums of what the levels at a scale give: `products` and `squares`. */
function measure(x: usize, inverse: f32): void {
  products = 0;
  squares = 0;
  for (let i = 0; i < 32; i++) {
    const value = weight(x, i);
    const point = <f32>load<i8>(GRID + nearestPoint(inverse * value));
    const w = weight(importances, i);
    products += w * point * value;
    squares += w * point * point;
  }
}

/** 32 weights → f16 scale, 32 × 4 bits: places in the grid. */
export function quantiseIQ4_NL(source: usize, target: usize, count: i32, rowLength: i32, columns: usize): void {
  for (let block = 0; block < count; block += 32) {
    const x = source + ((<usize>block) << 2);
    let size: f32 = 0;
    let largest: f32 = 0;
    let sum: f32 = 0;
    for (let i = 0; i < 32; i++) {
      const value = weight(x, i);
      sum += value * value;
      if (abs<f32>(value) > size) {
        size = abs<f32>(value);
        largest = value;
      }
    }
    let scale: f32 = 0;
    if (size >= GROUP_MAX_EPS) {
      if (columns != 0) {
        weigh(x, columns + ((<usize>(block % rowLength)) << 2), sum * <f32>0.0625, 32, importances);
      } else {
        for (let i = 0; i < 32; i++) store<f32>(importances + ((<usize>i) << 2), weight(x, i) * weight(x, i));
      }
      measure(x, <f32>1.0 / (-largest / <f32>-127.0));
      scale = products / squares;
      let best: f32 = scale * products;
      for (let trial = -TRIALS; trial <= TRIALS; trial++) {
        measure(x, (<f32>trial + <f32>-127.0) / largest);
        if (squares > 0 && products * products > best * squares) {
          scale = products / squares;
          best = scale * products;
        }
      }
    }
    store<u16>(target, <u16>halfBits(scale));
    const inverse: f32 = scale != 0 ? <f32>1.0 / scale : 0;
    for (let i = 0; i < 32; i++) store<u8>(levels + i, <u8>nearestPoint(inverse * weight(x, i)));
    packNibbles(levels, target + 2);
    target += 18;
  }
}
