import { hostname } from "node:os";
import { type FileLayer, nodeFiles } from "../checkpoint/file-layer.js";
import { isPhysariumError, refuseStopped } from "../errors.js";
import { DEFAULT_HEARTBEAT, type Heartbeat, silenceOf } from "../output/heartbeat.js";
import { type Lock, takeLock } from "../output/lock.js";
import { lockPathOf } from "../output/place.js";

export interface LockOptions {
  readonly heartbeat?: Heartbeat;
  readonly signal?: AbortSignal;
  readonly files?: FileLayer;
  /** Told once that another machine's silent lock is waited for. */
  readonly onWait?: (seconds: number) => void;
}

/** Each look makes the disk tell its time. */
const LOOK_EVERY_MS = 500;

/**
 * Take a lock that machines share. That of another machine is watched until it beats or expires: a scheduler retries
 * at once, and a machine that died says nothing. Throws `USAGE_LOCKED` where its owner is alive.
 */
export async function takeSharedLock(partialPath: string, options: LockOptions = {}): Promise<Lock> {
  const { heartbeat = DEFAULT_HEARTBEAT, signal, files = nodeFiles, onWait = () => {} } = options;
  const path = lockPathOf(partialPath);
  let before: number | undefined;
  for (;;) {
    try {
      return await takeLock(partialPath, files, heartbeat);
    } catch (error) {
      const isElsewhere = isPhysariumError(error, "USAGE_LOCKED") && error.details.host !== undefined;
      if (!isElsewhere || error.details.host === hostname()) throw error;
      const silence = (await silenceOf(path, files)) ?? 0;
      if (before !== undefined && silence < before) throw error;
      if (before === undefined) onWait(Math.max(0, heartbeat.expires_ms - silence) / 1000);
      before = silence;
    }
    await new Promise((wake) => setTimeout(wake, Math.min(LOOK_EVERY_MS, heartbeat.every_ms)));
    refuseStopped(signal);
  }
}

/** What is said meanwhile. */
export function watching(seconds: number): string {
  return (
    "another machine is at it, or was: watching its lock, which expires within " +
    `${Math.ceil(seconds)} s unless it gives a sign of life`
  );
}
