import { type FileLayer, nodeFiles, readSmallFile } from "../../checkpoint/file-layer.js";
import { isPhysariumError, PhysariumError } from "../../errors.js";

export interface TextFile {
  /** As it was given. */
  readonly path: string;
  readonly bytes: Uint8Array;
  readonly text: string;
}

/** Texts longer than this are refused: they would be tokens of weeks. */
const MAX_TEXT_BYTES = 1 << 30;

/** A UTF-8 text file, whole. Throws `IO_*`, `USAGE_TEXT_FILE` for what is no file or too long, `USAGE_TEXT_ENCODING`. */
export async function readTextFile(path: string, files: FileLayer = nodeFiles): Promise<TextFile> {
  let bytes: Uint8Array;
  try {
    bytes = await readSmallFile(path, files, MAX_TEXT_BYTES);
  } catch (error) {
    if (!isPhysariumError(error, "DONOR_NOT_A_FILE") && !isPhysariumError(error, "DONOR_FILE_TOO_LARGE")) throw error;
    throw new PhysariumError(
      "USAGE_TEXT_FILE",
      `${path}: expected a text file of at most ${MAX_TEXT_BYTES} bytes; give the path of one`,
      { path },
      error,
    );
  }
  return { path, bytes, text: decodeText(bytes, path) };
}

/** Decode a text file; throws `USAGE_TEXT_ENCODING` with the first byte that is no UTF-8. */
export function decodeText(bytes: Uint8Array, name: string): string {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch (error) {
    const at = firstInvalidByte(bytes);
    throw new PhysariumError(
      "USAGE_TEXT_ENCODING",
      `${name}: the text is not UTF-8 (byte ${at}); convert it, for example with iconv`,
      { name, byteOffset: at },
      error,
    );
  }
}

/** The longest valid prefix, by bisection: a prefix is valid when decoding it as a stream does not throw. */
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
  return valid;
}
