import { constants } from "node:fs";
import { basename, dirname, join, resolve, sep } from "node:path";
import { attempt, type FileLayer, type OpenFile, readSmallFile, writeFully } from "../checkpoint/file-layer.js";
import { isPhysariumError, PhysariumError } from "../errors.js";

/**
 * An output folder under construction: built as `<output>.partial` and renamed when whole. Beside it `<output>.partial.jsonl`, the ledger of
 * finished shards, outlives the rename by a moment: killed at any point, the next run with `resume` knows where this one stood.
 */
export interface StagedFolder {
  /** The sibling folder in which the files are made. */
  readonly path: string;
  /** An earlier run had finished everything but its own ledger's end: there is nothing left to do. */
  readonly isComplete: boolean;
  /** Shards that an earlier run finished, by file name: what `record` was given. */
  readonly finished: ReadonlyMap<string, Record<string, unknown>>;
  /** Append a finished shard to the ledger and wait until it is on the disk. */
  record(entry: { file: string } & Record<string, unknown>): Promise<void>;
  /** Give the folder its final name, replacing what stood there if that was allowed, and drop the ledger. */
  commit(): Promise<void>;
  /** Let go of the folder without finishing it; a later run may resume. */
  release(): Promise<void>;
}

export interface StageOptions {
  readonly source: string;
  readonly output: string;
  /** What the shards are made from and how; a run with another one cannot resume this folder. */
  readonly fingerprint: unknown;
  readonly neededBytes: number;
  readonly resume: boolean;
  /** Given where `--overwrite` was: true for a folder that may be replaced, by the names in it. */
  readonly mayReplace?: (names: readonly string[]) => boolean;
  readonly files: FileLayer;
}

interface Places {
  readonly output: string;
  readonly partial: string;
  readonly ledger: string;
  readonly lock: string;
  /** Where an output that is being replaced waits for the new one to stand. */
  readonly replaced: string;
}

interface StoppedRun {
  readonly finished: Map<string, Record<string, unknown>>;
  /** Up to the end of its last whole line. */
  readonly ledgerByteLength: number;
  readonly wasReplacing: boolean;
}

/** All refusals come before the first write. Throws `USAGE_*`, `IO_*`. */
export async function stageFolder(options: StageOptions): Promise<StagedFolder> {
  const { files } = options;
  const output = resolve(options.output);
  const partial = `${output}.partial`;
  const places = {
    output,
    partial,
    ledger: `${partial}.jsonl`,
    lock: `${partial}.lock`,
    replaced: `${output}.replaced`,
  };
  await refuseOverlap(options.source, places, files);
  const stopped = await readLedger(places, options);
  const outputNames = await namesIn(output, files);
  const isOccupied = outputNames !== undefined && outputNames.length > 0;
  const isComplete = stopped !== undefined && isOccupied && (await namesIn(partial, files)) === undefined;
  if (isOccupied && !isComplete) {
    refuseOccupied(output, outputNames, options);
    if ((await namesIn(places.replaced, files)) !== undefined) {
      throw new PhysariumError(
        "USAGE_OUTPUT_EXISTS",
        `${places.replaced}: the old output would wait there while it is replaced, but something stands there; move it away`,
        { path: places.replaced },
      );
    }
  }
  const finished = stopped?.finished ?? new Map<string, Record<string, unknown>>();
  const doneBytes = [...finished.values()].reduce((sum, entry) => sum + Number(entry.byte_length ?? 0), 0);
  if (!isComplete) await refuseFullDisk(output, options.neededBytes - doneBytes, files);

  await attempt("creating", dirname(output), () => files.mkdir(dirname(output), { recursive: true }));
  await takeLock(places.lock, files);
  let ledger: Ledger | undefined;
  const release = async () => {
    await ledger?.close();
    await attempt("removing", places.lock, () => files.rm(places.lock, { force: true }));
  };
  try {
    ledger = await openLedger(places.ledger, stopped?.ledgerByteLength ?? 0, files);
    if (!isComplete) {
      if (stopped === undefined) await removeFolder(partial, files);
      await attempt("creating", partial, () => files.mkdir(partial, { recursive: true }));
    }
    if (stopped === undefined) await ledger.append({ record: "run", fingerprint: options.fingerprint });
  } catch (error) {
    await release().catch(() => {});
    throw error;
  }
  const { append } = ledger;
  return {
    path: partial,
    isComplete,
    finished,
    record: (entry) => append({ record: "shard", ...entry }),
    release,
    commit: async () => {
      if (!isComplete) {
        await syncFolder(partial, files);
        if (isOccupied) {
          await append({ record: "replacing" });
          await attempt("renaming", output, () => files.rename(output, places.replaced));
        }
        await attempt("renaming", partial, () => files.rename(partial, output));
        await syncFolder(dirname(output), files);
      }
      if (isOccupied || stopped?.wasReplacing) await removeFolder(places.replaced, files);
      await release();
      // Last: while it stands, a resumed run knows that the output is whole.
      await attempt("removing", places.ledger, () => files.rm(places.ledger, { force: true }));
    },
  };
}

