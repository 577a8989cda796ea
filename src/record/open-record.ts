import { join } from "node:path";
import { type FileLayer, nodeFiles, readSmallFile } from "../checkpoint/file-layer.js";
import { isPhysariumError, PhysariumError } from "../errors.js";
import { exists } from "../output/place.js";
import { writeSmallFile } from "../output/small-file.js";
import { LEDGER_FILE, type Ledger, RECORD_FOLDER } from "./ledger.js";
import { readJson } from "./read-json.js";
import { parseLedger, readLedger, readLedgerBytes } from "./read-ledger.js";
import type { ReportInput } from "./report-input.js";
import { ReportSchema } from "./report-schema.js";
import { readRuns } from "./run-history.js";
import { summarise } from "./summarise.js";
import type { SurgeryReport } from "./surgery-report.js";

/** The files of an output's `physarium/` folder. */
export const RECORD_FILES = {
  ledger: LEDGER_FILE,
  /** Every number, and what was measured later. */
  numbers: "surgery.json",
  runs: "runs.jsonl",
  markdown: "REPORT.md",
  html: "report.html",
  log: "run.log",
  /** Where the output was signed. */
  signature: "ledger.sig.json",
} as const;

/** Where a file of the record stands in an output. */
export function recordPath(outputPath: string, file: keyof typeof RECORD_FILES): string {
  return join(outputPath, RECORD_FOLDER, RECORD_FILES[file]);
}

/** Was this folder written by surgery, to its end? */
export function isOperated(path: string, files: FileLayer = nodeFiles): Promise<boolean> {
  return exists(recordPath(path, "numbers"), files);
}

/** The ledger of an output. Throws `VERIFY_OUTPUT` where there is none and `VERIFY_LEDGER` where it cannot be one. */
export async function openLedger(outputPath: string, files: FileLayer = nodeFiles): Promise<Ledger> {
  const path = recordPath(outputPath, "ledger");
  const ledger = await readLedger(path, files);
  if (ledger !== undefined) return ledger;
  throw new PhysariumError(
    "VERIFY_OUTPUT",
    `${path}: there is no ledger, so this is no output of physarium surgery (or an unfinished one); give the ` +
      "output's folder",
    { path },
  );
}

/** A ledger with the text it was read from, as the documents are made of it. */
export async function readLedgerText(
  outputPath: string,
  files: FileLayer = nodeFiles,
): Promise<{ readonly ledger: Ledger; readonly text: string }> {
  const path = recordPath(outputPath, "ledger");
  const bytes = await readLedgerBytes(path, files);
  return { ledger: parseLedger(bytes, path)!, text: new TextDecoder().decode(bytes) };
}

/**
 * All numbers of a finished output, from its ledger. Throws `VERIFY_LEDGER` where it is missing, unfinished or damaged.
 */
export async function readReport(outputPath: string, files: FileLayer = nodeFiles): Promise<SurgeryReport> {
  const path = recordPath(outputPath, "ledger");
  const ledger = await readLedger(path, files);
  if (ledger?.finished === undefined) {
    throw new PhysariumError(
      "VERIFY_LEDGER",
      `${path}: the ledger is ${ledger === undefined ? "missing or empty" : "unfinished"}; expected that of a ` +
        "finished operation",
      { path },
    );
  }
  return summarise(ledger, await readRuns(outputPath, files), outputPath);
}

/**
 * The numbers of a finished output as they stand in `surgery.json`, sections that came later included. Throws
 * `VERIFY_REPORT` where that is not what it holds.
 */
export async function readDocuments(outputPath: string, files: FileLayer = nodeFiles): Promise<ReportInput> {
  const path = recordPath(outputPath, "numbers");
  const refuse = (fault: string, cause?: unknown) =>
    new PhysariumError(
      "VERIFY_REPORT",
      `${path}: ${fault}; the file was edited or damaged, render it again with physarium report`,
      { path },
      cause,
    );
  let bytes: Uint8Array;
  try {
    bytes = await readSmallFile(path, files, MAX_NUMBERS_BYTES);
  } catch (error) {
    if (isPhysariumError(error, "DONOR_")) throw refuse("no regular file, or larger than one can be", error);
    throw error;
  }
  return readJson(bytes, ReportSchema, refuse);
}

/** As with the ledger, the longest string there is. */
const MAX_NUMBERS_BYTES = 2 ** 29 - 24;

/** Write files of the record anew: each is whole, old or new, at any time. */
export async function writeRecord(
  outputPath: string,
  contents: Readonly<Partial<Record<keyof typeof RECORD_FILES, string>>>,
  files: FileLayer = nodeFiles,
): Promise<void> {
  for (const [file, content] of Object.entries(contents) as [keyof typeof RECORD_FILES, string][]) {
    await writeSmallFile(recordPath(outputPath, file), content, files);
  }
}
