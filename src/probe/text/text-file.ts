import { createHash } from "node:crypto";
import { type FileLayer, FileSource, nodeFiles } from "../../checkpoint/file-layer.js";
import { isPhysariumError, PhysariumError, refuseStopped } from "../../errors.js";

/** A UTF-8 text file of any size, looked through once. */
export interface TextFile {
  /** As it was given. */
  readonly path: string;
  readonly byteLength: number;
  /** SHA-256 of the bytes, hexadecimal. */
  readonly sha256: string;
  /** Nothing but white space. */
  readonly isBlank: boolean;
  /** The text again from its start, in pieces of any length; a byte order mark is left out. */
  read(): AsyncIterable<string>;
}

/** Bytes of one read: large enough to be quick, small enough that Ctrl-C is heard between two. */
const PIECE_BYTES = 1 << 20;

/**
 * Look through a text file: its digest, and whether it is text. Throws `IO_*`, `USAGE_TEXT_FILE` for what is no file,
 * `USAGE_TEXT_ENCODING`, `STOPPED`.
 */
export async function openTextFile(
  path: string,
  { files = nodeFiles, signal }: { files?: FileLayer; signal?: AbortSignal | undefined } = {},
): Promise<TextFile> {
  const hash = createHash("sha256");
  let byteLength = 0;
  let isBlank = true;
  const onBytes = (bytes: Uint8Array): void => {
    refuseStopped(signal);
    hash.update(bytes);
    byteLength += bytes.length;
  };
  for await (const text of decodePieces(readPieces(path, files), path, onBytes)) isBlank &&= text.trim() === "";
  return {
    path,
    byteLength,
    sha256: hash.digest("hex"),
    isBlank,
    read: () => decodePieces(readPieces(path, files), path, () => refuseStopped(signal)),
  };
}

async function* readPieces(path: string, files: FileLayer): AsyncGenerator<Uint8Array> {
  let source: FileSource;
  try {
    source = await FileSource.open(path, files);
  } catch (error) {
    if (!isPhysariumError(error, "DONOR_NOT_A_FILE")) throw error;
    throw new PhysariumError("USAGE_TEXT_FILE", `${path}: expected a text file; give the path of one`, { path }, error);
  }
  try {
    for (let start = 0; start < source.byteLength; start += PIECE_BYTES) {
      yield await source.read(start, Math.min(start + PIECE_BYTES, source.byteLength));
    }
  } finally {
    await source.close();
  }
}

async function* decodePieces(
  pieces: AsyncIterable<Uint8Array>,
  name: string,
  onBytes: (bytes: Uint8Array) => void,
): AsyncGenerator<string> {
  const decoder = new Utf8Decoder(name);
  for await (const bytes of pieces) {
    onBytes(bytes);
    const text = decoder.push(bytes);
    if (text !== "") yield text;
  }
  decoder.end();
}

/** Decode a text in memory; throws `USAGE_TEXT_ENCODING` with the first byte that is no UTF-8. */
export function decodeText(bytes: Uint8Array, name: string): string {
  const decoder = new Utf8Decoder(name);
  const text = decoder.push(bytes);
  decoder.end();
  return text;
}

/** UTF-8 piece by piece that knows where it is. */
class Utf8Decoder {
  private readonly decoder = new TextDecoder("utf-8", { fatal: true });
  private byteOffset = 0;
  /** Bytes at the end of what came so far that begin a character. */
  private begun = new Uint8Array();

  constructor(private readonly name: string) {}

  push(bytes: Uint8Array): string {
    let text: string;
    try {
      text = this.decoder.decode(bytes, { stream: true });
    } catch (error) {
      const joined = Buffer.concat([this.begun, bytes]);
      throw this.invalid(this.byteOffset - this.begun.length + firstInvalidByte(joined), error);
    }
    this.byteOffset += bytes.length;
    this.begun = unfinishedEnd(Buffer.concat([this.begun, bytes.subarray(-3)]));
    return text;
  }

  end(): void {
    try {
      this.decoder.decode();
    } catch (error) {
      throw this.invalid(this.byteOffset - this.begun.length, error);
    }
  }

  private invalid(byteOffset: number, cause: unknown): PhysariumError {
    return new PhysariumError(
      "USAGE_TEXT_ENCODING",
      `${this.name}: the text is not UTF-8 (byte ${byteOffset}); convert it, for example with iconv`,
      { name: this.name, byteOffset },
      cause,
    );
  }
}

/** The bytes at the end of valid UTF-8 that begin a character and do not end it. */
function unfinishedEnd(bytes: Uint8Array): Uint8Array<ArrayBuffer> {
  for (let back = 1; back <= Math.min(3, bytes.length); back++) {
    const byte = bytes[bytes.length - back];
    if (byte < 0x80) break;
    if (byte < 0xc0) continue;
    const length = byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : 2;
    return length > back ? Uint8Array.from(bytes.subarray(-back)) : new Uint8Array();
  }
  return new Uint8Array();
}

/**
 * Where the character begins that is no UTF-8, by bisection: a prefix is valid when decoding it as a stream does not
 * throw.
 */
function firstInvalidByte(bytes: Uint8Array): number {
  const isValid = (length: number): boolean => {
    try {
      new TextDecoder("utf-8", { fatal: true }).decode(bytes.subarray(0, length), { stream: true });
      return true;
    } catch {
      return false;
    }
  };
  let valid = 0;
  let invalid = bytes.length + 1;
  while (invalid - valid > 1) {
    const middle = (valid + invalid) >>> 1;
    if (isValid(middle)) valid = middle;
    else invalid = middle;
  }
  return valid - unfinishedEnd(bytes.subarray(0, valid)).length;
}
