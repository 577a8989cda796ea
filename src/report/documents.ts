import { readDocuments, readLedgerText, writeRecord } from "../record/open-record.js";
import type { ReportInput } from "../record/report-input.js";
import type { SurgeryReport } from "../record/surgery-report.js";
import { renderHtml, renderMarkdown } from "./index.js";
import { renderRunLog } from "./run-log.js";

/** The documents of an output's `physarium/` folder: what stands beside the ledger for people. */
export function renderDocuments(report: SurgeryReport, ledgerText: string): Record<string, string> {
  return {
    "REPORT.md": renderMarkdown(report),
    "report.html": renderHtml(report),
    "run.log": renderRunLog(ledgerText),
  };
}

/**
 * Add sections (integrity, quality, worth) to a finished output's numbers and render its documents again. Throws
 * `VERIFY_LEDGER`, `VERIFY_REPORT`.
 */
export async function addSections(outputPath: string, sections: Partial<ReportInput>): Promise<ReportInput> {
  return writeDocuments(outputPath, { ...(await readDocuments(outputPath)), ...sections });
}

/** Write a report and its documents into a finished output. */
export async function writeDocuments(outputPath: string, report: ReportInput): Promise<ReportInput> {
  const { text } = await readLedgerText(outputPath);
  await writeRecord(outputPath, {
    numbers: `${JSON.stringify(report, null, 1)}\n`,
    markdown: renderMarkdown(report),
    html: renderHtml(report),
    log: renderRunLog(text),
  });
  return report;
}
