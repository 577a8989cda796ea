import { resolve } from "node:path";
import { type Command, InvalidArgumentError } from "commander";
import { isPhysariumError, printable } from "../errors.js";
import { readDocuments, readReport } from "../record/open-record.js";
import type { ReportInput } from "../record/report-input.js";
import { writeDocuments } from "../report/documents.js";
import { renderHtml, renderMarkdown } from "../report/index.js";
import { folderArgument } from "./model-argument.js";
import { endOnSignal } from "./stop-signal.js";

type Format = "md" | "html" | "json";

/** `physarium report <output>` */
export function registerReport(program: Command): void {
  program
    .command("report")
    .description("render an output's report again from its ledger")
    .argument("<output>", "folder that surgery wrote")
    .option("--format <name>", "print md, html or json instead of writing the files anew", toFormat)
    .addHelpText(
      "after",
      `
Examples:
  physarium report ./operated                       write REPORT.md, report.html, surgery.json, run.log again
  physarium report ./operated --format md | less`,
    )
    .action(async (output: string, flags: { format?: Format }) => {
      const { whole } = endOnSignal("the report is as it was");
      const folder = resolve(await folderArgument(output, {}));
      const report = await fromLedger(folder);
      if (flags.format === "md") process.stdout.write(renderMarkdown(report));
      else if (flags.format === "html") process.stdout.write(renderHtml(report));
      else if (flags.format === "json") process.stdout.write(`${printable(JSON.stringify(report, null, 1), true)}\n`);
      else {
        await whole(() => writeDocuments(folder, report));
        process.stdout.write(
          `${printable(folder)}/physarium: REPORT.md, report.html, surgery.json and run.log are written again\n`,
        );
      }
    });
}

/** The operation's numbers come from the ledger; what was measured later stands only in surgery.json and is kept. */
async function fromLedger(folder: string): Promise<ReportInput> {
  const report = await readReport(folder);
  try {
    return { ...(await readDocuments(folder)), ...report };
  } catch (error) {
    if (isPhysariumError(error)) return report;
    throw error;
  }
}

function toFormat(text: string): Format {
  if (text === "md" || text === "html" || text === "json") return text;
  throw new InvalidArgumentError("Expected md, html or json.");
}
