import { f16OfF32, f16ToF32 } from "../safetensors/float-bits.js";
import { TENSOR_TYPES } from "./gguf/types.js";
import type { QuantisedType, Quantiser } from "./quantiser.js";

/** The types whose levels can be chosen one by one: a weight is step · level − shift. */
export type CompensatedType = Exclude<QuantisedType, "IQ4_NL">;

/** One block a row with its scales, and room for levels to be chosen. */
export interface BlockLevels {
  readonly bytes: Uint8Array;
  /** Weights that share a scale. */
  readonly groupLength: number;
  /** A step and a shift a group, rows × groups. */
  readonly steps: Float32Array;
  readonly shifts: Float32Array;
  readonly least: number;
  readonly most: number;
  /** The level that is exactly zero, where there is one. */
  readonly zeroLevel: number;
  /** Put the levels of one row's block in. */
  store(row: number, levels: Int16Array): void;
}

/**
 * Fit the scales of a block a row.
 *
 * part        (rows, span), one block a row
 * importance  how much a column counts, (span)
 * isDead      (rows, span), 1 where a weight must be exactly zero: then the grid has a zero, whatever the type
 */
export function gridOf(
  type: CompensatedType,
  part: Float32Array,
  importance: Float32Array,
  isDead: Uint8Array | undefined,
  quantiser: Quantiser,
): BlockLevels {
  const { blockLength, blockBytes } = TENSOR_TYPES[type];
  const rows = part.length / blockLength;
  const weights = isDead === undefined ? part : part.map((weight, at) => (isDead[at] === 1 ? 0 : weight));
  const holdsZero = isDead !== undefined;
  if (type === "Q4_K" || type === "Q5_K") {
    const bytes = holdsZero
      ? symmetricSuperBlocks(type, weights, importance)
      : quantiser.quantise(type, weights, importance);
    return superBlocks(type, bytes, rows);
  }
  if (type === "Q6_K") return sixBitBlocks(quantiser.quantise(type, weights, importance), rows);
  const symmetric = type === "Q5_1" && holdsZero;
  const bytes = symmetric
    ? asRange(quantiser.quantise("Q5_0", weights, importance), rows)
    : quantiser.quantise(type, weights, importance);
  const steps = new Float32Array(rows);
  const shifts = new Float32Array(rows);
  const middle = type === "Q4_0" ? 8 : type === "Q5_0" ? 16 : 0;
  for (let row = 0; row < rows; row++) {
    const at = row * blockBytes;
    steps[row] = half(bytes, at);
    shifts[row] = type === "Q5_1" ? -half(bytes, at + 2) : middle * steps[row];
  }
  const most = { Q4_0: 15, Q5_0: 31, Q5_1: 31, Q8_0: 127 }[type];
  const least = type === "Q8_0" ? -127 : 0;
  const store = (row: number, levels: Int16Array): void => {
    const at = row * blockBytes;
    if (type === "Q8_0") for (let i = 0; i < 32; i++) bytes[at + 2 + i] = levels[i] & 255;
    else storeNibbles(bytes, at + blockBytes - 16, levels);
    if (type === "Q5_0") storeHighBits(bytes, at + 2, levels);
    if (type === "Q5_1") storeHighBits(bytes, at + 4, levels);
  };
  const zeroLevel = type === "Q5_1" ? 16 : middle;
  return { bytes, groupLength: 32, steps, shifts, least, most, zeroLevel, store };
}

function half(bytes: Uint8Array, at: number): number {
  return f16ToF32(bytes[at] | (bytes[at + 1] << 8));
}

function storeHalf(bytes: Uint8Array, at: number, value: number): number {
  const bits = f16OfF32(value);
  bytes[at] = bits & 255;
  bytes[at + 1] = bits >> 8;
  return f16ToF32(bits);
}

function storeNibbles(bytes: Uint8Array, at: number, levels: Int16Array): void {
  for (let i = 0; i < 16; i++) bytes[at + i] = (levels[i] & 15) | ((levels[i + 16] & 15) << 4);
}

function storeHighBits(bytes: Uint8Array, at: number, levels: Int16Array): void {
  let bits = 0;
  for (let i = 0; i < 32; i++) bits |= ((levels[i] >> 4) & 1) << i;
  for (let byte = 0; byte < 4; byte++) bytes[at + byte] = (bits >>> (8 * byte)) & 255;
}

/** Blocks of Q5_0 as Q5_1: the minimum is −16 steps, exactly, so that level 16 is zero. */
function asRange(symmetric: Uint8Array, rows: number): Uint8Array {
  const bytes = new Uint8Array(rows * 24);
  for (let row = 0; row < rows; row++) {
    const step = storeHalf(bytes, row * 24, half(symmetric, row * 22));
    storeHalf(bytes, row * 24 + 2, -16 * step);
  }
  return bytes;
}

