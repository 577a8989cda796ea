import { randomBytes } from "node:crypto";
import { hostname } from "node:os";
import { dirname, join } from "node:path";
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
import { isAnswered, type LifeLine, openLifeLine } from "./life-line.js";
import { lockPathOf } from "./place.js";

/** Holds an output against a second run. */
export interface Lock {
  /** A run that died held it before: what stands under the unfinished name is of ours. */
  readonly tookOver: boolean;
  release(): Promise<void>;
}

interface LockOwner {
  readonly pid: number;
  readonly host: string;
  /** Boot and kernel's start time of the process, so that a reused pid is not taken for the owner. */
  readonly started: string;
  /**
   * The pid's namespace, as the kernel numbers it; empty where the system has none, absent in locks of earlier
   * versions.
   */
  readonly namespace?: string;
  /** Socket beside the lock that answers while the owner lives: see life-line.ts. */
  readonly alive?: string;
  readonly at: string;
}

/** Waiting for another run that takes over the same stale lock just now. */
const TRIES = 200;
const WAIT_MS = 25;

/**
 * Take the lock `<partial>.lock` of an output that is built at `partialPath`, file or folder. Throws `USAGE_LOCKED`,
 * naming the owner.
 *
 * A lock is taken over only where its owner is known to be gone: its pid is free or another process's in its own
 * namespace, or its life line is refused. It appears with its content, by a hard link; a stale one is removed by one
 * run at a time, so of many exactly one wins.
 */
export async function takeLock(partialPath: string, files: FileLayer = nodeFiles): Promise<Lock> {
  const path = lockPathOf(partialPath);
  const folder = dirname(path);
  const line = await openLifeLine(folder);
  try {
    const owner = await thisProcess(line, files);
    for (let tries = 0, tookOver = false; tries < TRIES; tries++) {
      if (await holding(path, () => createLock(path, owner, files))) {
        await sweepRemains(folder, line, files).catch(() => {});
        return held(path, line, tookOver, files);
      }
      const other = await readOwner(path, files);
      if (other === "gone") continue;
      if (other !== undefined && (await isAlive(other, path, files))) throw locked(partialPath, other);
      if (await removeStale(path, owner, files)) tookOver = true;
      else await new Promise((wake) => setTimeout(wake, WAIT_MS));
    }
  } catch (error) {
    await line?.close();
    throw error;
  }
  await line?.close();
  throw new PhysariumError(
    "USAGE_LOCKED",
    `${path}: the lock keeps changing hands; are several runs being started on this output?`,
  );
}

function held(path: string, line: LifeLine | undefined, tookOver: boolean, files: FileLayer): Lock {
  return {
    tookOver,
    release: async () => {
      // Let go of, even where the file cannot be removed: the next run of this process finds it stale.
      holds(path, -1);
      try {
        await attempt("removing", path, () => files.rm(path, { force: true }));
      } finally {
        await line?.close();
      }
    },
  };
}

/** Count the lock as held while it is being made, and from then on where it was. */
async function holding(path: string, make: () => Promise<boolean>): Promise<boolean> {
  holds(path, 1);
  let isMade = false;
  try {
    isMade = await make();
    return isMade;
  } finally {
    if (!isMade) holds(path, -1);
  }
}

/**
 * How often this process holds a lock or is about to: counted before the file appears, so that no other run of it sees
 * one unheld.
 */
const locksHeld = new Map<string, number>();

function holds(path: string, more: 1 | -1): void {
  const times = (locksHeld.get(path) ?? 0) + more;
  if (times === 0) locksHeld.delete(path);
  else locksHeld.set(path, times);
}

