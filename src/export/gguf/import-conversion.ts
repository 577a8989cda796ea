import { PhysariumError } from "../../errors.js";
import type { FloatDtype } from "../../safetensors/dtypes.js";
import { decodeFloats, encodeFloats } from "../../safetensors/float-bits.js";
import type { Pool } from "../../threads/pool.js";
import { dequantise } from "../dequantise.js";
import { openWeightPool } from "../weight-pool.js";
import type { LinkValues } from "./links.js";
import type { TensorType } from "./types.js";

/** Rows of a GGUF tensor to decode and round to a dtype. */
export interface DecodeJob {
  readonly bytes: Uint8Array;
  readonly type: TensorType;
  readonly dtype: FloatDtype;
  readonly values: LinkValues;
  /** What errors name. */
  readonly tensor: string;
}

export interface DecodeResult {
  readonly bytes: Uint8Array;
  readonly zeros: number;
  /** Weights that the dtype could not hold exactly. */
  readonly rounded: number;
}

/** Threads for the import of so many weights. */
export function openDecoding(weights: number, workers?: number): Promise<Pool<DecodeJob, DecodeResult>> {
  return openWeightPool(new URL("./decode-worker.js", import.meta.url), () => decodeRows, weights, workers);
}

/** How a change of the numbers is taken back. */
const UNDONE: Readonly<Record<Exclude<LinkValues, "same">, (weight: number) => number>> = {
  "plus one": (weight) => weight - 1,
  "minus exp": (weight) => Math.log(-weight),
};

/** Decode, and count what rounding to the dtype changed. Throws `DONOR_NON_FINITE`, `DONOR_IMPORT_RANGE`. */
export function decodeRows({ bytes, type, dtype, values, tensor }: DecodeJob): DecodeResult {
  const decoded = dequantise(type, bytes);
  const weights = values === "same" ? decoded : decoded.map(UNDONE[values]);
  const out = encodeFloats(weights, dtype);
  const stored = decodeFloats(out, dtype);
  const limit = Number.POSITIVE_INFINITY;
  let zeros = 0;
  let rounded = 0;
  for (let i = 0; i < weights.length; i++) {
    if (!(Math.abs(weights[i]) < limit)) {
      throw new PhysariumError(
        "DONOR_NON_FINITE",
        `tensor "${tensor}": holds ${weights[i]}; the file is damaged or the model diverged`,
        { tensor },
      );
    }
    if (!(Math.abs(stored[i]) < limit)) {
      throw new PhysariumError(
        "DONOR_IMPORT_RANGE",
        `tensor "${tensor}": holds ${weights[i]}, too large for ${dtype}; import with --dtype f32`,
        { tensor },
      );
    }
    if (stored[i] === 0) zeros++;
    if (stored[i] !== weights[i]) rounded++;
  }
  return { bytes: out, zeros, rounded };
}
