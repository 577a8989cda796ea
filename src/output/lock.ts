import { hostname } from "node:os";
import { join } from "node:path";
import {
  attempt,
  closeQuietly,
  closeWritten,
  type FileLayer,
  ioError,
  nodeFiles,
  readSmallFile,
  writeFully,
} from "../checkpoint/file-layer.js";
import { isPhysariumError, PhysariumError } from "../errors.js";
import { RECORD_FOLDER } from "../record/ledger.js";

/** Holds an output against a second run. */
export interface Lock {
  release(): Promise<void>;
}

interface LockOwner {
  readonly pid: number;
  readonly host: string;
  /** Boot and kernel's start time of the process, so that a reused pid is not taken for the owner. */
  readonly started: string;
  readonly at: string;
}

/** The lock's name in the record folder. */
export const LOCK_FILE = "lock";

/**
 * Take `<partial>/physarium/lock`. A lock whose owner no longer runs on this host is stale and taken over.
 * Throws `USAGE_LOCKED`, naming the owner.
 */
export async function takeLock(partialPath: string, files: FileLayer = nodeFiles): Promise<Lock> {
  const path = lockPath(partialPath);
  for (let tries = 0; tries < 5; tries++) {
    if (await createLock(path, files)) {
      return { release: () => attempt("removing", path, () => files.rm(path, { force: true })) };
    }
    const other = await readOwner(path, files);
    if (other === "gone") continue;
    if (other !== undefined && (await isAlive(other, files))) throw locked(partialPath, other);
    await removeStale(path, other, files);
  }
  throw new PhysariumError(
    "USAGE_LOCKED",
    `${path}: the lock keeps changing hands; are several runs being started on this output?`,
  );
}

/** Throws `USAGE_LOCKED` if a run is working in the folder just now; changes nothing. */
export async function refuseLocked(partialPath: string, files: FileLayer = nodeFiles): Promise<void> {
  const other = await readOwner(lockPath(partialPath), files);
  if (other !== "gone" && other !== undefined && (await isAlive(other, files))) throw locked(partialPath, other);
}

/** Remove the lock that moved along when a folder got its final name. */
export async function removeLock(folder: string, files: FileLayer = nodeFiles): Promise<void> {
  const path = lockPath(folder);
  await attempt("removing", path, () => files.rm(path, { force: true }));
}

function lockPath(folder: string): string {
  return join(folder, RECORD_FOLDER, LOCK_FILE);
}

function locked(partialPath: string, { pid, host, started, at }: LockOwner): PhysariumError {
  const elsewhere = host === hostname() ? "" : ` (if ${host} is gone for good, remove ${lockPath(partialPath)})`;
  return new PhysariumError(
    "USAGE_LOCKED",
    `${partialPath}: another run (process ${pid} on ${host}, since ${at}) is working on this output; wait for it or stop it${elsewhere}`,
    { pid, host, started, at },
  );
}

/** False where a lock stands already. One that could not be written whole is taken away again. */
async function createLock(path: string, files: FileLayer): Promise<boolean> {
  const owner: LockOwner = {
    pid: process.pid,
    host: hostname(),
    started: (await lifeOf(process.pid, files)).started,
    at: new Date().toISOString(),
  };
  let file: Awaited<ReturnType<FileLayer["open"]>>;
  try {
    file = await files.open(path, "wx");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "EEXIST") return false;
    throw ioError("locking", path, error);
  }
  try {
    try {
      await writeFully(file, new TextEncoder().encode(JSON.stringify(owner)), 0, path);
    } catch (error) {
      await closeQuietly(file);
      throw error;
    }
    await closeWritten(file, path);
  } catch (error) {
    await files.rm(path, { force: true }).catch(() => {});
    throw error;
  }
  return true;
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
  const other = moved !== "gone" && moved !== undefined && (moved.pid !== stale?.pid || moved.at !== stale?.at);
  if (other) await attempt("putting back", aside, () => files.rename(aside, path));
  else await attempt("removing", aside, () => files.rm(aside, { force: true }));
}

/** The owner; `gone` if there is no lock; `undefined` if it is unreadable and stays so: the rest of a crash. */
async function readOwner(path: string, files: FileLayer): Promise<LockOwner | "gone" | undefined> {
  for (let tries = 0; tries < 20; tries++) {
    try {
      const owner: unknown = JSON.parse(new TextDecoder().decode(await readSmallFile(path, files, 65_536)));
      return isOwner(owner) ? owner : undefined;
    } catch (error) {
      if (isPhysariumError(error, "IO_NOT_FOUND")) return "gone";
      if (isPhysariumError(error, "DONOR_")) return undefined;
      if (!(error instanceof SyntaxError)) throw error;
      // The other run may be between creating and writing it.
      await new Promise((wake) => setTimeout(wake, 25));
    }
  }
  return undefined;
}

function isOwner(value: unknown): value is LockOwner {
  const { pid, host, started, at } = (value ?? {}) as Partial<Record<keyof LockOwner, unknown>>;
  return (
    Number.isInteger(pid) &&
    (pid as number) > 0 &&
    typeof host === "string" &&
    typeof started === "string" &&
    typeof at === "string"
  );
}

async function isAlive(owner: LockOwner, files: FileLayer): Promise<boolean> {
  // A process of another host cannot be asked; its lock stands.
  if (owner.host !== hostname()) return true;
  try {
    process.kill(owner.pid, 0);
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
  const { started, ended } = await lifeOf(owner.pid, files);
  // Where either start is unknown the pid alone decides.
  return !ended && (started === "" || owner.started === "" || started === owner.started);
}

/**
 * What /proc says of a process: when it started (empty where that cannot be read), and whether it has ended already: a zombie waits
 * for its parent, in a container without an init for ever.
 */
async function lifeOf(pid: number, files: FileLayer): Promise<{ started: string; ended: boolean }> {
  const text = await readProc(`/proc/${pid}/stat`, files);
  const boot = (await readProc("/proc/sys/kernel/random/boot_id", files)).trim();
  // The command name may hold spaces; fields are counted after its closing parenthesis.
  const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
  const start = fields[19] ?? "";
  return { started: start === "" || boot === "" ? "" : `${boot} ${start}`, ended: /^[ZXx]$/.test(fields[0]) };
}

/** A file that has no length until it is read; empty where it cannot be read whole. */
async function readProc(path: string, files: FileLayer): Promise<string> {
  try {
    const file = await files.open(path, "r");
    try {
      const buffer = new Uint8Array(4096);
      for (let length = 0; length < buffer.byteLength; ) {
        const { bytesRead } = await file.read(buffer, length, buffer.byteLength - length, length);
        if (bytesRead === 0) return new TextDecoder().decode(buffer.subarray(0, length));
        length += bytesRead;
      }
      return "";
    } finally {
      await closeQuietly(file);
    }
  } catch {
    return "";
  }
}