/** Killed within the few calls that take a lock, a run leaves its life line or the draft of its lock. */
async function sweepRemains(folder: string, own: LifeLine | undefined, files: FileLayer): Promise<void> {
  for (const name of await files.readdir(folder)) {
    const kind = /^\.physarium-[0-9a-f]{16}\.(alive|lock)$/.exec(name)?.[1];
    if (kind === undefined || name === own?.name) continue;
    const path = join(folder, name);
    if (kind === "alive") {
      if ((await isAnswered(folder, name)) === false) await files.rm(path, { force: true });
      continue;
    }
    if (drafts.has(path)) continue;
    const owner = await readOwner(path, files);
    if (owner === "gone") continue;
    const isOwn = owner !== undefined && owner.pid === process.pid && owner.host === hostname();
    if (owner !== undefined && !isOwn && (await isAlive(owner, path, files))) continue;
    await files.rm(path, { force: true });
  }
}

/** Throws `USAGE_LOCKED` if a run is working on the output just now; changes nothing. */
export async function refuseLocked(partialPath: string, files: FileLayer = nodeFiles): Promise<void> {
  const path = lockPathOf(partialPath);
  const other = await readOwner(path, files);
  if (other === "gone" || other === undefined) return;
  if (await isAlive(other, path, files)) throw locked(partialPath, other);
}

function locked(partialPath: string, { pid, host, started, at, namespace }: LockOwner): PhysariumError {
  const path = lockPathOf(partialPath);
  const elsewhere = host === hostname() ? "" : ` (if ${host} is gone for good, remove ${path})`;
  return new PhysariumError(
    "USAGE_LOCKED",
    `${partialPath}: another run (process ${pid} on ${host}, since ${at}) is working on this output; wait for it ` +
      `or stop it${elsewhere}`,
    { path, pid, host, started, at, ...(namespace === undefined ? {} : { namespace }) },
  );
}

async function thisProcess(line: LifeLine | undefined, files: FileLayer): Promise<LockOwner> {
  return {
    pid: process.pid,
    host: hostname(),
    started: (await lifeOf(process.pid, files)).started,
    namespace: await namespaceOfPids(files),
    ...(line === undefined ? {} : { alive: line.name }),
    at: new Date().toISOString(),
  };
}

/** False where a lock stands already. One that could not be written whole is taken away again. */
async function createLock(path: string, owner: LockOwner, files: FileLayer): Promise<boolean> {
  const draft = join(dirname(path), `.physarium-${randomBytes(8).toString("hex")}.lock`);
  drafts.add(draft);
  try {
    await writeOwner(draft, owner, files);
    try {
      await files.link(draft, path);
      return true;
    } catch (error) {
      const { code = "" } = error as NodeJS.ErrnoException;
      if (code === "EEXIST") return false;
      if (!NO_LINKS.includes(code)) throw ioError("locking", path, error);
    }
    // A file system without hard links: the lock is empty for a moment, which is why an unreadable one is read again
    // for a while.
    return await writeOwner(path, owner, files);
  } finally {
    await files.rm(draft, { force: true }).catch(() => {});
    drafts.delete(draft);
  }
}

/** Drafts of this process that are under way: another that carries its name is left from a failure. */
const drafts = new Set<string>();
const NO_LINKS = ["EPERM", "ENOTSUP", "EOPNOTSUPP", "ENOSYS", "EMLINK", "EXDEV"];

