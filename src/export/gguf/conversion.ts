import { type FileLayer, nodeFiles } from "../../checkpoint/file-layer.js";
import { bytesPerFloat, type FloatDtype } from "../../safetensors/dtypes.js";
import { decodeFloats, encodeFloats } from "../../safetensors/float-bits.js";
import type { Pool } from "../../threads/pool.js";
import { BandConverter } from "../band-converter.js";
import { BandFiles, type BandFilesSetup, type StoredBand } from "../band-files.js";
import { type ConversionTally, type ExportType, newTally } from "../weight-band.js";
import { openWeightPool } from "../weight-pool.js";
import { CHANGED, type LinkValues } from "./links.js";
import { tensorBytes } from "./types.js";

/** One band of a tensor to convert: whole rows, in the order of the file. */
export interface ConversionJob {
  /** The weights: their bytes, or where the thread reads them. */
  readonly bytes: Uint8Array | StoredBand;
  readonly dtype: FloatDtype;
  readonly type: ExportType;
  readonly values: LinkValues;
  /** Importance of each column of a row. */
  readonly importance?: Float32Array | undefined;
  /** What errors name: the checkpoint's tensor and the number of the band's first element. */
  readonly tensor: string;
  readonly firstElement: number;
  /** Where the thread writes what becomes of them. */
  readonly outputPath: string;
  readonly outputByteOffset: number;
}

export type ConversionPool = Pool<ConversionJob, ConversionTally>;

/** Threads for a conversion of so many weights. */
export function openConversion(
  weights: number,
  setup: BandFilesSetup,
  files: FileLayer = nodeFiles,
  workers?: number,
): Promise<ConversionPool> {
  const worker = new URL("./convert-worker.js", import.meta.url);
  return openWeightPool(worker, setup, () => new Conversion(setup, files), weights, files, workers);
}

/** What one thread does: reads a band, converts it, writes what becomes of it. */
export class Conversion {
  private readonly files: BandFiles;
  private readonly converter = new BandConverter();

  constructor(setup: BandFilesSetup, files: FileLayer = nodeFiles) {
    this.files = new BandFiles(setup, files);
  }

  readonly handle = async (job: ConversionJob, slot: number): Promise<ConversionTally> => {
    const { dtype, outputPath, outputByteOffset, values } = job;
    const type = values === "same" ? job.type : "F32";
    const bytes = await this.files.read(slot, job.bytes);
    const weights = bytes.byteLength / bytesPerFloat(dtype);
    const out = this.files.room(slot, tensorBytes(type, weights), outputByteOffset);
    const tally = newTally();
    if (values !== "same") {
      out.set(encodeFloats(decodeFloats(bytes, dtype, "copy").map(CHANGED[values]), "F32"));
      tally.weights = weights;
    } else this.converter.convert({ ...job, bytes }, out, tally);
    await this.files.write(outputPath, out, outputByteOffset);
    return tally;
  };

  close(): Promise<void> {
    return this.files.close();
  }
}
