import { availableParallelism } from "node:os";
import type { FloatDtype } from "../../safetensors/dtypes.js";
import { decodeFloats, encodeFloats } from "../../safetensors/float-bits.js";
import { inlinePool, type Pool, threadPool } from "../../threads/pool.js";
import { Quantiser } from "../quantiser.js";
import { type ConversionTally, convertBand, type ExportType, newTally } from "../weight-band.js";
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

/** Jobs that a thread has at once: one in hand, one waiting. */
const SLOTS = 2;
/** Below so many weights threads take longer to start than to work. */
const THREADS_FROM = 1 << 21;

/** Threads for a conversion of so many weights; the result does not depend on their number. */
export function openConversion(weights: number, workers = availableParallelism()): Promise<ConversionPool> {
  if (workers <= 1 || weights < THREADS_FROM) {
    const convert = converter();
    return Promise.resolve(
      inlinePool(
        async (job) => convert(job),
        1,
        async () => {},
      ),
    );
  }
  return threadPool(new URL("./convert-worker.js", import.meta.url), undefined, workers, SLOTS);
}

/** What one thread does: it keeps a quantiser. */
export function converter(): (job: ConversionJob) => ConversionResult {
  const quantiser = new Quantiser();
  return ({ bytes, dtype, type, values, importance, tensor, firstElement }) => {
    const tally = newTally();
    if (values === "plus one") {
      const sums = decodeFloats(bytes, dtype).map((weight) => weight + 1);
      tally.weights = sums.length;
      return { bytes: encodeFloats(sums, "F32"), tally };
    }
    const converted = convertBand({ bytes, dtype, type, importance, tensor, firstElement }, quantiser, tally);
    return { bytes: converted, tally };
  };
}
