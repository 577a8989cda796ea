import { hostname } from "node:os";
import { basename, dirname, join, resolve } from "node:path";
import { attempt, type FileLayer, ioError, nodeFiles, readSmallFile, writeFully } from "../checkpoint/file-layer.js";
import { PhysariumError } from "../errors.js";
import { LEDGER_FILE, RECORD_FOLDER } from "./ledger.js";

/**
 * Where an output is built and what stands there already. Everything is built in the sibling `<output>.partial` and renamed when
 * whole, so the final name never holds half a model.
 */
export interface OutputFolder {
  readonly path: string;
  readonly partialPath: string;
  /** Where a replaced output waits until the new one has its name. */
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
  const output = resolve(path);
  await refuseOverlap(output, donorPath, files);
  const partialPath = `${output}.partial`;
  return {
    path: output,
    partialPath,
    replacedPath: `${output}.replaced`,
    occupied: await occupation(output, files),
    partial: await partialState(partialPath, files),
  };
}

/**
 * Folders are compared by device and inode along both chains of parents: that sees through symlinks, spellings and bind mounts.
 */
async function refuseOverlap(output: string, donorPath: string, files: FileLayer): Promise<void> {
  const donor = await identify(donorPath, files);
  const place = await identify(output, files);
  const inside = place.chain.includes(donor.chain[0]);
  const around = place.exists && donor.chain.includes(place.chain[0]);
  if (inside || around) {
    throw new PhysariumError(
      "USAGE_OUTPUT_OVERLAP",
      `${output}: the output is ${inside ? "equal to or inside" : "around"} the donor (${donorPath}); the donor is never written to, choose another folder`,
      { output, donor: donorPath },
    );
  }
}

/** Device and inode of a folder (or of its nearest parent that exists) and of all its parents. */
async function identify(path: string, files: FileLayer): Promise<{ exists: boolean; chain: string[] }> {
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
    await folder.close();
  }
}

/** Write a small file whole: to a temporary sibling, flushed, then renamed. */
export async function writeSmallFile(
  path: string,
  content: Uint8Array | string,
  files: FileLayer = nodeFiles,
): Promise<void> {
  const bytes = typeof content === "string" ? new TextEncoder().encode(content) : content;
  const temporary = join(dirname(path), `.${basename(path)}.${process.pid}.tmp`);
  const file = await attempt("creating", temporary, () => files.open(temporary, "w"));
  try {
    await writeFully(file, bytes, 0, temporary);
    await attempt("flushing", temporary, () => file.sync());
  } finally {
    await file.close();
  }
  await attempt("renaming", temporary, () => files.rename(temporary, path));
}

/** Rename the finished folder to its final name; an operated output that is replaced steps aside first and goes last. */
export async function publish(output: OutputFolder, files: FileLayer = nodeFiles): Promise<void> {
  const { path, partialPath, replacedPath } = output;
  const replaces = (await occupation(path, files)) === "operated";
  if (replaces) {
    await attempt("removing", replacedPath, () => files.rm(replacedPath, { recursive: true, force: true }));
    await attempt("renaming", path, () => files.rename(path, replacedPath));
  }
  try {
    await files.rename(partialPath, path);
  } catch (error) {
    if (replaces) await files.rename(replacedPath, path).catch(() => {});
    throw ioError("renaming", partialPath, error);
  }
  await syncFolder(dirname(path), files);
  if (replaces) await attempt("removing", replacedPath, () => files.rm(replacedPath, { recursive: true, force: true }));
}

/** Holds an output against a second run. */
export interface Lock {
  release(): Promise<void>;
}

interface LockOwner {
  readonly pid: number;
  readonly host: string;
  /** Kernel's start time of the process, so that a reused pid is not taken for the owner. */
  readonly started: string;
  readonly at: string;
}

/**
 * Take `<partial>/physarium/lock`. A lock whose owner no longer runs on this host is stale and taken over.
 * Throws `USAGE_LOCKED`, naming the owner.
 */
export async function takeLock(partialPath: string, files: FileLayer = nodeFiles): Promise<Lock> {
  const path = join(partialPath, RECORD_FOLDER, "lock");
  const owner: LockOwner = {
    pid: process.pid,
    host: hostname(),
    started: await startOf(process.pid, files),
    at: new Date().toISOString(),
  };
  for (let tries = 0; tries < 5; tries++) {
    try {
      const file = await files.open(path, "wx");
      try {
        await writeFully(file, new TextEncoder().encode(JSON.stringify(owner)), 0, path);
      } finally {
        await file.close();
      }
      return { release: () => attempt("removing", path, () => files.rm(path, { force: true })) };
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw ioError("locking", path, error);
    }
    const other = await readOwner(path, files);
    if (other === "gone") continue;
    if (other !== undefined && (await isAlive(other, files))) {
      throw new PhysariumError(
        "USAGE_LOCKED",
        `${partialPath}: another run (process ${other.pid} on ${other.host}, since ${other.at}) is working on this output; wait for it or stop it`,
        { ...other },
      );
    }
    await removeStale(path, other, files);
  }
  throw new PhysariumError(
    "USAGE_LOCKED",
    `${path}: the lock keeps changing hands; are several runs being started on this output?`,
  );
}

/** Move a stale lock away. Another run may have taken it over since we read it: what we moved is looked at, and put back. */
async function removeStale(path: string, stale: LockOwner | undefined, files: FileLayer): Promise<void> {
  const aside = `${path}.stale-${process.pid}`;
  try {
    await files.rename(path, aside);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return;
    throw ioError("removing the stale lock", path, error);
  }
  const moved = await readOwner(aside, files);
  if (moved !== "gone" && moved?.pid !== stale?.pid) await files.rename(aside, path);
  else await files.rm(aside, { force: true });
}

/** The owner; `gone` if the lock vanished meanwhile; `undefined` if it is unreadable and old enough to be the rest of a crash. */
async function readOwner(path: string, files: FileLayer): Promise<LockOwner | "gone" | undefined> {
  for (let tries = 0; tries < 20; tries++) {
    try {
      return JSON.parse(new TextDecoder().decode(await readSmallFile(path, files, 65_536))) as LockOwner;
    } catch (error) {
      if (error instanceof PhysariumError && error.code === "IO_NOT_FOUND") return "gone";
      if (!(error instanceof SyntaxError)) throw error;
      // The other run may be between creating and writing it.
      await new Promise((wake) => setTimeout(wake, 25));
    }
  }
  return undefined;
}

async function isAlive(owner: LockOwner, files: FileLayer): Promise<boolean> {
  // A process of another host cannot be asked; its lock stands.
  if (owner.host !== hostname()) return true;
  try {
    process.kill(owner.pid, 0);
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
  return (await startOf(owner.pid, files)) === owner.started;
}

/** Start time from /proc, empty where there is none (then the pid alone decides). */
async function startOf(pid: number, files: FileLayer): Promise<string> {
  try {
    const file = await files.open(`/proc/${pid}/stat`, "r");
    try {
      const buffer = new Uint8Array(4096);
      const { bytesRead } = await file.read(buffer, 0, buffer.byteLength, 0);
      const text = new TextDecoder().decode(buffer.subarray(0, bytesRead));
      // The command name may hold spaces; fields are counted after its closing parenthesis.
      return text.slice(text.lastIndexOf(")") + 2).split(" ")[19] ?? "";
    } finally {
      await file.close();
    }
  } catch {
    return "";
  }
}
