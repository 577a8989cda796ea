import { type FileLayer, nodeFiles } from "../../checkpoint/file-layer.js";
import { PhysariumError } from "../../errors.js";
import { bytesPerFloat, type FloatDtype } from "../../safetensors/dtypes.js";
import { decodeFloats, encodeFloats } from "../../safetensors/float-bits.js";
import type { Pool } from "../../threads/pool.js";
import { BandConverter, type DecodeTally } from "../band-converter.js";
import { BandFiles, type BandFilesSetup, type StoredBand } from "../band-files.js";
import { dequantise } from "../dequantise.js";
import { openWeightPool } from "../weight-pool.js";
import { type LinkValues, UNDONE } from "./links.js";
import type { TensorType } from "./types.js";

/** Rows of a GGUF tensor to decode and round to a dtype. */
export interface DecodeJob {
  /** The blocks: their bytes, or where the thread reads them. */
  readonly bytes: Uint8Array | StoredBand;
  readonly weights: number;
  readonly type: TensorType;
  readonly dtype: FloatDtype;
  readonly values: LinkValues;
  /** What errors name. */
  readonly tensor: string;
  /** Where the thread writes what becomes of them; it answers with their bytes where this is absent. */
  readonly output?: { readonly path: string; readonly byteOffset: number };
}

export interface DecodeResult extends DecodeTally {
  readonly bytes: Uint8Array | undefined;
}

/** Threads for the import of so many weights. */
export function openDecoding(
  weights: number,
  setup: BandFilesSetup,
  files: FileLayer = nodeFiles,
  workers?: number,
): Promise<Pool<DecodeJob, DecodeResult>> {
  const worker = new URL("./decode-worker.js", import.meta.url);
  return openWeightPool(worker, setup, () => new Decoding(setup, files), weights, files, workers);
}

/** What one thread does: reads rows, decodes them, writes what becomes of them. */
export class Decoding {
  private readonly files: BandFiles;
  private readonly converter = new BandConverter();

  constructor(setup: BandFilesSetup, files: FileLayer = nodeFiles) {
    this.files = new BandFiles(setup, files);
  }

  readonly handle = async (job: DecodeJob, slot: number): Promise<DecodeResult> => {
    const { weights, dtype, tensor, output } = job;
    const bytes = await this.files.read(slot, job.bytes);
    const byteLength = weights * bytesPerFloat(dtype);
    const out =
      output === undefined ? new Uint8Array(byteLength) : this.files.room(slot, byteLength, output.byteOffset);
    const tally = this.converter.decode({ ...job, bytes }, out, (weight) => refusal(weight, dtype, tensor));
    if (output === undefined) return { ...tally, bytes: out };
    await this.files.write(output.path, out, output.byteOffset);
    return { ...tally, bytes: undefined };
  };

  close(): Promise<void> {
    return this.files.close();
  }
}

/**
 * Decode, readably, and count what rounding to the dtype changed; `BandConverter.decode` gives the same. Throws
 * `DONOR_NON_FINITE`, `DONOR_IMPORT_RANGE`.
 */
export function decodeRows({
  bytes,
  type,
  dtype,
  values,
  tensor,
}: Omit<DecodeJob, "bytes" | "weights"> & { readonly bytes: Uint8Array }): DecodeTally & {
  readonly bytes: Uint8Array;
} {
  const decoded = dequantise(type, bytes);
  const weights = values === "same" ? decoded : decoded.map(UNDONE[values]);
  const out = encodeFloats(weights, dtype);
  const stored = decodeFloats(out, dtype);
  const limit = Number.POSITIVE_INFINITY;
  let zeros = 0;
  let rounded = 0;
  for (let i = 0; i < weights.length; i++) {
    const isHeld = Math.abs(weights[i]) < limit && Math.abs(stored[i]) < limit;
    if (!isHeld) throw refusal(weights[i], dtype, tensor);
    if (stored[i] === 0) zeros++;
    if (stored[i] !== weights[i]) rounded++;
  }
  return { bytes: out, zeros, rounded };
}

/** A weight that is no number, or that the dtype cannot hold. */
function refusal(weight: number, dtype: FloatDtype, tensor: string): PhysariumError {
  if (Number.isFinite(weight)) {
    return new PhysariumError(
      "DONOR_IMPORT_RANGE",
      `tensor "${tensor}": holds ${weight}, too large for ${dtype}; import with --dtype f32`,
      { tensor },
    );
  }
  return new PhysariumError(
    "DONOR_NON_FINITE",
    `tensor "${tensor}": holds ${weight}; the file is damaged or the model diverged`,
    { tensor },
  );
}
