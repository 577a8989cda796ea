import { resolve } from "node:path";
import { type Command, InvalidArgumentError } from "commander";
import { isPhysariumError, jsonLine, PhysariumError, printable } from "../errors.js";
import { readDocuments, readReport } from "../record/open-record.js";
import type { ReportInput } from "../record/report-input.js";
import { writeDocuments } from "../report/documents.js";
import { renderHtml, renderMarkdown } from "../report/index.js";
import { renderRuns, renderRunsHtml } from "../report/runs.js";
import { folderArgument } from "./model-argument.js";
import { endOnSignal } from "./stop-signal.js";

type Format = "md" | "html" | "json";

interface Flags {
  format?: Format;
  json?: boolean;
  quiet?: boolean;
}

const WRITTEN = ["REPORT.md", "report.html", "surgery.json", "run.log"];

/** `physarium report <outputs...>` */
export function registerReport(program: Command): void {
  program
    .command("report")
    .description("render an output's report again from its ledger; of several outputs, show them side by side")
    .argument("<outputs...>", "folders that surgery wrote")
    .option("--format <name>", "print md, html or json instead of writing the files anew", toFormat)
    .addHelpText(
      "after",
      `
Examples:
  physarium report ./operated                       write REPORT.md, report.html, surgery.json, run.log again
  physarium report ./operated --format md | less
  physarium report ./a ./b ./c                      one table of three runs
  physarium report ./a ./b ./c --format html > runs.html`,
    )
    .action(async (outputs: string[], flags: Flags) => {
      const { whole } = endOnSignal("the report is as it was");
      const folders = await Promise.all(outputs.map(async (each) => resolve(await folderArgument(each, {}))));
      const reports: ReportInput[] = [];
      for (const folder of folders) reports.push(await fromLedger(folder));
      const [folder] = folders;
      const [report] = reports;
      const print = (text: string): boolean => process.stdout.write(text);
      if (reports.length > 1) {
        if (flags.json || flags.format === "json") print(jsonLine({ runs: reports }));
        else print(flags.format === "html" ? renderRunsHtml(reports) : renderRuns(reports));
      } else if (report === undefined) {
        throw new PhysariumError("USAGE_ARGUMENT", "expected a folder that surgery wrote; see physarium report --help");
      } else if (flags.format === "md") print(renderMarkdown(report));
      else if (flags.format === "html") print(renderHtml(report));
      else if (flags.format === "json") print(`${printable(JSON.stringify(report, null, 1), true)}\n`);
      else {
        await whole(() => writeDocuments(folder, report));
        if (flags.json) print(jsonLine({ output: folder, files: WRITTEN, report }));
        else if (!flags.quiet) {
          const files = `${WRITTEN.slice(0, -1).join(", ")} and ${WRITTEN.at(-1)}`;
          print(`${printable(folder)}/physarium: ${files} are written again\n`);
        }
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
