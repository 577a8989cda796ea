import { constants } from "node:fs";
import { attempt, closeQuietly, type FileLayer, readSmallFile, writeFully } from "../checkpoint/file-layer.js";
import { isPhysariumError, PhysariumError } from "../errors.js";

/** The ledger beside a folder under construction, open for appending. */
export interface ShardLedger {
  /** Append a record and wait until it is on the disk. */
  append(entry: unknown): Promise<void>;
  close(): Promise<void>;
}

/** What a stopped run left in it. */
export interface StoppedRun {
  /** The command that began it. */
  readonly command: string;
  readonly fingerprint: unknown;
  /** Shards that it finished, by file name. */
  readonly finished: ReadonlyMap<string, Record<string, unknown>>;
  /** Everything was made and about to get its name. */
  readonly isWhole: boolean;
  /** Up to the end of its last whole line. */
  readonly ledgerByteLength: number;
}

/**
 * Open the ledger at `byteLength`: half a line from a kill is cut off, so that the next record starts a line of its
 * own.
 */
export async function openShardLedger(path: string, byteLength: number, files: FileLayer): Promise<ShardLedger> {
  const file = await attempt("opening", path, () =>
    files.open(path, constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW),
  );
  try {
    await attempt("truncating", path, () => file.truncate(byteLength));
  } catch (error) {
    await closeQuietly(file);
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
    close: () => closeQuietly(file),
  };
}

/**
 * What a stopped run left; `undefined` where there is no ledger, `empty` where a run was killed before its first
 * record.
 * Throws `USAGE_OUTPUT_EXISTS` for a file that is none of ours, `USAGE_LEDGER_DAMAGED`.
 */
export async function readShardLedger(path: string, files: FileLayer): Promise<StoppedRun | "empty" | undefined> {
  const bytes = await readIfThere(path, files);
  if (bytes === undefined) return undefined;
  const opening = '{"record":"run"';
  const start = new TextDecoder().decode(bytes.subarray(0, opening.length));
  if (start !== opening.slice(0, start.length)) {
    throw new PhysariumError("USAGE_OUTPUT_EXISTS", `${path}: the file exists and is no ledger of ours; move it away`, {
      path,
    });
  }
  // A kill may have cut the last line; what it would have said is then done again.
  const ledgerByteLength = bytes.lastIndexOf(0x0a) + 1;
  const lines = new TextDecoder().decode(bytes.subarray(0, ledgerByteLength)).split("\n").slice(0, -1);
  if (lines.length === 0) return "empty";
  let records: Record<string, unknown>[];
  try {
    records = lines.map((line) => JSON.parse(line));
  } catch (error) {
    throw new PhysariumError(
      "USAGE_LEDGER_DAMAGED",
      `${path}: the stopped run's ledger is no JSON lines; start anew with --overwrite`,
      { path },
      error,
    );
  }
  const { command, fingerprint } = records[0];
  const kind = (fingerprint as { kind?: unknown } | null)?.kind;
  const shards = records.filter((record) => record.record === "shard");
  return {
    command: String(command ?? kind ?? "another command"),
    fingerprint,
    finished: new Map(shards.map((record) => [String(record.file), record])),
    isWhole: records.some((record) => record.record === "whole"),
    ledgerByteLength,
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
