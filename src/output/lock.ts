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
  writeFully,
} from "../checkpoint/file-layer.js";
import { PhysariumError } from "../errors.js";
import { type Beating, type Heartbeat, startBeating } from "./heartbeat.js";
import { isAnswered, type LifeLine, openLifeLine } from "./life-line.js";
import { contentOf, holds, isAlive, type LockOwner, readOwner, thisProcess } from "./lock-owner.js";
import { lockPathOf } from "./place.js";

/** Holds an output against a second run. */
export interface Lock {
  /** A run that died held it before: what stands under the unfinished name is of ours. */
  readonly tookOver: boolean;
  /** Locks with a heartbeat: aborts where another run took the lock over because this one was silent for too long. */
  readonly lost?: AbortSignal;
  release(): Promise<void>;
}

/** Waiting for another run that takes over the same stale lock just now. */
const TRIES = 200;
const WAIT_MS = 25;

/**
 * Take the lock `<partial>.lock` of an output that is built at `partialPath`, file or folder. Throws `USAGE_LOCKED`,
 * naming the owner.
 *
 * A lock is taken over only where its owner is known to be gone: its pid is free or another process's in its own
 * namespace, or its life line is refused, or, with a `heartbeat`, its lock was silent for longer than it says. It
 * appears with its content, by a hard link; a stale one is removed by one run at a time, so of many exactly one wins.
 */
export async function takeLock(
  partialPath: string,
  files: FileLayer = nodeFiles,
  heartbeat?: Heartbeat,
): Promise<Lock> {
  const path = lockPathOf(partialPath);
  const folder = dirname(path);
  const line = await openLifeLine(folder);
  try {
    const owner = { ...(await thisProcess(line, files)), ...(heartbeat === undefined ? {} : { heartbeat }) };
    for (let tries = 0, tookOver = false; tries < TRIES; tries++) {
      if (await holding(path, () => createLock(path, owner, files))) {
        await sweepRemains(folder, line, files).catch(() => {});
        return await held(path, owner, line, tookOver, files);
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

async function held(
  path: string,
  owner: LockOwner,
  line: LifeLine | undefined,
  tookOver: boolean,
  files: FileLayer,
): Promise<Lock> {
  let beating: Beating | undefined;
  try {
    if (owner.heartbeat !== undefined) beating = await startBeating(path, contentOf(owner), owner.heartbeat, files);
  } catch (error) {
    holds(path, -1);
    await files.rm(path, { force: true }).catch(() => {});
    throw error;
  }
  return {
    tookOver,
    ...(beating === undefined ? {} : { lost: beating.lost }),
    release: async () => {
      // Let go of, even where the file cannot be removed: the next run of this process finds it stale.
      holds(path, -1);
      try {
        if ((await beating?.stop()) === false) return;
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

/** Killed within the few calls that take a lock, a run leaves its life line or the draft of its lock. */
async function sweepRemains(folder: string, own: LifeLine | undefined, files: FileLayer): Promise<void> {
  for (const name of await files.readdir(folder)) {
    const kind = /^\.physarium-[0-9a-f]{16}\.(alive|lock|clock)$/.exec(name)?.[1];
    if (kind === undefined || name === own?.name) continue;
    const path = join(folder, name);
    if (kind === "alive") {
      if ((await isAnswered(folder, name)) === false) await files.rm(path, { force: true });
      continue;
    }
    if (drafts.has(path)) continue;
    if (kind === "clock") {
      // Whoever looks at it just now has it open.
      await files.rm(path, { force: true });
      continue;
    }
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

function locked(partialPath: string, { pid, host, started, at, namespace, heartbeat }: LockOwner): PhysariumError {
  const path = lockPathOf(partialPath);
  const elsewhere =
    heartbeat !== undefined
      ? ` (a lock whose owner is gone expires ${heartbeat.expires_ms / 1000} s after its last sign of life)`
      : host === hostname()
        ? ""
        : ` (if ${host} is gone for good, remove ${path})`;
  return new PhysariumError(
    "USAGE_LOCKED",
    `${partialPath}: another run (process ${pid} on ${host}, since ${at}) is working on this output; wait for it ` +
      `or stop it${elsewhere}`,
    { path, pid, host, started, at, ...(namespace === undefined ? {} : { namespace }) },
  );
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
      await writeFully(file, contentOf(owner), 0, path);
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

/** Who holds the lock of what is built at `partialPath`; `undefined` where there is none, or none that can be read. */
export async function lockHolder(partialPath: string, files: FileLayer = nodeFiles): Promise<LockHolder | undefined> {
  const path = lockPathOf(partialPath);
  const owner = await readOwner(path, files);
  if (owner === "gone" || owner === undefined) return undefined;
  const { pid, host, at } = owner;
  return { pid, host, at, isAlive: await isAlive(owner, path, files) };
}

export interface LockHolder {
  readonly pid: number;
  readonly host: string;
  readonly at: string;
  /** False where it is known to be gone. */
  readonly isAlive: boolean;
}
