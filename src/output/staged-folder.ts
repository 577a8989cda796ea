import { basename, dirname, join, resolve } from "node:path";
import {
  attempt,
  closeQuietly,
  closeWritten,
  type FileLayer,
  ioError,
  nodeFiles,
  writeFully,
} from "../checkpoint/file-layer.js";
import { PhysariumError } from "../errors.js";
import { LEDGER_FILE, RECORD_FOLDER } from "../record/ledger.js";
import { LOCK_FILE } from "./lock.js";

/**
 * Where an output is built and what stands there already. Everything is built in the sibling `<output>.partial` and renamed when
 * whole, so the final name never holds half a model.
 */
export interface OutputFolder {
  readonly path: string;
  readonly partialPath: string;
  /** Where a replaced output waits until the new one has its name; nothing of the user's may stand there then. */
  readonly replacedPath: string;
  /** What the final name holds now. */
  readonly occupied: "nothing" | "empty" | "operated" | "foreign";
  readonly partial: "nothing" | "ours" | "foreign";
}

/**
 * Look at an output path and refuse what must never be written to: a place equal to, inside or around the donor by any
 * spelling, symlink or bind mount. Throws `USAGE_OUTPUT_*`.
 */
export async function inspectOutput(
  path: string,
  donorPath: string,
  files: FileLayer = nodeFiles,
): Promise<OutputFolder> {
  const output = await followLink(resolve(path), files);
  const partialPath = `${output}.partial`;
  const replacedPath = `${output}.replaced`;
  // All three names are written to or removed at some time.
  for (const place of [output, partialPath, replacedPath]) await refuseOverlap(place, donorPath, files);
  let occupied = await occupation(output, files);
  const partial = await partialState(partialPath, files);
  const replaced = await exists(replacedPath, files);
  const movedAside =
    replaced &&
    ((await exists(join(output, RECORD_FOLDER, REPLACES_FILE), files)) ||
      (await exists(join(partialPath, RECORD_FOLDER, REPLACES_FILE), files)));
  // Killed between two renames, a run leaves the old output under its waiting name: it is still what the final name holds.
  if (occupied === "nothing" && movedAside) occupied = "operated";
  if (occupied === "operated" && replaced && !movedAside) {
    throw new PhysariumError(
      "USAGE_OUTPUT_EXISTS",
      `${replacedPath}: an output that is replaced waits under this name, but something stands there already; move it away`,
      { path: replacedPath },
    );
  }
  return { path: output, partialPath, replacedPath, occupied, partial };
}

/** A folder cannot be renamed onto a symbolic link: the output is built beside what the link points to. */
async function followLink(output: string, files: FileLayer): Promise<string> {
  let isLink: boolean;
  try {
    isLink = (await files.lstat(output)).isSymbolicLink();
  } catch (error) {
    if (["ENOENT", "ENOTDIR"].includes((error as NodeJS.ErrnoException).code ?? "")) return output;
    throw ioError("examining", output, error);
  }
  if (!isLink) return output;
  try {
    return await files.realpath(output);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code !== "ENOENT" && code !== "ELOOP") throw ioError("examining", output, error);
    throw new PhysariumError(
      "USAGE_OUTPUT_EXISTS",
      `${output}: a symbolic link of that name ${code === "ELOOP" ? "leads in a circle" : "points to nothing"}; remove it or choose another name`,
      { path: output },
      error,
    );
  }
}

/**
 * Folders are compared by device and inode along both chains of parents: that sees through symlinks, spellings and bind mounts. A donor
 * mounted inside the output is on no chain; an output has few sub-folders, so those are looked at one by one.
 */
async function refuseOverlap(output: string, donorPath: string, files: FileLayer): Promise<void> {
  const { donor, place } = await refuseInside(output, donorPath, files);
  const around =
    place.exists &&
    (donor.chain.includes(place.chain[0]) || (await subFolders(output, files)).some((id) => donor.chain.includes(id)));
  if (around) throw overlap(output, "around", donorPath);
}

