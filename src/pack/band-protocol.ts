import type { FloatDtype } from "../safetensors/dtypes.js";

/** Jobs of the pool that codes and decodes bands (threads/pool.ts), done by `BandTasks`. */

/** Read a raw band and code it. `dtype` is absent for what is never coded. */
export interface EncodeTask {
  readonly kind: "encode";
  readonly path: string;
  readonly byteOffset: number;
  readonly byteLength: number;
  readonly dtype?: FloatDtype;
}

export interface EncodedBand {
  /** The coded band, or the raw bytes where it would not shrink. */
  readonly bytes: Uint8Array;
  /** Of the raw bytes. */
  readonly checksum: bigint;
}

/** Read a packed band, decode and check it, and write its raw bytes. */
export interface DecodeTask {
  readonly kind: "decode";
  readonly path: string;
  readonly byteOffset: number;
  readonly byteLength: number;
  /** Zero bytes that follow the band. */
  readonly padding: number;
  readonly rawByteLength: number;
  readonly checksum: bigint;
  readonly dtype?: FloatDtype;
  readonly outputPath: string;
  readonly outputByteOffset: number;
  /** Opens the messages: file, tensor, band. */
  readonly where: string;
}

/** Close the files of a finished shard. */
export interface CloseTask {
  readonly kind: "close";
}

export type BandTask = EncodeTask | DecodeTask | CloseTask;
