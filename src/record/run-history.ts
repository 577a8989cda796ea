import { join } from "node:path";
import { type FileLayer, nodeFiles, readSmallFile } from "../checkpoint/file-layer.js";
import { isPhysariumError } from "../errors.js";
import { writeSmallFile } from "../output/staged-folder.js";
import { RECORD_FOLDER } from "./ledger.js";

/** One run of an operation: the first, or one that resumed it. What differs from run to run is kept out of the ledger. */
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

export async function readRuns(folder: string, files: FileLayer = nodeFiles): Promise<RunEntry[]> {
  try {
    const text = new TextDecoder().decode(await readSmallFile(join(folder, RECORD_FOLDER, RUNS_FILE), files));
    return text
      .split("\n")
      .filter((line) => line !== "")
      .map((line) => JSON.parse(line) as RunEntry);
  } catch (error) {
    // Only times and memory stand there; an operation without them is still whole.
    if (isPhysariumError(error, "IO_NOT_FOUND") || error instanceof SyntaxError) return [];
    throw error;
  }
}

export async function writeRuns(
  folder: string,
  runs: readonly RunEntry[],
  files: FileLayer = nodeFiles,
): Promise<void> {
  const text = runs.map((run) => `${JSON.stringify(run)}\n`).join("");
  await writeSmallFile(join(folder, RECORD_FOLDER, RUNS_FILE), text, files);
}