/** Throws `USAGE_OUTPUT_OVERLAP` where `output` is the donor's folder or within it; returns where both lie. */
export async function refuseInside(
  output: string,
  donorPath: string,
  files: FileLayer = nodeFiles,
): Promise<{ donor: Place; place: Place }> {
  const donor = await identify(donorPath, files);
  const place = await identify(output, files);
  if (place.chain.includes(donor.chain[0])) throw overlap(output, "equal to or inside", donorPath);
  return { donor, place };
}

function overlap(output: string, where: string, donorPath: string): PhysariumError {
  return new PhysariumError(
    "USAGE_OUTPUT_OVERLAP",
    `${output}: the output is ${where} the donor (${donorPath}); the donor is never written to, choose another folder`,
    { output, donor: donorPath },
  );
}

/** Device and inode of a folder (or of its nearest parent that exists) and of all its parents. */
interface Place {
  readonly exists: boolean;
  readonly chain: readonly string[];
}

/** Device and inode of the folders directly in a folder. */
async function subFolders(path: string, files: FileLayer): Promise<string[]> {
  const ids: string[] = [];
  for (const name of (await listOrNothing(path, files)) ?? []) {
    const file = join(path, name);
    const { dev, ino, isFolder } = await attempt("examining", file, async () => {
      const stat = await files.lstat(file, { bigint: true });
      return { dev: stat.dev, ino: stat.ino, isFolder: stat.isDirectory() };
    });
    if (isFolder) ids.push(`${dev}:${ino}`);
  }
  return ids;
}

async function identify(path: string, files: FileLayer): Promise<Place> {
  let real = resolve(path);
  let found = true;
  for (;;) {
    try {
      real = await files.realpath(real);
      break;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "ENOENT" || dirname(real) === real)
        throw ioError("examining", real, error);
      found = false;
      real = dirname(real);
    }
  }
  const chain: string[] = [];
  for (; ; real = dirname(real)) {
    const { dev, ino } = await attempt("examining", real, () => files.stat(real, { bigint: true }));
    chain.push(`${dev}:${ino}`);
    if (dirname(real) === real) return { exists: found, chain };
  }
}

async function occupation(path: string, files: FileLayer): Promise<OutputFolder["occupied"]> {
  const entries = await listOrNothing(path, files);
  if (entries === undefined) return "nothing";
  if (entries.length === 0) return "empty";
  return (await exists(join(path, RECORD_FOLDER, LEDGER_FILE), files)) ? "operated" : "foreign";
}

async function partialState(path: string, files: FileLayer): Promise<OutputFolder["partial"]> {
  const entries = await listOrNothing(path, files);
  if (entries === undefined) return "nothing";
  // Killed before its first record, a run leaves an empty folder or one that holds our record folder alone.
  if (entries.length === 0 || (entries.length === 1 && entries[0] === RECORD_FOLDER)) return "ours";
  return (await exists(join(path, RECORD_FOLDER, LEDGER_FILE), files)) ? "ours" : "foreign";
}

async function listOrNothing(path: string, files: FileLayer): Promise<string[] | undefined> {
  try {
    return await files.readdir(path);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "ENOENT") return undefined;
    if (code === "ENOTDIR") {
      throw new PhysariumError(
        "USAGE_OUTPUT_EXISTS",
        `${path}: there is a file of that name, expected a folder to be made; choose another name`,
        { path },
        error,
      );
    }
    throw ioError("listing", path, error);
  }
}

export async function exists(path: string, files: FileLayer = nodeFiles): Promise<boolean> {
  try {
    await files.lstat(path);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT" || (error as NodeJS.ErrnoException).code === "ENOTDIR")
      return false;
    throw ioError("examining", path, error);
  }
}

/** Bytes a user may still write near `path`. */
export async function freeBytes(path: string, files: FileLayer = nodeFiles): Promise<number> {
  let current = resolve(path);
  while (!(await exists(current, files))) current = dirname(current);
  const { bavail, bsize } = await attempt("examining the disk of", current, () => files.statfs(current));
  return bavail * bsize;
}

