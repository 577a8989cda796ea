import { join } from "node:path";
import * as v from "valibot";
import { type FileLayer, nodeFiles, readSmallFile } from "../checkpoint/file-layer.js";
import { isPhysariumError, PhysariumError } from "../errors.js";
import { writeSmallFile } from "../output/small-file.js";
import { RECORD_FOLDER } from "./ledger.js";
import { Count, NotNegative, readJson, Time } from "./read-json.js";

/**
 * One run of an operation: the first, or one that resumed it. What differs from run to run is kept out of the ledger.
 */
export interface RunEntry {
  readonly started_at: string;
  /** Absent for a run that was killed. */
  readonly ended_at?: string;
  readonly wall_seconds?: number;
  readonly peak_rss_bytes?: number;
  readonly workers: number;
}

/** What one run has to say of itself, from its beginning on. */
export class RunClock {
  private readonly startedAt = new Date().toISOString();
  private readonly startedMs = performance.now();

  constructor(private readonly workers: number) {}

  /** The run as it begins, or how it went once it is over. */
  entry(isOver: boolean): RunEntry {
    const { startedAt: started_at, startedMs, workers } = this;
    if (!isOver) return { started_at, workers };
    return {
      started_at,
      workers,
      ended_at: new Date().toISOString(),
      wall_seconds: (performance.now() - startedMs) / 1000,
      peak_rss_bytes: process.resourceUsage().maxRSS * 1024,
    };
  }
}

const RUNS_FILE = "runs.jsonl";
/** One line a start: nobody resumes a hundred thousand times. */
const MAX_RUNS_BYTES = 16 << 20;

const Run: v.GenericSchema<unknown, RunEntry> = v.looseObject({
  started_at: Time,
  ended_at: v.optional(Time),
  wall_seconds: v.optional(NotNegative),
  peak_rss_bytes: v.optional(NotNegative),
  workers: Count,
});

/** All runs of an operation. Throws `VERIFY_RUNS` where a line is JSON, but no run. */
export async function readRuns(folder: string, files: FileLayer = nodeFiles): Promise<RunEntry[]> {
  const path = join(folder, RECORD_FOLDER, RUNS_FILE);
  const runs: RunEntry[] = [];
  try {
    const bytes = await readSmallFile(path, files, MAX_RUNS_BYTES);
    for (let start = 0; start < bytes.length; ) {
      const newline = bytes.indexOf(0x0a, start);
      const end = newline < 0 ? bytes.length : newline;
      const refuse = (fault: string, cause?: unknown) =>
        new PhysariumError(
          "VERIFY_RUNS",
          `${path}: line ${runs.length + 1} tells of no run (${fault}); the file was edited or damaged, remove it: ` +
            "only times are lost",
          { path },
          cause,
        );
      if (end > start) runs.push(readJson(bytes.subarray(start, end), Run, refuse));
      start = end + 1;
    }
    return runs;
  } catch (error) {
    // Only times and memory stand there; an operation without them, or with what a power cut left of them, is still
    // whole.
    if (isPhysariumError(error, "IO_NOT_FOUND") || isNoJson(error)) return [];
    throw error;
  }
}

function isNoJson(error: unknown): boolean {
  return isPhysariumError(error, "VERIFY_RUNS") && error.cause !== undefined;
}

export async function writeRuns(
  folder: string,
  runs: readonly RunEntry[],
  files: FileLayer = nodeFiles,
): Promise<void> {
  const text = runs.map((run) => `${JSON.stringify(run)}\n`).join("");
  await writeSmallFile(join(folder, RECORD_FOLDER, RUNS_FILE), text, files);
}
