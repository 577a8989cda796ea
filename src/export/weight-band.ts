import { PhysariumError } from "../errors.js";
import { bytesPerFloat, type FloatDtype } from "../safetensors/dtypes.js";
import { decodeFloats, encodeFloats } from "../safetensors/float-bits.js";
import { dequantise } from "./dequantise.js";
import type { TensorType } from "./gguf/types.js";
import type { QuantisedType, Quantiser } from "./quantiser.js";

/** Weights handled at once: 4 MiB as F32. A multiple of every block length. */
export const BAND_WEIGHTS = 1 << 20;

/** The types an export can write. */
export type ExportType = FloatDtype | QuantisedType;

/** What a conversion did to a tensor's weights; sums run over the bands in order, in f64. */
export interface ConversionTally {
  weights: number;
  /** Weights equal to ±0 in the donor. */
  zerosBefore: number;
  /** Weights that decode to ±0 from what was written. */
  zerosAfter: number;
  /** Of the donor's zeros, those that do not decode to zero any more. */
  zerosLost: number;
  /** Σ (weight − decoded weight)². */
  squaredError: number;
  /** Σ weight². */
  squaredNorm: number;
}

export function newTally(): ConversionTally {
  return { weights: 0, zerosBefore: 0, zerosAfter: 0, zerosLost: 0, squaredError: 0, squaredNorm: 0 };
}

/** Weights to convert: whole blocks of `type`, and whole rows where columns have an importance. */
export interface WeightBand {
  /** `dtype` little-endian, aligned. */
  readonly bytes: Uint8Array;
  readonly dtype: FloatDtype;
  readonly type: ExportType;
  readonly importance?: Float32Array | undefined;
  /** What errors name: the tensor and the number of the band's first element. */
  readonly tensor: string;
  readonly firstElement: number;
}

/** The sums of two tallies. */
export function addTally(to: ConversionTally, from: Readonly<ConversionTally>): void {
  for (const key of Object.keys(to) as (keyof ConversionTally)[]) to[key] += from[key];
}

/**
 * Convert one band of a tensor, readably, and add what that did to `tally`. `BandConverter` gives the same bytes and
 * sums with kernels; this is the spec.
 *
 * returns  the band as `type`
 * throws   DONOR_NON_FINITE, DONOR_EXPORT_RANGE {tensor, index}: only where numbers change; equal or wider floats carry
 *          everything
 */
export function convertBand(
  { bytes, dtype, type, importance, tensor, firstElement: first }: WeightBand,
  quantiser: Quantiser,
  tally: ConversionTally,
): Uint8Array {
  if (type === dtype || (type === "F32" && dtype !== "F32")) {
    const zeros = countZeros(bytes, dtype);
    tally.weights += bytes.byteLength / bytesPerFloat(dtype);
    tally.zerosBefore += zeros;
    tally.zerosAfter += zeros;
    return type === dtype ? bytes : encodeFloats(decodeFloats(bytes, dtype), "F32");
  }
  const weights = decodeFloats(bytes, dtype);
  refuseNonFinite(weights, first, { tensor, type, dtype });
  const isFloat = type === "F16" || type === "BF16";
  const converted = isFloat
    ? encodeFloats(weights, type)
    : quantiser.quantise(type as QuantisedType, weights, importance);
  measure(weights, dequantise(type as TensorType, converted), tally, { tensor, type, first });
  return converted;
}

/** Throws `DONOR_NON_FINITE` at the first weight that is no number; `first` is the number of the band's first. */
export function refuseNonFinite(
  weights: Float32Array,
  first: number,
  { tensor, type, dtype }: { tensor: string; type: string; dtype: string },
): void {
  for (let i = 0; i < weights.length; i++) {
    if (Number.isFinite(weights[i])) continue;
    throw new PhysariumError(
      "DONOR_NON_FINITE",
      `tensor "${tensor}": element ${first + i} is ${weights[i]}; ${type} cannot be made of it, export as ` +
        `${dtype.toLowerCase()} or mend the donor`,
      { tensor, index: first + i },
    );
  }
}

/** Add to `tally` what became of weights, from what the written bytes decode to. Throws `DONOR_EXPORT_RANGE`. */
export function measure(
  weights: Float32Array,
  decoded: Float32Array,
  tally: ConversionTally,
  { tensor, type, first }: { tensor: string; type: ExportType; first: number },
): void {
  let { zerosBefore, zerosAfter, zerosLost, squaredError, squaredNorm } = tally;
  for (let i = 0; i < weights.length; i++) {
    const before = weights[i];
    const after = decoded[i];
    const error = before - after;
    if (!(Math.abs(after) < Number.POSITIVE_INFINITY)) throw rangeError(before, first + i, { tensor, type });
    squaredError += error * error;
    squaredNorm += before * before;
    if (after === 0) zerosAfter++;
    if (before === 0) {
      zerosBefore++;
      if (after !== 0) zerosLost++;
    }
  }
  tally.weights += weights.length;
  Object.assign(tally, { zerosBefore, zerosAfter, zerosLost, squaredError, squaredNorm });
}

/** Elements equal to ±0, by their bits. */
export function countZeros(bytes: Uint8Array, dtype: FloatDtype): number {
  let zeros = 0;
  if (dtype === "F32") {
    const bits = new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
    for (let i = 0; i < bits.length; i++) if ((bits[i] & 0x7fffffff) === 0) zeros++;
  } else {
    const bits = new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 2);
    for (let i = 0; i < bits.length; i++) if ((bits[i] & 0x7fff) === 0) zeros++;
  }
  return zeros;
}

/** A weight that a type cannot hold; `index` is its number in the tensor. */
export function rangeError(
  value: number,
  index: number,
  { tensor, type }: { tensor: string; type: ExportType },
): PhysariumError {
  return new PhysariumError(
    "DONOR_EXPORT_RANGE",
    `tensor "${tensor}": element ${index} is ${value}, too large for ${type} (its scales and values reach ` +
      "65504); export as bf16 or f32",
    { tensor, index, value },
  );
}