/** False where a file of the name stands already. */
async function writeOwner(path: string, owner: LockOwner, files: FileLayer): Promise<boolean> {
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

/**
 * Remove a stale lock. Only the run that holds `<lock>.takeover` may, and it looks once more: another may have taken
 * the lock over since.
 * False where another run is at it.
 */
async function removeStale(path: string, owner: LockOwner, files: FileLayer): Promise<boolean> {
  const guard = `${path}.takeover`;
  if (!(await holding(guard, () => createLock(guard, owner, files)))) {
    const other = await readOwner(guard, files);
    // Killed in these few calls, a run leaves its guard.
    if (other === undefined || (other !== "gone" && !(await isAlive(other, guard, files))))
      await attempt("removing", guard, () => files.rm(guard, { force: true }));
    return false;
  }
  try {
    const other = await readOwner(path, files);
    if (other === "gone") return false;
    if (other !== undefined && (await isAlive(other, path, files))) return false;
    if (other?.alive !== undefined && (await isAnswered(dirname(path), other.alive)) === false) {
      const line = join(dirname(path), other.alive);
      await attempt("removing", line, () => files.rm(line, { force: true }));
    }
    await attempt("removing", path, () => files.rm(path, { force: true }));
    return true;
  } finally {
    holds(guard, -1);
    await attempt("removing", guard, () => files.rm(guard, { force: true }));
  }
}

/** The owner; `gone` if there is no lock; `undefined` if it is unreadable and stays so: the rest of a crash. */
async function readOwner(path: string, files: FileLayer): Promise<LockOwner | "gone" | undefined> {
  for (let tries = 0; tries < 20; tries++) {
    try {
      const owner: unknown = JSON.parse(new TextDecoder().decode(await readSmallFile(path, files, 65_536)));
      // Pack's locks of earlier versions hold a bare pid. If it is ours now, it was another's then.
      if (typeof owner === "number" && owner !== process.pid) return ownerOf({ pid: owner });
      return ownerOf(owner);
    } catch (error) {
      if (isPhysariumError(error, "IO_NOT_FOUND")) return "gone";
      if (isPhysariumError(error, "DONOR_")) return undefined;
      if (!(error instanceof SyntaxError)) throw error;
      await new Promise((wake) => setTimeout(wake, WAIT_MS));
    }
  }
  return undefined;
}

function ownerOf(value: unknown): LockOwner | undefined {
  if (typeof value !== "object" || value === null) return undefined;
  const {
    pid,
    host = hostname(),
    started = "",
    at = "an unknown time",
    namespace,
    alive,
  } = value as Partial<LockOwner>;
  if (!Number.isSafeInteger(pid) || (pid as number) <= 0) return undefined;
  if ([host, started, at, namespace ?? "", alive ?? ""].some((member) => typeof member !== "string")) return undefined;
  return { ...(value as LockOwner), pid: pid as number, host, started, at };
}

/** False only where the owner is known to be gone. */
async function isAlive(owner: LockOwner, path: string, files: FileLayer): Promise<boolean> {
  const folder = dirname(path);
  const ownNamespace = await namespaceOfPids(files);
  const sharesPids = owner.host === hostname() && (owner.namespace === undefined || owner.namespace === ownNamespace);
  if (!sharesPids) {
    // Of another host, or of a container beside this one: its pid says nothing here. Another boot of this host has
    // ended with all its processes.
    const boot = await bootOf(files);
    const sameKernel = boot !== "" && owner.started.startsWith(`${boot} `);
    if (owner.host === hostname() && boot !== "" && owner.started !== "" && !sameKernel) return false;
    return !(sameKernel && owner.alive !== undefined && (await isAnswered(folder, owner.alive)) === false);
  }
  try {
    process.kill(owner.pid, 0);
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
  const { started, ended } = await lifeOf(owner.pid, files);
  const isOwn = owner.pid === process.pid && owner.started === started;
  if (isOwn && !locksHeld.has(path)) return false;
  // Where either start is unknown the pid alone decides.
  return !ended && (started === "" || owner.started === "" || started === owner.started);
}

/** The namespace this process's pid counts in; empty where the system does not say. */
async function namespaceOfPids(files: FileLayer): Promise<string> {
  try {
    return String((await files.stat("/proc/self/ns/pid", { bigint: true })).ino);
  } catch {
    return "";
  }
}

async function bootOf(files: FileLayer): Promise<string> {
  return (await readProc("/proc/sys/kernel/random/boot_id", files)).trim();
}

/**
 * What /proc says of a process: when it started (empty where that cannot be read), and whether it has ended already: a
 * zombie waits for its parent, in a container without an init for ever.
 */
async function lifeOf(pid: number, files: FileLayer): Promise<{ started: string; ended: boolean }> {
  const text = await readProc(`/proc/${pid}/stat`, files);
  const boot = await bootOf(files);
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
