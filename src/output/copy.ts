import {
  attempt,
  closeQuietly,
  type FileLayer,
  FileSource,
  type OpenFile,
  writeFully,
} from "../checkpoint/file-layer.js";
import { syncAndClose } from "./small-file.js";

/** Bytes copied at once. */
export const COPY_BYTES = 4 << 20;

/** Copy a range of one file into another; `onPiece` sees every piece on its way. */
export async function copyRange(
  source: FileSource,
  from: number,
  byteLength: number,
  file: OpenFile,
  to: number,
  path: string,
  onPiece: (bytes: Uint8Array) => void = () => {},
): Promise<void> {
  for (let done = 0; done < byteLength; done += COPY_BYTES) {
    const piece = await source.read(from + done, from + Math.min(byteLength, done + COPY_BYTES));
    onPiece(piece);
    await writeFully(file, piece, to + done, path);
  }
}

/** Copy an open file whole into a new file of a folder under construction, flushed. */
export async function copyWhole(
  source: FileSource,
  to: string,
  files: FileLayer,
  onPiece?: (bytes: Uint8Array) => void,
): Promise<void> {
  const target = await attempt("creating", to, () => files.open(to, "w"));
  try {
    await copyRange(source, 0, source.byteLength, target, 0, to, onPiece);
  } catch (error) {
    await closeQuietly(target);
    throw error;
  }
  await syncAndClose(target, to);
}

/** Copy a file whole into a folder under construction. Returns its length. */
export async function copyFile(
  from: string,
  to: string,
  files: FileLayer,
  onPiece?: (bytes: Uint8Array) => void,
): Promise<number> {
  const source = await FileSource.open(from, files);
  try {
    await copyWhole(source, to, files, onPiece);
    return source.byteLength;
  } finally {
    await source.close();
  }
}
