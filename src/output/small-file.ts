import { basename, dirname, join } from "node:path";
import {
  attempt,
  closeQuietly,
  closeWritten,
  type FileLayer,
  ioError,
  nodeFiles,
  writeFully,
} from "../checkpoint/file-layer.js";

/** Ends the names of files that are being written; nothing of the kind stands in a finished output. */
const TEMPORARY = ".tmp";

/**
 * Write a small file whole: to a temporary sibling, flushed, then renamed. For folders that this run has locked or
 * made: what an earlier run left under the temporary name goes.
 */
export async function writeSmallFile(
  path: string,
  content: Uint8Array | string,
  files: FileLayer = nodeFiles,
): Promise<void> {
  const bytes = typeof content === "string" ? new TextEncoder().encode(content) : content;
  const temporary = join(dirname(path), `.${basename(path)}.${process.pid}${TEMPORARY}`);
  // Pids repeat, and a link laid there must not be followed.
  await attempt("removing", temporary, () => files.rm(temporary, { force: true }));
  const file = await attempt("creating", temporary, () => files.open(temporary, "wx"));
  try {
    try {
      await writeFully(file, bytes, 0, temporary);
      await attempt("flushing", temporary, () => file.sync());
    } catch (error) {
      await closeQuietly(file);
      throw error;
    }
    await closeWritten(file, temporary);
    await attempt("renaming", temporary, () => files.rename(temporary, path));
  } catch (error) {
    await files.rm(temporary, { force: true }).catch(() => {});
    throw error;
  }
}

/**
 * Remove what killed runs left half-written in a folder that this run has locked; with `of`, only what was to become
 * that file.
 */
export async function removeTemporaries(folder: string, files: FileLayer = nodeFiles, of = ""): Promise<void> {
  const prefix = of === "" ? "" : `.${of}.`;
  for (const name of await attempt("listing", folder, () => files.readdir(folder))) {
    if (!name.startsWith(prefix) || !name.endsWith(TEMPORARY)) continue;
    const path = join(folder, name);
    await attempt("removing", path, () => files.rm(path, { force: true }));
  }
}

/** Flush a folder's entries, so that a rename in it survives a power cut. */
export async function syncFolder(path: string, files: FileLayer = nodeFiles): Promise<void> {
  const folder = await attempt("opening", path, () => files.open(path, "r"));
  try {
    await folder.sync();
  } catch (error) {
    // Windows and some file systems cannot flush folders; everything else about the write has been flushed by then.
    if (!["EISDIR", "EINVAL", "EPERM", "ENOTSUP"].includes((error as NodeJS.ErrnoException).code ?? ""))
      throw ioError("flushing", path, error);
  } finally {
    await closeQuietly(folder);
  }
}

/** Put a finished file's bytes on the disk. */
export async function syncAndClose(
  file: { datasync(): Promise<void>; close(): Promise<void> },
  path: string,
): Promise<void> {
  try {
    await attempt("flushing", path, () => file.datasync());
  } catch (error) {
    await closeQuietly(file);
    throw error;
  }
  await attempt("closing", path, () => file.close());
}
