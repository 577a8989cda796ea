import { elementCount } from "../checkpoint/donor.js";
import type { SourceFile } from "../checkpoint/model-source.js";
import type { TensorDiff } from "../record/diff.js";
import { bytesPerFloat, type FloatDtype, isFloatDtype } from "../safetensors/dtypes.js";
import { decodeFloats } from "../safetensors/float-bits.js";
import type { TensorInfo } from "../safetensors/header.js";

/** One side's tensor and the open file that it lies in. */
export interface Placed {
  readonly info: TensorInfo;
  readonly file: SourceFile;
}

/** Weights of each side in memory at once: 4 MiB as F32. */
const PIECE_WEIGHTS = 1 << 20;

/** Compare a tensor that both sides have: by value where both hold floats of one shape, else byte by byte. */
export async function diffTensor(name: string, a: Placed, b: Placed): Promise<TensorDiff> {
  const known = {
    name,
    dtype_a: a.info.dtype,
    dtype_b: b.info.dtype,
    shape_a: a.info.shape,
    shape_b: b.info.shape,
    weights: elementCount(b.info.shape),
  };
  if (a.info.shape.join() !== b.info.shape.join()) return { ...known, state: "another shape", ...NO_NUMBERS };
  const [dtypeA, dtypeB] = [a.info.dtype, b.info.dtype];
  if (!isFloatDtype(dtypeA) || !isFloatDtype(dtypeB)) {
    if (dtypeA !== dtypeB) return { ...known, state: "another dtype", ...NO_NUMBERS };
    return { ...known, state: (await isSameBytes(a, b)) ? "equal" : "changed", ...NO_NUMBERS };
  }
  const sums = new Sums();
  let isSame = dtypeA === dtypeB;
  for (let start = 0; start < known.weights; start += PIECE_WEIGHTS) {
    const end = Math.min(start + PIECE_WEIGHTS, known.weights);
    const [left, right] = [await piece(a, dtypeA, start, end), await piece(b, dtypeB, start, end)];
    if (isSame && Buffer.compare(left, right) !== 0) isSame = false;
    sums.add(decodeFloats(left, dtypeA), decodeFloats(right, dtypeB));
  }
  return { ...known, state: isSame ? "equal" : "changed", ...sums.numbers(known.weights) };
}

export const NO_NUMBERS = {
  weights_changed: null,
  zeros_a: null,
  zeros_b: null,
  rms: null,
  max: null,
  relative_error: null,
} as const;

function piece({ info, file }: Placed, dtype: FloatDtype, start: number, end: number): Promise<Uint8Array> {
  const width = bytesPerFloat(dtype);
  return file.read(info.byteOffset + start * width, info.byteOffset + end * width);
}

async function isSameBytes(a: Placed, b: Placed): Promise<boolean> {
  if (a.info.byteLength !== b.info.byteLength) return false;
  const step = 4 * PIECE_WEIGHTS;
  for (let begin = 0; begin < a.info.byteLength; begin += step) {
    const end = Math.min(begin + step, a.info.byteLength);
    const one = await a.file.read(a.info.byteOffset + begin, a.info.byteOffset + end);
    const other = await b.file.read(b.info.byteOffset + begin, b.info.byteOffset + end);
    if (Buffer.compare(one, other) !== 0) return false;
  }
  return true;
}

/** What is summed over a tensor, in f64. */
class Sums {
  private changed = 0;
  private zerosA = 0;
  private zerosB = 0;
  private squares = 0;
  private squaresA = 0;
  private max = 0;

  add(a: Float32Array, b: Float32Array): void {
    for (let at = 0; at < a.length; at++) {
      const [x, y] = [a[at], b[at]];
      if (x === 0) this.zerosA++;
      if (y === 0) this.zerosB++;
      // Two NaN are one value here; NaN beside a number makes every sum NaN.
      if (Object.is(x, y)) {
        if (Number.isFinite(x)) this.squaresA += x * x;
        continue;
      }
      const difference = y - x;
      if (difference !== 0) this.changed++;
      this.squares += difference * difference;
      this.squaresA += x * x;
      if (!(Math.abs(difference) <= this.max)) this.max = Math.abs(difference);
    }
  }

  numbers(weights: number) {
    const finite = (value: number): number | null => (Number.isFinite(value) ? value : null);
    return {
      weights_changed: this.changed,
      zeros_a: this.zerosA,
      zeros_b: this.zerosB,
      rms: weights === 0 ? 0 : finite(Math.sqrt(this.squares / weights)),
      max: finite(this.max),
      relative_error: this.squares === 0 ? 0 : finite(Math.sqrt(this.squares / this.squaresA)),
    };
  }
}
