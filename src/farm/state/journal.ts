import { type FileHandle, mkdir, open } from "node:fs/promises";
import { dirname } from "node:path";
import { attempt, FileSource } from "../../checkpoint/file-layer.js";
import { isPhysariumError } from "../../errors.js";
import { syncFolder } from "../../output/small-file.js";

/** One thing that happened: what, when, to whom. */
export interface JournalRecord {
  readonly event: string;
  readonly at: string;
  readonly [more: string]: unknown;
}

/**
 * `farm-state/journal.jsonl`: one record a line, appended; nothing is acknowledged before its record is on the disk.
 * Records that come while the disk is busy go together, so that a hundred answers cost one flush.
 *
 * Several processes may append (a server, an admission): a line is one write to a file opened for appending.
 */
export class Journal {
  private waiting: { line: string; done: () => void; failed: (error: unknown) => void }[] = [];
  private writing: Promise<void> | undefined;

  private constructor(
    private readonly file: FileHandle,
    readonly path: string,
  ) {}

  static async open(path: string): Promise<Journal> {
    await attempt("creating", dirname(path), () => mkdir(dirname(path), { recursive: true }));
    const file = await attempt("opening", path, () => open(path, "a+"));
    await endTornLine(file, path);
    await syncFolder(dirname(path));
    return new Journal(file, path);
  }

  /** Resolves once the record is on the disk. */
  append(event: string, more: Record<string, unknown> = {}): Promise<void> {
    const line = `${JSON.stringify({ event, at: new Date().toISOString(), ...more })}\n`;
    return new Promise((done, failed) => {
      this.waiting.push({ line, done, failed });
      this.writing ??= this.drain();
    });
  }

  /** Everything appended so far is on the disk. */
  async close(): Promise<void> {
    while (this.writing !== undefined) await this.writing;
    await this.file.close();
  }

  private async drain(): Promise<void> {
    // What is appended in the same turn goes together.
    await Promise.resolve();
    while (this.waiting.length > 0) {
      const batch = this.waiting;
      this.waiting = [];
      try {
        await this.write(batch.map(({ line }) => line).join(""));
        for (const { done } of batch) done();
      } catch (error) {
        for (const { failed } of batch) failed(error);
      }
    }
    this.writing = undefined;
  }

  private async write(text: string): Promise<void> {
    await attempt("appending to", this.path, () => this.file.appendFile(text));
    await attempt("flushing", this.path, () => this.file.datasync());
  }
}

/** Killed within a write, a journal may end in half a line; what comes next begins its own. */
async function endTornLine(file: FileHandle, path: string): Promise<void> {
  const { size } = await attempt("examining", path, () => file.stat());
  if (size === 0) return;
  const last = new Uint8Array(1);
  await attempt("reading", path, () => file.read(last, 0, 1, size - 1));
  if (last[0] !== 0x0a) await attempt("appending to", path, () => file.appendFile("\n"));
}

/** Bytes of a journal that are read at once from its end. */
const TAIL_BYTES = 64 << 20;

/** Records in the order they came; half lines of a crash are left out. Of a very long journal the latest. */
export async function readJournal(path: string): Promise<JournalRecord[]> {
  let source: FileSource;
  try {
    source = await FileSource.open(path);
  } catch (error) {
    if (isPhysariumError(error, "IO_NOT_FOUND")) return [];
    throw error;
  }
  try {
    const begin = Math.max(0, source.byteLength - TAIL_BYTES);
    const text = new TextDecoder().decode(await source.read(begin, source.byteLength));
    return text.split("\n").flatMap((line) => recordOf(line));
  } finally {
    await source.close();
  }
}

function recordOf(line: string): JournalRecord[] {
  try {
    const value = JSON.parse(line) as JournalRecord;
    return typeof value?.event === "string" && typeof value.at === "string" ? [value] : [];
  } catch {
    return [];
  }
}