function superBlocks(type: "Q4_K" | "Q5_K", bytes: Uint8Array, rows: number): BlockLevels {
  const { blockBytes } = TENSOR_TYPES[type];
  const steps = new Float32Array(rows * 8);
  const shifts = new Float32Array(rows * 8);
  for (let row = 0; row < rows; row++) {
    const at = row * blockBytes;
    const [scale, minimum] = [half(bytes, at), half(bytes, at + 2)];
    for (let group = 0; group < 8; group++) {
      const packed = at + 4 + group;
      const [s, m] =
        group < 4
          ? [bytes[packed] & 63, bytes[packed + 4] & 63]
          : [
              (bytes[packed + 4] & 15) | ((bytes[packed - 4] >> 6) << 4),
              (bytes[packed + 4] >> 4) | ((bytes[packed] >> 6) << 4),
            ];
      steps[row * 8 + group] = scale * s;
      shifts[row * 8 + group] = minimum * m;
    }
  }
  const isFive = type === "Q5_K";
  const store = (row: number, levels: Int16Array): void => {
    const at = row * blockBytes;
    const nibbles = at + (isFive ? 48 : 16);
    for (let pair = 0; pair < 4; pair++) {
      for (let i = 0; i < 32; i++) {
        const low = levels[pair * 64 + i] & 15;
        bytes[nibbles + pair * 32 + i] = low | ((levels[pair * 64 + 32 + i] & 15) << 4);
      }
    }
    if (!isFive) return;
    for (let i = 0; i < 32; i++) {
      let bits = 0;
      for (let group = 0; group < 8; group++) bits |= (levels[group * 32 + i] >> 4) << group;
      bytes[at + 16 + i] = bits;
    }
  };
  const most = isFive ? 31 : 15;
  return { bytes, groupLength: 32, steps, shifts, least: 0, most, zeroLevel: (most + 1) / 2, store };
}

/** Share of the largest weight's own scale that is tried, in this many equal steps down. */
const TRIALS = 12;
const SMALLEST_SHARE = 0.65;

/**
 * Super-blocks whose minimum is half the range in every group, exactly: scale of minima = half · scale of scales, and
 * the same six bits for both. Then the middle level is zero to the bit, as in the symmetric types; the sign of the
 * scale says which end of the range is the longer.
 */
function symmetricSuperBlocks(type: "Q4_K" | "Q5_K", weights: Float32Array, importance: Float32Array): Uint8Array {
  const { blockBytes } = TENSOR_TYPES[type];
  const middle = type === "Q5_K" ? 16 : 8;
  const rows = weights.length / 256;
  const bytes = new Uint8Array(rows * blockBytes);
  const fitted = [new Float64Array(8), new Float64Array(8)];
  for (let row = 0; row < rows; row++) {
    const errors = [0, 0];
    for (let sign = 0; sign < 2; sign++) {
      for (let group = 0; group < 8; group++) {
        const from = row * 256 + group * 32;
        const { scale, error } = fitGroup(weights, from, importance, group * 32, middle, sign === 0 ? 1 : -1);
        fitted[sign][group] = scale;
        errors[sign] += error;
      }
    }
    const sign = errors[1] < errors[0] ? 1 : 0;
    const scales = fitted[sign];
    const largest = Math.max(...scales);
    const at = row * blockBytes;
    const step = storeHalf(bytes, at, ((sign === 0 ? 1 : -1) * largest) / 63);
    storeHalf(bytes, at + 2, middle * step);
    for (let group = 0; group < 8; group++) {
      const level = step === 0 ? 0 : Math.min(63, Math.max(1, Math.round(scales[group] / Math.abs(step))));
      const packed = at + 4 + group;
      if (group < 4) {
        bytes[packed] |= level;
        bytes[packed + 4] |= level;
      } else {
        bytes[packed + 4] = (level & 15) | ((level & 15) << 4);
        bytes[packed - 4] |= (level >> 4) << 6;
        bytes[packed] |= (level >> 4) << 6;
      }
    }
  }
  return bytes;
}

/** The scale of 32 weights on sign · (−middle … middle − 1) that loses least under the importance. */
function fitGroup(
  weights: Float32Array,
  from: number,
  importance: Float32Array,
  column: number,
  middle: number,
  sign: number,
): { scale: number; error: number } {
  let need = 0;
  for (let i = 0; i < 32; i++) {
    const weight = sign * weights[from + i];
    need = Math.max(need, weight < 0 ? -weight / middle : weight / (middle - 1));
  }
  if (need === 0) return { scale: 0, error: 0 };
  let best = { scale: need, error: Number.POSITIVE_INFINITY };
  for (let trial = 0; trial < TRIALS; trial++) {
    const scale = need * (1 - ((1 - SMALLEST_SHARE) * trial) / (TRIALS - 1));
    let error = 0;
    for (let i = 0; i < 32; i++) {
      const weight = sign * weights[from + i];
      const level = Math.min(middle - 1, Math.max(-middle, Math.round(weight / scale)));
      error += importance[column + i] * (weight - level * scale) ** 2;
    }
    if (error < best.error) best = { scale, error };
  }
  return best;
}

function sixBitBlocks(bytes: Uint8Array, rows: number): BlockLevels {
  const steps = new Float32Array(rows * 16);
  const shifts = new Float32Array(rows * 16);
  for (let row = 0; row < rows; row++) {
    const at = row * 210;
    const scale = half(bytes, at + 208);
    for (let group = 0; group < 16; group++) {
      steps[row * 16 + group] = scale * ((bytes[at + 192 + group] << 24) >> 24);
      shifts[row * 16 + group] = 32 * steps[row * 16 + group];
    }
  }
  const store = (row: number, levels: Int16Array): void => {
    for (let part = 0; part < 2; part++) {
      const low = row * 210 + part * 64;
      const high = row * 210 + 128 + part * 32;
      for (let i = 0; i < 32; i++) {
        const [a, b, c, d] = [0, 32, 64, 96].map((offset) => levels[part * 128 + offset + i]);
        bytes[low + i] = (a & 15) | ((c & 15) << 4);
        bytes[low + 32 + i] = (b & 15) | ((d & 15) << 4);
        bytes[high + i] = (a >> 4) | ((b >> 4) << 2) | ((c >> 4) << 4) | ((d >> 4) << 6);
      }
    }
  };
  return { bytes, groupLength: 16, steps, shifts, least: 0, most: 63, zeroLevel: 32, store };
}
