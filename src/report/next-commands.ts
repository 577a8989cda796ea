import type { ReportInput } from "../record/report-input.js";
import { command, type Section, say, shellQuote, type Text } from "./report-text.js";

export interface NextCommand {
  readonly command: string;
  readonly why: string;
}

/** What to type next, the most needed first: what was not proven and not measured, then what to do with the model. */
export function nextCommands(report: ReportInput): NextCommand[] {
  const [donor, output] = [report.donor.path, report.output.path].map(shellQuote);
  const next: NextCommand[] = [];
  if (report.integrity == null) {
    next.push({ command: `physarium verify ${donor} ${output}`, why: "prove it, tensor by tensor" });
  }
  if (report.quality?.divergence == null) {
    next.push({ command: `physarium eval ${output} --text FILE --against ${donor}`, why: "what it cost, on a text" });
  }
  if (report.speech == null) {
    next.push({ command: `physarium gate ${output} --against ${donor}`, why: "does it still speak as the donor does" });
  }
  if (report.flow === "magnitude") {
    next.push({
      command: `physarium operate ${donor} ${shellQuote(`${report.output.path}-v2`)}`,
      why: "the same model by what a text drives through it (v2): less lost at the same zeros",
    });
  }
  next.push(
    { command: `physarium chat ${output}`, why: "talk with it" },
    { command: `physarium export ${output} ${fileOf(report)}.gguf --type q8_0`, why: "for llama.cpp and Ollama" },
    { command: `physarium pack ${output} ${shellQuote(`${report.output.path}-packed`)}`, why: "a lossless pack" },
  );
  return next;
}

function fileOf(report: ReportInput): string {
  const name = report.output.path.split(/[\\/]/).filter(Boolean).at(-1) ?? "operated";
  return shellQuote(name);
}

/** The section of the report: commands to copy. */
export function nextSection(report: ReportInput): Section {
  const items = nextCommands(report).map(({ command: line, why }): { text: Text } => ({
    text: say`${command(line)} ${why}`,
  }));
  return { id: "next", title: "Next commands", blocks: [{ kind: "list", items }] };
}
