import type { FloatDtype } from "../safetensors/dtypes.js";

/** Jobs of the pool that codes and decodes bands (threads/pool.ts), done by `BandTasks`. */

/** What the threads of a pool begin with. */
export interface BandSetup {
  /** Files to read and write past the page cache. */
  readonly direct: readonly string[];
  /** Raw bytes that a job holds at most. */
  readonly jobBytes: number;
}

/** One raw band to code. `dtype` is absent for what is never coded. */
export interface RawBand {
  readonly byteLength: number;
  readonly dtype?: FloatDtype;
  /** Of its tensor: zeros up to a multiple of 8 follow it. */
  readonly isLast: boolean;
}

/**
 * Read raw bands that lie one behind the other, code them, write what they become. Where that goes is known when the
 * jobs before this one are coded: `places` carries it from one to the next (packed-places.ts).
 */
export interface EncodeTask {
  readonly kind: "encode";
  readonly path: string;
  readonly byteOffset: number;
  readonly byteLength: number;
  readonly bands: readonly RawBand[];
  readonly outputPath: string;
  readonly places: SharedArrayBuffer;
  /** Which job of its shard this is. */
  readonly index: number;
}

/** What became of each band of a job. */
export interface EncodedBands {
  /** Of what was written; the raw byte length where the band would not shrink. */
  readonly byteLengths: readonly number[];
  /** Of the raw bytes. */
  readonly checksums: readonly bigint[];
}

/** One packed band to decode. */
export interface CodedBand {
  readonly byteLength: number;
  /** Zero bytes that follow it. */
  readonly padding: number;
  readonly rawByteLength: number;
  readonly checksum: bigint;
  readonly dtype?: FloatDtype;
  /** Opens the messages: file, tensor, band. */
  readonly where: string;
}

/** Read packed bands that lie one behind the other, decode and check them, and write their raw bytes. */
export interface DecodeTask {
  readonly kind: "decode";
  readonly path: string;
  readonly byteOffset: number;
  readonly byteLength: number;
  readonly bands: readonly CodedBand[];
  readonly outputPath: string;
  readonly outputByteOffset: number;
  readonly rawByteLength: number;
}

/** Close the files of a finished shard. */
export interface CloseTask {
  readonly kind: "close";
}

export type BandTask = EncodeTask | DecodeTask | CloseTask;
