import { type DonorCard, renewCard } from "../record/card.js";
import { readDocuments, readLedgerText, writeRecord } from "../record/open-record.js";
import type { ReportInput } from "../record/report-input.js";
import type { SurgeryReport } from "../record/surgery-report.js";
import { renderMarkdown } from "./markdown.js";
import { renderModelCard } from "./model-card.js";
import { renderRunLog } from "./run-log.js";

/** The documents of an output's `physarium/` folder: what stands beside the ledger for people. */
export async function renderDocuments(report: SurgeryReport, ledgerText: string): Promise<Record<string, string>> {
  const { renderHtml } = await loadPage();
  return {
    "REPORT.md": renderMarkdown(report),
    "report.html": renderHtml(report),
    "run.log": renderRunLog(ledgerText),
  };
}

/** The model card of a new output (`README.md`), for `operate` and `finishParts`. */
export function renderCard(report: SurgeryReport, donorCard: DonorCard | undefined): string {
  return renderModelCard(report, { donorCard });
}

/**
 * What draws the page: libraries that take longer to load than most commands run. Who will need it soon may call this
 * while something else is waited for.
 */
export function loadPage(): Promise<typeof import("./html.js")> {
  return import("./html.js");
}

/**
 * Add sections (integrity, quality, worth) to a finished output's numbers and render its documents again; with what was
 * measured comes a new model card, where the output has one of ours. Throws `VERIFY_LEDGER`, `VERIFY_REPORT`.
 */
export async function addSections(outputPath: string, sections: Partial<ReportInput>): Promise<ReportInput> {
  const report = { ...(await readDocuments(outputPath)), ...sections };
  if (sections.quality != null) await renewCard(outputPath, (donorCard) => renderCard(report, donorCard));
  return writeDocuments(outputPath, report);
}

/** Write a report and its documents into a finished output. */
export async function writeDocuments(outputPath: string, report: ReportInput): Promise<ReportInput> {
  const { text } = await readLedgerText(outputPath);
  const { renderHtml } = await loadPage();
  await writeRecord(outputPath, {
    numbers: `${JSON.stringify(report, null, 1)}\n`,
    markdown: renderMarkdown(report),
    html: renderHtml(report),
    log: renderRunLog(text),
  });
  return report;
}