/** Put a finished file's bytes on the disk. */
export async function syncAndClose(file: OpenFile, path: string): Promise<void> {
  try {
    await attempt("flushing", path, () => file.datasync());
  } finally {
    await file.close();
  }
}

interface Ledger {
  append(entry: unknown): Promise<void>;
  close(): Promise<void>;
}

async function openLedger(path: string, byteLength: number, files: FileLayer): Promise<Ledger> {
  const file = await attempt("opening", path, () => files.open(path, constants.O_RDWR | constants.O_CREAT));
  try {
    // Half a line from a kill is cut off, so that the next record starts a line of its own.
    await attempt("truncating", path, () => file.truncate(byteLength));
  } catch (error) {
    await file.close();
    throw error;
  }
  let position = byteLength;
  return {
    append: async (entry: unknown) => {
      const line = new TextEncoder().encode(`${JSON.stringify(entry)}\n`);
      await writeFully(file, line, position, path);
      await attempt("flushing", path, () => file.datasync());
      position += line.byteLength;
    },
    close: () => file.close(),
  };
}

async function syncFolder(path: string, files: FileLayer): Promise<void> {
  const folder = await attempt("opening", path, () => files.open(path, constants.O_RDONLY));
  try {
    await attempt("flushing", path, () => folder.sync());
  } finally {
    await folder.close();
  }
}

function removeFolder(path: string, files: FileLayer): Promise<void> {
  return attempt("removing", path, () => files.rm(path, { recursive: true, force: true }));
}

/** The names in a folder, or `undefined` where there is none. */
async function namesIn(path: string, files: FileLayer): Promise<string[] | undefined> {
  try {
    return await files.readdir(path);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "ENOENT") return undefined;
    if (code === "ENOTDIR") {
      throw new PhysariumError(
        "USAGE_OUTPUT_EXISTS",
        `${path}: a file of this name exists; choose another output folder`,
        { path },
      );
    }
    return attempt("listing", path, () => Promise.reject(error));
  }
}

function refuseOccupied(output: string, names: readonly string[], { mayReplace }: StageOptions): void {
  if (mayReplace?.(names) === true) return;
  const hint =
    mayReplace === undefined
      ? "choose another, or use --overwrite"
      : "it holds other files than this command makes, and --overwrite replaces no such folder; choose another";
  throw new PhysariumError("USAGE_OUTPUT_EXISTS", `${output}: the output folder exists and is not empty; ${hint}`, {
    path: output,
  });
}

/** The real path of a file that may not exist yet: its nearest existing folder's, and the rest as it stands. */
async function realPath(path: string, files: FileLayer): Promise<string> {
  try {
    return await files.realpath(path);
  } catch (error) {
    const parent = dirname(path);
    if ((error as NodeJS.ErrnoException).code !== "ENOENT" || parent === path) throw error;
    return join(await realPath(parent, files), basename(path));
  }
}

async function refuseOverlap(source: string, { output }: Places, files: FileLayer): Promise<void> {
  const from = await attempt("resolving", source, () => files.realpath(source));
  const to = await attempt("resolving", output, () => realPath(output, files));
  const inside = (inner: string, outer: string) =>
    inner === outer || inner.startsWith(outer.endsWith(sep) ? outer : outer + sep);
  for (const folder of [to, `${to}.partial`, `${to}.replaced`]) {
    if (!inside(folder, from) && !inside(from, folder)) continue;
    throw new PhysariumError(
      "USAGE_OUTPUT_OVERLAP",
      `${output}: the output folder is, lies in or lies around ${source}, which is never written to; choose a folder beside it`,
      { source: from, output: folder },
    );
  }
}

