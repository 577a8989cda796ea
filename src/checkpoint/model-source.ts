import { join } from "node:path";
import type { ByteSource } from "../safetensors/source.js";
import { readBounded } from "./file-layer.js";

/** What stands directly in a model: a file, or a folder that is not looked into. */
export interface SourceEntry {
  readonly name: string;
  readonly kind: "file" | "folder";
  readonly byteLength: number;
  /**
   * Modification time in nanoseconds, 0n where the source knows none: a hint that a look is needed, never an identity.
   */
  readonly modifiedNs: bigint;
}

/** An open file of a model. `read` and `readInto` give exactly the bytes asked for, or throw `IO_*`. */
export interface SourceFile extends ByteSource {
  readonly modifiedNs: bigint;
  /**
   * Read into memory the caller owns, a wasm band for one.
   *
   * signal    ends a read that may take long, one over the wire; a file's read ends by itself
   * onFilled  told how many bytes of `buffer` are in, for whoever works on them as they come; a file is silent
   */
  readInto(
    buffer: Uint8Array,
    byteOffset: number,
    signal?: AbortSignal,
    onFilled?: (byteLength: number) => void,
  ): Promise<void>;
  close(): Promise<void>;
}

/** What a file is by its content, as far as that is known without reading it. */
export interface FileIdentity {
  readonly byteLength: number;
  readonly modifiedNs: bigint;
  /** What the source vouches for: a commit, an etag, a hash. Equal texts mean equal bytes. Absent in a plain folder. */
  readonly content?: string;
}

/** Plain data from which another thread opens the same source again (`src/sources.ts`). */
export interface SourceRef {
  readonly kind: "folder" | "packed" | "hub";
  /** A path, or an address with its commit. */
  readonly path: string;
}

/**
 * Where a model's bytes come from: a folder, a packed folder, the Hub. Only read. Files are named from the model's
 * root, with `/` between the parts (`physarium/ledger.jsonl`); a name never leads out of it.
 */
export interface ModelSource {
  /** Where it is, for messages and records: a path here, an address elsewhere. */
  readonly place: string;
  /** What people call the model. */
  readonly name: string;
  /**
   * The folder whose files are exactly these, byte for byte: the engine maps them, workers open them. Absent where
   * there is none.
   */
  readonly localPath: string | undefined;
  readonly ref: SourceRef;
  /** 40 hexadecimal digits where the source knows what commit of a repository this is. */
  readonly commit?: string | undefined;
  /** What stands in the model, or in a folder of it, by name. Throws `DONOR_*` where there is none, `IO_*`. */
  list(folder?: string): Promise<readonly SourceEntry[]>;
  /** Throws `IO_NOT_FOUND` for what is not there. */
  open(file: string): Promise<SourceFile>;
  identity(file: string): Promise<FileIdentity>;
  /** Let go of what is open; the source itself stays usable. */
  close(): Promise<void>;
}

/** A file's place in words, for a message. */
export function placeOf({ place, localPath }: ModelSource, file: string): string {
  // An address would lose a slash to `join`.
  return localPath === undefined ? `${place}/${file}` : join(place, file);
}

/** Read a small file whole; `maxByteLength` guards against a hostile one. Throws `DONOR_FILE_TOO_LARGE`, `IO_*`. */
export async function readWhole(source: ModelSource, file: string, maxByteLength = 100_000_000): Promise<Uint8Array> {
  return readBounded(await source.open(file), placeOf(source, file), maxByteLength);
}
