import { randomBytes } from "node:crypto";
import { dirname, join } from "node:path";
import { attempt, closeQuietly, type FileLayer, type OpenFile, writeFully } from "../checkpoint/file-layer.js";
import { isPhysariumError } from "../errors.js";

/**
 * How a lock on a disk that several machines share shows that its owner lives: its file is written again, byte for
 * byte, every `every_ms`. Where its time has not moved for `expires_ms` by the clock of the disk itself, the owner is
 * taken for dead. No machine's clock has a say, so they need not agree.
 */
export interface Heartbeat {
  readonly every_ms: number;
  readonly expires_ms: number;
}

export const DEFAULT_HEARTBEAT: Heartbeat = { every_ms: 15_000, expires_ms: 120_000 };

export interface Beating {
  /** Aborts when another run has taken the lock over: this one was silent for too long. */
  readonly lost: AbortSignal;
  /** Stops beating. Returns false where the lock is another's by now. */
  stop(): Promise<boolean>;
}

/** Keep the time of the lock at `path` moving; `content` is what stands in it. */
export async function startBeating(
  path: string,
  content: Uint8Array,
  { every_ms }: Heartbeat,
  files: FileLayer,
): Promise<Beating> {
  // Through one open file: a lock that another run has made under the name meanwhile is not written to.
  const file = await attempt("opening", path, () => files.open(path, "r+"));
  const lost = new AbortController();
  let beat: Promise<void> = Promise.resolve();
  const timer = setInterval(() => {
    beat = beat.then(async () => {
      // A disk that does not answer for a moment costs a beat, no more.
      await writeFully(file, content, 0, path)
        .then(() => file.sync())
        .catch(() => {});
      if (!(await isSameFile(file, path, files))) lost.abort();
    });
  }, every_ms);
  timer.unref();
  return {
    lost: lost.signal,
    stop: async () => {
      clearInterval(timer);
      await beat;
      const isOurs = !lost.signal.aborted && (await isSameFile(file, path, files));
      await closeQuietly(file);
      return isOurs;
    },
  };
}

/** False only where another file, or none, is known to have the name. */
async function isSameFile(file: OpenFile, path: string, files: FileLayer): Promise<boolean> {
  try {
    const [own, there] = [await file.stat({ bigint: true }), await files.stat(path, { bigint: true })];
    return own.ino === there.ino && own.dev === there.dev;
  } catch (error) {
    // ESTALE: on NFS the file was removed on another machine.
    return !["ENOENT", "ESTALE"].includes((error as NodeJS.ErrnoException).code ?? "");
  }
}

/** How long the file at `path` has not been written to, in ms by the disk's own clock; `undefined` where it is gone. */
export async function silenceOf(path: string, files: FileLayer): Promise<number | undefined> {
  const probe = join(dirname(path), `.physarium-${randomBytes(8).toString("hex")}.clock`);
  try {
    const now = await attempt("creating", probe, () => files.open(probe, "wx"));
    try {
      await writeFully(now, new Uint8Array(1), 0, probe);
      await now.sync();
      // Opened, not only examined: over NFS that is what asks the server anew.
      const lock = await attempt("opening", path, () => files.open(path, "r"));
      try {
        const [moved, clock] = [await lock.stat(), await now.stat()];
        return clock.mtimeMs - moved.mtimeMs;
      } finally {
        await closeQuietly(lock);
      }
    } finally {
      await closeQuietly(now);
    }
  } catch (error) {
    if (isPhysariumError(error, "IO_NOT_FOUND")) return undefined;
    throw error;
  } finally {
    await files.rm(probe, { force: true }).catch(() => {});
  }
}
