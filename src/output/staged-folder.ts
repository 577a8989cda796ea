import { basename, dirname, join } from "node:path";
import { attempt, closeQuietly, type FileLayer, type OpenFile, writeFully } from "../checkpoint/file-layer.js";
import { PhysariumError } from "../errors.js";
import { requireDiskSpace } from "./disk-space.js";
import { type Lock, takeLock } from "./lock.js";
import { exists, listOrNothing, type OutputNames, outputNames, refuseOverlap } from "./place.js";
import { publishFolder, refuseInTheWay, settleReplacement } from "./replacement.js";
import { openShardLedger, readShardLedger, type ShardLedger, type StoppedRun } from "./shard-ledger.js";
import { removeTemporaries, syncAndClose, syncFolder, writeSmallFile } from "./small-file.js";

export interface StageOptions {
  /** Files and folders that are read: the output may not touch them. */
  readonly inputs: readonly string[];
  readonly output: string;
  /** The command that writes, as the user calls it. */
  readonly command: string;
  /** For commands that resume: what the shards are made from and how. A run with another one cannot go on here. */
  readonly fingerprint?: unknown;
  readonly resume?: boolean;
  readonly neededBytes: number;
  /**
   * Given where `--overwrite` was: true for a folder that may be replaced, by the names in it; or it throws, saying why
   * not.
   */
  readonly mayReplace?: (names: readonly string[], path: string) => boolean | Promise<boolean>;
  /** For commands that resume: whether the folder that stands at the output is what this run would make. */
  readonly isFinished?: (path: string) => Promise<boolean>;
  /** For a stopped run without a ledger (of an earlier version): whether the names in it are ours. */
  readonly isOwnPartial?: (names: readonly string[], path: string) => boolean | Promise<boolean>;
  readonly files: FileLayer;
}

/**
 * A folder under construction: built as `<output>.partial` under the lock `<output>.partial.lock`, renamed when whole.
 * Beside it `<output>.partial.jsonl`, the ledger of finished shards, says that the folder is ours and outlives the
 * rename by a moment: killed at any point, the next run knows where this one stood.
 */
export class StagedFolder {
  private constructor(
    private readonly names: OutputNames,
    /** The output is finished already: there is nothing left to do. */
    readonly isComplete: boolean,
    /** Shards that an earlier run finished, by file name: what `record` was given. */
    readonly finished: ReadonlyMap<string, Record<string, unknown>>,
    private readonly replaces: boolean,
    private readonly lock: Lock,
    private readonly ledger: ShardLedger,
    private readonly files: FileLayer,
  ) {}

  /** All refusals come before the first write. Throws `USAGE_*`, `IO_*`. */
  static async open(options: StageOptions): Promise<StagedFolder> {
    const { files, neededBytes } = options;
    const names = await outputNames(options.output, files);
    await refuseOverlap(names, options.inputs, files);
    const parent = dirname(names.path);
    if (!(await exists(parent, files))) {
      await requireDiskSpace(names.path, neededBytes, files);
      await attempt("creating", parent, () => files.mkdir(parent, { recursive: true }));
    }
    const lock = await takeLock(names.partialPath, files);
    let ledger: ShardLedger | undefined;
    try {
      await settleReplacement(names, files);
      await removeTemporaries(parent, files, basename(names.partialPath));
      const { stopped, isOccupied, isComplete } = await look(names, options);
      const finished: StoppedRun["finished"] = stopped?.finished ?? new Map();
      const doneBytes = [...finished.values()].reduce((sum, entry) => sum + Number(entry.byte_length ?? 0), 0);
      if (isComplete) return new StagedFolder(names, true, finished, false, lock, NO_LEDGER, files);
      await requireDiskSpace(names.path, neededBytes - doneBytes, files);
      let ledgerByteLength = stopped?.ledgerByteLength;
      if (ledgerByteLength === undefined) {
        // First, so that what stands under the unfinished name is known to be ours.
        const record = { record: "run", command: options.command, fingerprint: options.fingerprint ?? null };
        const line = new TextEncoder().encode(`${JSON.stringify(record)}\n`);
        await writeSmallFile(names.ledgerPath, line, files);
        await remove(names.partialPath, files);
        ledgerByteLength = line.byteLength;
      }
      ledger = await openShardLedger(names.ledgerPath, ledgerByteLength, files);
      await attempt("creating", names.partialPath, () => files.mkdir(names.partialPath, { recursive: true }));
      if (stopped !== undefined) await removeTemporaries(names.partialPath, files);
      return new StagedFolder(names, false, finished, isOccupied, lock, ledger, files);
    } catch (error) {
      await ledger?.close();
      await lock.release().catch(() => {});
      throw error;
    }
  }

  /** The sibling folder in which the files are made. */
  get path(): string {
    return this.names.partialPath;
  }

  /** Append a finished shard to the ledger and wait until it is on the disk. */
  record(entry: { file: string } & Record<string, unknown>): Promise<void> {
    return this.ledger.append({ record: "shard", ...entry });
  }

  /** Write one new file, flushed; `body` gets it open and the path for messages. */
  async write(name: string, body: (file: OpenFile, path: string) => Promise<void>): Promise<void> {
    const path = join(this.path, name);
    const file = await attempt("creating", path, () => this.files.open(path, "wx"));
    try {
      await body(file, path);
    } catch (error) {
      await closeQuietly(file);
      throw error;
    }
    await syncAndClose(file, path);
  }

