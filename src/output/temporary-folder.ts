import { lstat, mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { attempt } from "../checkpoint/file-layer.js";
import { PhysariumError } from "../errors.js";
import { lockHolder, takeLock } from "./lock.js";

/** A folder in the system's temporary folder that goes with the run that made it. */
export interface TemporaryFolder {
  readonly path: string;
  /** Removes the folder with all that is in it. */
  close(): Promise<void>;
}

/** The lock in each such folder is called as that of an output of this name. */
const IN_USE = "in-use";

/** Killed between making the folder and taking its lock, a run leaves one without: nobody takes as long as this. */
const LOCKED_WITHIN_MS = 60_000;

/**
 * Make `physarium-<kind>-XXXXXX`. What a killed run left of the same kind is removed first: folders of this user whose
 * lock says that their owner is gone. Throws `USAGE_TEMPORARY_FOLDER`, `IO_*`.
 */
export async function openTemporaryFolder(kind: string): Promise<TemporaryFolder> {
  const parent = tmpdir();
  await sweep(parent, new RegExp(`^physarium-${kind}-[A-Za-z0-9]{6}$`)).catch(() => {});
  const path = await mkdtemp(join(parent, `physarium-${kind}-`)).catch((error: NodeJS.ErrnoException) => {
    throw new PhysariumError(
      "USAGE_TEMPORARY_FOLDER",
      `${parent}: nothing can be put into the temporary folder (${error.code}); set TMPDIR to a folder that is ` +
        "there, may be written to and has room",
      { path: parent, errno: error.code },
      error,
    );
  });
  const gone = () => attempt("removing", path, () => rm(path, { recursive: true, force: true }));
  try {
    const lock = await takeLock(join(path, IN_USE));
    return {
      path,
      async close() {
        await lock.release();
        await gone();
      },
    };
  } catch (error) {
    await gone();
    throw error;
  }
}

async function sweep(parent: string, names: RegExp): Promise<void> {
  for (const name of await readdir(parent)) {
    if (!names.test(name)) continue;
    const path = join(parent, name);
    const found = await lstat(path);
    if (!found.isDirectory() || found.uid !== process.getuid?.()) continue;
    const holder = await lockHolder(join(path, IN_USE));
    const isLeft = holder === undefined ? Date.now() - found.mtimeMs > LOCKED_WITHIN_MS : !holder.isAlive;
    if (isLeft) await rm(path, { recursive: true, force: true });
  }
}
