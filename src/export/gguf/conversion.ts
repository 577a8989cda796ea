import type { FloatDtype } from "../../safetensors/dtypes.js";
import { decodeFloats, encodeFloats } from "../../safetensors/float-bits.js";
import type { Pool } from "../../threads/pool.js";
import { Quantiser } from "../quantiser.js";
import { type ConversionTally, convertBand, type ExportType, newTally } from "../weight-band.js";
import { openWeightPool } from "../weight-pool.js";
import type { LinkValues } from "./links.js";

/** One band of a tensor to convert: whole rows, in the order of the file. */
export interface ConversionJob {
  readonly bytes: Uint8Array;
  readonly dtype: FloatDtype;
  readonly type: ExportType;
  readonly values: LinkValues;
  /** Importance of each column of a row. */
  readonly importance?: Float32Array | undefined;
  /** What errors name: the checkpoint's tensor and the number of the band's first element. */
  readonly tensor: string;
  readonly firstElement: number;
}

export interface ConversionResult {
  readonly bytes: Uint8Array;
  readonly tally: ConversionTally;
}

export type ConversionPool = Pool<ConversionJob, ConversionResult>;

/** Threads for a conversion of so many weights. */
export function openConversion(weights: number, workers?: number): Promise<ConversionPool> {
  return openWeightPool(new URL("./convert-worker.js", import.meta.url), converter, weights, workers);
}

/** What one thread does: it keeps a quantiser. */
export function converter(): (job: ConversionJob) => ConversionResult {
  const quantiser = new Quantiser();
  return ({ bytes, dtype, type, values, importance, tensor, firstElement }) => {
    const tally = newTally();
    if (values !== "same") {
      const change = values === "plus one" ? (weight: number) => weight + 1 : (weight: number) => -Math.exp(weight);
      const changed = decodeFloats(bytes, dtype).map(change);
      tally.weights = changed.length;
      return { bytes: encodeFloats(changed, "F32"), tally };
    }
    const converted = convertBand({ bytes, dtype, type, importance, tensor, firstElement }, quantiser, tally);
    return { bytes: converted, tally };
  };
}