  writeBytes(name: string, bytes: Uint8Array): Promise<void> {
    return this.write(name, (file, path) => writeFully(file, bytes, 0, path));
  }

  writeText(name: string, text: string): Promise<void> {
    return this.writeBytes(name, new TextEncoder().encode(text));
  }

  /** Give the folder its final name, replacing what stood there if that was allowed, and drop the ledger. */
  async commit(): Promise<void> {
    const { names, files } = this;
    if (!this.isComplete) {
      await syncTree(names.partialPath, files);
      await this.ledger.append({ record: "whole" });
      await publishFolder(names, this.replaces, files);
    }
    await this.ledger.close();
    await remove(names.ledgerPath, files);
    await this.lock.release();
  }

  /** Let go of the folder without finishing it; a later run may resume. */
  async release(): Promise<void> {
    await this.ledger.close();
    await this.lock.release();
  }

  /** Throw the unfinished folder away. What cannot be removed is left to the next run. */
  async discard(): Promise<void> {
    await this.ledger.close();
    // The ledger goes last: while it stands, what is left of the folder is known to be ours.
    await remove(this.names.partialPath, this.files)
      .then(() => remove(this.names.ledgerPath, this.files))
      .catch(() => {});
    await this.lock.release().catch(() => {});
  }
}

/** Of a run that has nothing to do. */
const NO_LEDGER: ShardLedger = { append: async () => {}, close: async () => {} };

/** What stands at the names of an output, or the refusal it deserves. */
async function look(names: OutputNames, options: StageOptions) {
  const { files, resume = false, mayReplace, fingerprint = null, command } = options;
  const { path, partialPath } = names;
  const standing = await listOrNothing(path, files);
  const isOccupied = standing !== undefined && standing.length > 0;
  const left = await readShardLedger(names.ledgerPath, files);
  const partialNames = await listOrNothing(partialPath, files);
  if (left === undefined || left === "empty") await refuseForeignPartial(partialPath, partialNames ?? [], options);
  let stopped = left === "empty" ? undefined : left;
  if (stopped !== undefined && partialNames === undefined && !(resume && stopped.isWhole)) {
    // Killed before it made anything, or behind its rename: that run is over.
    await remove(names.ledgerPath, files);
    stopped = undefined;
  }
  if (stopped !== undefined && partialNames !== undefined) refuseUnfinished(stopped, partialPath, options);
  if (!resume) stopped = undefined;
  if (stopped !== undefined && JSON.stringify(stopped.fingerprint) !== JSON.stringify(fingerprint)) {
    throw new PhysariumError(
      "USAGE_RESUME_MISMATCH",
      `${partialPath}: the stopped run (physarium ${stopped.command}) was made from other files or settings than ` +
        `this ${command}; start anew with --overwrite`,
      { path: partialPath },
    );
  }
  const isOver = isOccupied && partialNames === undefined;
  const isComplete = isOver && (stopped !== undefined || (resume && ((await options.isFinished?.(path)) ?? false)));
  if (isOccupied && !isComplete) {
    if (!((await mayReplace?.(standing, path)) ?? false)) {
      const hint =
        mayReplace === undefined
          ? "choose another, or replace it with --overwrite where the command has that"
          : "it holds other files than this command makes, and --overwrite replaces no such folder; choose another";
      throw new PhysariumError("USAGE_OUTPUT_EXISTS", `${path}: the output folder exists and is not empty; ${hint}`, {
        path,
      });
    }
    await refuseInTheWay(names, files);
  }
  return { stopped, isOccupied, isComplete };
}

async function refuseForeignPartial(path: string, names: readonly string[], options: StageOptions): Promise<void> {
  if (names.length === 0 || ((await options.isOwnPartial?.(names, path)) ?? false)) return;
  throw new PhysariumError(
    "USAGE_OUTPUT_EXISTS",
    `${path}: the output is built there, but the folder exists and is no stopped run of ours; move it away`,
    { path },
  );
}

/** A stopped run is thrown away only by the same command, and where that one can resume only on request. */
function refuseUnfinished(stopped: StoppedRun, path: string, options: StageOptions): void {
  const { resume, mayReplace, command, fingerprint } = options;
  const isResumable = fingerprint !== undefined;
  if (resume || mayReplace !== undefined) return;
  if (!isResumable && stopped.command === command) return;
  const advice =
    stopped.command !== command
      ? `go on with that command, or remove the folder and ${path}.jsonl`
      : "continue that run with --resume, or start anew with --overwrite";
  throw new PhysariumError("USAGE_UNFINISHED", `${path}: a stopped physarium ${stopped.command} left it; ${advice}`, {
    path,
  });
}

async function syncTree(path: string, files: FileLayer): Promise<void> {
  for (const name of await attempt("listing", path, () => files.readdir(path))) {
    const inner = join(path, name);
    if ((await attempt("examining", inner, () => files.lstat(inner))).isDirectory()) await syncTree(inner, files);
  }
  await syncFolder(path, files);
}

function remove(path: string, files: FileLayer): Promise<void> {
  return attempt("removing", path, () => files.rm(path, { recursive: true, force: true }));
}
