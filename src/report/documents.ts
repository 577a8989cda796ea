import { join } from "node:path";
import { type FileLayer, nodeFiles, readSmallFile } from "../checkpoint/file-layer.js";
import { PhysariumError } from "../errors.js";
import { exists, writeSmallFile } from "../output/staged-folder.js";
import { LEDGER_FILE, parseLedger, RECORD_FOLDER } from "../record/ledger.js";
import type { SurgeryReport } from "../record/surgery-report.js";
import { type ReportInput, renderHtml, renderMarkdown } from "./index.js";
import { renderRunLog } from "./run-log.js";

/**
 * The documents of an output's `physarium/` folder: what stands beside the ledger for people. Wiring between the rooms that
 * compute (surgery, audit, probe, pack) and the one that renders.
 */
export function renderDocuments(report: SurgeryReport, ledgerText: string): Record<string, string> {
  return {
    "REPORT.md": renderMarkdown(report),
    "report.html": renderHtml(report),
    "run.log": renderRunLog(ledgerText),
  };
}

/** Was this folder written by surgery? */
export function isOperated(path: string, files: FileLayer = nodeFiles): Promise<boolean> {
  return exists(join(path, RECORD_FOLDER, SURGERY_JSON), files);
}

const SURGERY_JSON = "surgery.json";

/** The numbers of a finished output as they stand in `surgery.json`, sections that came later included. */
export async function readDocuments(outputPath: string, files: FileLayer = nodeFiles): Promise<ReportInput> {
  const path = join(outputPath, RECORD_FOLDER, SURGERY_JSON);
  try {
    return JSON.parse(
      new TextDecoder().decode(await readSmallFile(path, files, Number.MAX_SAFE_INTEGER)),
    ) as ReportInput;
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    throw new PhysariumError(
      "VERIFY_REPORT",
      `${path}: it is no JSON (${error.message}); render it again with physarium report`,
      { path },
    );
  }
}

/** Add sections (integrity, quality, worth) to a finished output's numbers and render its documents again. */
export async function addSections(
  outputPath: string,
  sections: Partial<ReportInput>,
  files: FileLayer = nodeFiles,
): Promise<ReportInput> {
  return writeDocuments(outputPath, { ...(await readDocuments(outputPath, files)), ...sections }, files);
}

export async function writeDocuments(
  outputPath: string,
  report: ReportInput,
  files: FileLayer = nodeFiles,
): Promise<ReportInput> {
  const folder = join(outputPath, RECORD_FOLDER);
  const ledgerPath = join(folder, LEDGER_FILE);
  const ledgerBytes = await readSmallFile(ledgerPath, files, Number.MAX_SAFE_INTEGER);
  parseLedger(ledgerBytes, ledgerPath);
  await writeSmallFile(join(folder, SURGERY_JSON), `${JSON.stringify(report, null, 1)}\n`, files);
  for (const [name, content] of Object.entries(renderDocuments(report, new TextDecoder().decode(ledgerBytes)))) {
    await writeSmallFile(join(folder, name), content, files);
  }
  return report;
}
