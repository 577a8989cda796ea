import { basename, resolve } from "node:path";
import { type Command, InvalidArgumentError } from "commander";
import { isPhysariumError, jsonLine, PhysariumError, printable } from "../errors.js";
import { readComparison } from "../record/comparison-schema.js";
import { readDocuments, readReport } from "../record/open-record.js";
import type { ReportInput } from "../record/report-input.js";
import { isSameText } from "../report/curve-section.js";
import { writeDocuments } from "../report/documents.js";
import { renderHtml, renderMarkdown } from "../report/index.js";
import { renderRuns, renderRunsHtml } from "../report/runs.js";
import { folderArgument } from "./model-argument.js";
import { endOnSignal } from "./stop-signal.js";

type Format = "md" | "html" | "json";

interface Flags {
  format?: Format;
  compare?: string;
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
    .option("--compare <folder>", "what physarium compare --out kept of the donor: its curves, this run as a point")
    .option("--format <name>", "print md, html or json instead of writing the files anew", toFormat)
    .addHelpText(
      "after",
      `
Examples:
  physarium report ./operated                       write REPORT.md, report.html, surgery.json, run.log again
  physarium report ./operated --format md | less
  physarium report ./operated --compare ./comparison   draw the operation into the curves of physarium compare
  physarium report ./a ./b ./c                      one table of three runs
  physarium report ./a ./b ./c --format html > runs.html`,
    )
    .action(async (outputs: string[], flags: Flags) => {
      const { whole } = endOnSignal("the report is as it was");
      const folders = await Promise.all(outputs.map(async (each) => resolve(await folderArgument(each, {}))));
      const reports: ReportInput[] = [];
      for (const folder of folders) reports.push(await fromLedger(folder));
      if (flags.compare !== undefined) await addComparison(reports, resolve(flags.compare));
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

/**
 * Put a comparison into a report. Throws `USAGE_COMPARISON` where it is of another donor, as its name or the donor's
 * perplexity on the same predictions says.
 */
async function addComparison(reports: ReportInput[], path: string): Promise<void> {
  const [report, ...others] = reports;
  if (others.length > 0) {
    throw new PhysariumError("USAGE_ARGUMENT", "--compare draws one operation into the curves; give one output");
  }
  const record = await readComparison(path);
  const refuse = (why: string): PhysariumError =>
    new PhysariumError("USAGE_COMPARISON", `${path}: ${why}; compare the methods on this output's own donor`, { path });
  if (record.donor !== report.donor.name) {
    throw refuse(`it compares methods on ${record.donor}, and ${report.output.path} was made of ${report.donor.name}`);
  }
  const { METHODS } = await import("../methods/registry.js");
  const titles = new Map(METHODS.map(({ name, title }) => [name as string, title]));
  const measured = report.quality?.donor?.perplexity;
  if (
    measured !== undefined &&
    isSameText(report, record) &&
    Math.abs(Math.log(measured / record.dense.perplexity)) > 0.01
  ) {
    const words = `${record.dense.perplexity} there, ${measured} in ${report.output.path}`;
    throw refuse(`the donor's perplexity on ${record.text} is ${words}, so it is another model of that name`);
  }
  const rows = record.rows.map((row) => {
    const { method, then, trained, distil_steps, sparsity, pattern, sparsity_reached, perplexity, damage, kl_mean } =
      row;
    const title = titles.get(method);
    const kept = { method, title, then, trained, distil_steps, sparsity, pattern };
    const said = Object.fromEntries(Object.entries(kept).filter(([, value]) => value !== undefined));
    return { ...said, sparsity_reached, perplexity, damage, kl_mean } as typeof row;
  });
  const { donor, text, protocol, dense } = record;
  const { name, window, windows, tokens } = protocol;
  const comparison = {
    ...{
      donor,
      text: basename(text),
      protocol: { name, window, windows, tokens },
      dense: { perplexity: dense.perplexity },
    },
    rows,
  };
  reports[0] = { ...report, comparison };
}

function toFormat(text: string): Format {
  if (text === "md" || text === "html" || text === "json") return text;
  throw new InvalidArgumentError("Expected md, html or json.");
}