/** Flush a folder's entries, so that a rename in it survives a power cut. */
export async function syncFolder(path: string, files: FileLayer = nodeFiles): Promise<void> {
  const folder = await attempt("opening", path, () => files.open(path, "r"));
  try {
    await folder.sync();
  } catch (error) {
    // Some file systems cannot flush folders; everything else about the write has been flushed by then.
    if (!["EINVAL", "EPERM", "ENOTSUP"].includes((error as NodeJS.ErrnoException).code ?? ""))
      throw ioError("flushing", path, error);
  } finally {
    await closeQuietly(folder);
  }
}

/** Ends the names of files that are being written; nothing of the kind stands in a finished output. */
const TEMPORARY = ".tmp";

/** Write a small file whole: to a temporary sibling, flushed, then renamed. */
export async function writeSmallFile(
  path: string,
  content: Uint8Array | string,
  files: FileLayer = nodeFiles,
): Promise<void> {
  const bytes = typeof content === "string" ? new TextEncoder().encode(content) : content;
  const temporary = join(dirname(path), `.${basename(path)}.${process.pid}${TEMPORARY}`);
  const file = await attempt("creating", temporary, () => files.open(temporary, "w"));
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

/** Remove what killed runs left half-written in a record folder. */
export async function removeTemporaries(recordFolder: string, files: FileLayer = nodeFiles): Promise<void> {
  for (const name of await attempt("listing", recordFolder, () => files.readdir(recordFolder))) {
    if (!name.endsWith(TEMPORARY) && !name.startsWith(`${LOCK_FILE}.stale-`)) continue;
    const path = join(recordFolder, name);
    await attempt("removing", path, () => files.rm(path, { force: true }));
  }
}

/**
 * Rename the finished folder to its final name. An operated output that is replaced steps aside first and goes last; a marker in
 * the finished folder says so, so that a run killed in between can tell our old output from somebody's folder of that name.
 */
export async function publish(output: OutputFolder, files: FileLayer = nodeFiles): Promise<void> {
  const { path, partialPath, replacedPath } = output;
  const replaces = (await occupation(path, files)) === "operated";
  if (replaces && output.occupied !== "operated") throw takenMeanwhile(path);
  if (replaces) {
    await writeSmallFile(join(partialPath, RECORD_FOLDER, REPLACES_FILE), `${replacedPath}\n`, files);
    await syncFolder(join(partialPath, RECORD_FOLDER), files);
    await attempt("renaming", path, () => files.rename(path, replacedPath));
  }
  try {
    await files.rename(partialPath, path);
  } catch (error) {
    if (replaces) await files.rename(replacedPath, path).catch(() => {});
    throw ioError("renaming", partialPath, error);
  }
  await syncFolder(dirname(path), files);
  await removeReplaced(output, files);
}

export function takenMeanwhile(path: string): PhysariumError {
  return new PhysariumError(
    "USAGE_OUTPUT_EXISTS",
    `${path}: another run finished there meanwhile; see what it is, then replace it with --overwrite or choose another folder`,
    { path },
  );
}

/** After publishing: the output that stepped aside goes, if there is one. */
export async function removeReplaced(
  { path, replacedPath }: OutputFolder,
  files: FileLayer = nodeFiles,
): Promise<void> {
  const marker = join(path, RECORD_FOLDER, REPLACES_FILE);
  if (!(await exists(marker, files))) return;
  await attempt("removing", replacedPath, () => files.rm(replacedPath, { recursive: true, force: true }));
  await attempt("removing", marker, () => files.rm(marker, { force: true }));
}

/** Before publishing, in a folder this run has locked: an output that a killed run moved aside gets its name back. */
export async function restoreReplaced(output: OutputFolder, files: FileLayer = nodeFiles): Promise<void> {
  const { path, partialPath, replacedPath } = output;
  const marker = join(partialPath, RECORD_FOLDER, REPLACES_FILE);
  if (!(await exists(marker, files))) return;
  if (!(await exists(path, files)) && (await exists(replacedPath, files))) {
    await attempt("renaming", replacedPath, () => files.rename(replacedPath, path));
  }
  await attempt("removing", marker, () => files.rm(marker, { force: true }));
}

/** Stands in the record folder of a new output while the one it replaces waits under another name. */
const REPLACES_FILE = "replaces";
