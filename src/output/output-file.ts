import { dirname } from "node:path";
import {
  attempt,
  closeQuietly,
  type FileLayer,
  nodeFiles,
  type OpenFile,
  writeFully,
} from "../checkpoint/file-layer.js";
import { PhysariumError } from "../errors.js";
import { type Lock, takeLock } from "./lock.js";
import { nothingKept } from "./nothing-kept.js";
import { exists, type OutputNames, outputNames, refuseOverlap, whatStandsAt } from "./place.js";
import { syncFolder } from "./small-file.js";

export interface OutputFileOptions {
  /** Files and folders that are read: the output may not touch them. */
  readonly inputs: readonly string[];
  /** Whether the file that stands at the path may be replaced; where it may not, what to do about it. */
  readonly mayReplace: (path: string) => Promise<true | string>;
  readonly files?: FileLayer;
}

/**
 * A new file that takes its name only when it is whole: written to `<path>.partial` under the lock
 * `<path>.partial.lock`, synced, renamed; gone if anything fails, and swept by the next run after a kill.
 */
export class OutputFile {
  private constructor(
    private readonly file: OpenFile,
    private readonly names: OutputNames,
    private readonly lock: Lock,
    private readonly files: FileLayer,
  ) {}

  /** All refusals come before the first write. Throws `USAGE_OUTPUT*`, `USAGE_LOCKED`, `IO_*`. */
  static async create(path: string, options: OutputFileOptions): Promise<OutputFile> {
    const { files = nodeFiles, inputs, mayReplace } = options;
    const names = await outputNames(path, files);
    await refuseOverlap(names, inputs, files);
    if (!(await exists(dirname(names.path), files))) {
      throw new PhysariumError("USAGE_OUTPUT", `${dirname(names.path)}: there is no such folder; create it first`);
    }
    const { partialPath } = names;
    const lock = await takeLock(partialPath, files);
    try {
      if (await exists(partialPath, files)) {
        // Only under the lock of a run that died is it known to be ours.
        if (!lock.tookOver || (await whatStandsAt(partialPath, files)) !== "file") throw notOurs(partialPath);
        await attempt("removing", partialPath, () => files.rm(partialPath, { force: true }));
      }
      await refuseOccupied(names.path, mayReplace, files);
      // Exclusive: a link laid there meanwhile is not followed.
      const file = await attempt("creating", partialPath, () => files.open(partialPath, "wx"));
      return new OutputFile(file, names, lock, files);
    } catch (error) {
      await lock.release().catch(() => {});
      throw error;
    }
  }

  /** Where it is written until it is whole, for others that write parts of it. */
  get partialPath(): string {
    return this.names.partialPath;
  }

  /** Give the file its length before parts of it are written in any order. */
  extend(byteLength: number): Promise<void> {
    return attempt("extending", this.names.partialPath, () => this.file.truncate(byteLength));
  }

  write(bytes: Uint8Array, byteOffset: number): Promise<void> {
    return writeFully(this.file, bytes, byteOffset, this.names.partialPath);
  }

  /** Sync, take the final name, sync the folder: after this a crash loses nothing. */
  async commit(): Promise<void> {
    const { path, partialPath } = this.names;
    await attempt("flushing", partialPath, () => this.file.sync());
    await attempt("closing", partialPath, () => this.file.close());
    await attempt("renaming", partialPath, () => this.files.rename(partialPath, path));
    await syncFolder(dirname(path), this.files);
    await this.lock.release();
  }

  /** Leave nothing behind. */
  async discard(): Promise<void> {
    await closeQuietly(this.file);
    await this.files.rm(this.names.partialPath, { force: true }).catch(() => {});
    await this.lock.release().catch(() => {});
  }
}

/** Run `body` with a new file; what it wrote becomes `path` when it returns and vanishes when it throws. */
export async function writeOutputFile<T>(
  path: string,
  options: OutputFileOptions,
  body: (output: OutputFile) => Promise<T>,
): Promise<T> {
  const output = await OutputFile.create(path, options);
  try {
    const result = await body(output);
    await output.commit();
    return result;
  } catch (error) {
    await output.discard();
    throw nothingKept(error, path);
  }
}

async function refuseOccupied(
  path: string,
  mayReplace: OutputFileOptions["mayReplace"],
  files: FileLayer,
): Promise<void> {
  const there = await whatStandsAt(path, files);
  if (there === "nothing") return;
  const advice = there === "file" ? await mayReplace(path) : "it is no file; give the path of one";
  if (advice === true) return;
  throw new PhysariumError("USAGE_OUTPUT_EXISTS", `${path}: something of this name exists already; ${advice}`, {
    path,
  });
}

function notOurs(path: string): PhysariumError {
  return new PhysariumError(
    "USAGE_OUTPUT_EXISTS",
    `${path}: the output is built there, but something stands there that no stopped run of ours left; move it away`,
    { path },
  );
}