async function refuseFullDisk(output: string, neededBytes: number, files: FileLayer): Promise<void> {
  let folder = dirname(output);
  while ((await namesIn(folder, files)) === undefined && dirname(folder) !== folder) folder = dirname(folder);
  const { bavail, bsize } = await attempt("examining", folder, () => files.statfs(folder));
  if (bavail * bsize >= neededBytes) return;
  throw new PhysariumError(
    "USAGE_DISK_SPACE",
    `${folder}: the output takes about ${neededBytes} bytes, the disk has ${bavail * bsize} free; free some space or choose another disk`,
    { path: folder, neededBytes, freeBytes: bavail * bsize },
  );
}

/** What a stopped run left; `undefined` where a new run starts from nothing. */
async function readLedger(places: Places, options: StageOptions): Promise<StoppedRun | undefined> {
  const { files, resume, mayReplace, fingerprint } = options;
  const { partial, ledger } = places;
  const bytes = await readIfThere(ledger, files);
  const opening = '{"record":"run"';
  const start = new TextDecoder().decode(bytes?.subarray(0, opening.length));
  if (bytes !== undefined && start !== opening.slice(0, start.length)) {
    throw new PhysariumError(
      "USAGE_OUTPUT_EXISTS",
      `${ledger}: the file exists and is no ledger of ours; move it away`,
      {
        path: ledger,
      },
    );
  }
  const names = await namesIn(partial, files);
  if (bytes === undefined) {
    if (names === undefined || names.length === 0) return undefined;
    throw new PhysariumError(
      "USAGE_OUTPUT_EXISTS",
      `${partial}: the folder exists and is no stopped run of ours; move it away`,
      { path: partial },
    );
  }
  if (!resume) {
    if (names === undefined || mayReplace !== undefined) return undefined;
    throw new PhysariumError(
      "USAGE_UNFINISHED",
      `${partial}: a stopped run left it; continue that run with --resume, or start anew with --overwrite`,
      { path: partial },
    );
  }
  // A kill may have cut the last line; what it would have said is then done again.
  const ledgerByteLength = bytes.lastIndexOf(0x0a) + 1;
  const lines = new TextDecoder().decode(bytes.subarray(0, ledgerByteLength)).split("\n").slice(0, -1);
  if (lines.length === 0) return undefined;
  let records: Record<string, unknown>[];
  try {
    records = lines.map((line) => JSON.parse(line));
  } catch (error) {
    throw new PhysariumError(
      "USAGE_LEDGER_DAMAGED",
      `${ledger}: the stopped run's ledger is no JSON lines; start anew with --overwrite`,
      { path: ledger },
      error,
    );
  }
  if (JSON.stringify(records[0].fingerprint) !== JSON.stringify(fingerprint)) {
    throw new PhysariumError(
      "USAGE_RESUME_MISMATCH",
      `${partial}: the stopped run was made from other files or settings; start anew with --overwrite`,
      { path: partial },
    );
  }
  const shards = records.filter((record) => record.record === "shard");
  return {
    finished: new Map(shards.map((record) => [String(record.file), record])),
    ledgerByteLength,
    wasReplacing: records.some((record) => record.record === "replacing"),
  };
}

async function readIfThere(path: string, files: FileLayer): Promise<Uint8Array | undefined> {
  try {
    return await readSmallFile(path, files);
  } catch (error) {
    if (isPhysariumError(error, "IO_NOT_FOUND")) return undefined;
    throw error;
  }
}

/** One process a folder. The lock names its owner, so that one left by a killed run is known as such. */
async function takeLock(path: string, files: FileLayer): Promise<void> {
  for (let round = 0; ; round++) {
    try {
      const file = await files.open(path, "wx");
      try {
        await writeFully(file, new TextEncoder().encode(String(process.pid)), 0, path);
      } finally {
        await file.close();
      }
      return;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EEXIST" || round === 2) {
        await attempt("locking", path, () => Promise.reject(error));
      }
    }
    const owner = Number(new TextDecoder().decode(await readSmallFile(path, files, 64)));
    if (isAlive(owner)) {
      throw new PhysariumError(
        "USAGE_LOCKED",
        `${path}: process ${owner} works on this output; wait for it, or remove the file if that is another program`,
        { path, owner },
      );
    }
    await attempt("removing", path, () => files.rm(path, { force: true }));
  }
}

function isAlive(pid: number): boolean {
  if (!Number.isSafeInteger(pid) || pid <= 0) return false;
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
}
