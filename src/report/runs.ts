import type { ReportInput } from "../record/report-input.js";
import { escapeHtml } from "./escape-html.js";
import { byteSize, duration, fixed, percent, share, significant } from "./number-words.js";
import { pageHtml } from "./page.js";
import { foreign, plain } from "./report-text.js";
import { verdictIn } from "./verdict-section.js";

const HEADS = [
  ...["Run", "Flow", "Killed of targets", "Killed of model", "Zeros of a tensor", "Verified", "Verdict"],
  ...["Perplexity ratio", "Mean KL", "Same top token", "Measured on", "Packed", "Time"],
] as const;

/** Runs side by side as Markdown: one row each, in the order given. */
export function renderRuns(reports: readonly ReportInput[]): string {
  const line = (cells: readonly string[]): string =>
    `| ${cells.map((cell) => cell.replaceAll("|", "\\|")).join(" | ")} |`;
  const rule = `|${HEADS.map(() => "---").join("|")}|`;
  return `${[line(HEADS), rule, ...reports.map((report) => line(rowOf(report)))].join("\n")}\n`;
}

/** The same as a page. */
export function renderRunsHtml(reports: readonly ReportInput[]): string {
  const head = HEADS.map((name) => `<th scope="col">${name}</th>`).join("");
  const rows = reports.map((report) => {
    const [name, ...cells] = rowOf(report).map(escapeHtml);
    return `<tr><th scope="row">${name}</th>${cells.map((cell) => `<td>${cell}</td>`).join("")}</tr>`;
  });
  return pageHtml({
    title: "Runs side by side",
    kicker: "surgery reports",
    body:
      `<section><div class="scroll" role="region" aria-label="Runs" tabindex="0"><table class="sortable">` +
      `<thead><tr>${head}</tr></thead><tbody>${rows.join("")}</tbody></table></div></section>`,
  });
}

function rowOf(report: ReportInput): string[] {
  const { totals, integrity, quality, worth, flow, flow_version, output } = report;
  const divergence = quality?.divergence;
  return [
    plain([foreign(output.path)]),
    plain([foreign(`${flow} ${flow_version}`)]),
    percent(share(totals.killed, totals.target_weights)),
    percent(share(totals.killed, totals.model_weights)),
    `${percent(totals.min_sparsity)} to ${percent(totals.max_sparsity)}`,
    integrity == null ? "not yet" : integrity.ok ? "yes" : "NO",
    verdictIn(report)?.word ?? "not measured",
    divergence == null ? "–" : `${fixed(divergence.perplexity_ratio, 4)}`,
    divergence == null ? "–" : significant(divergence.kl_mean, 3),
    divergence == null ? "–" : percent(divergence.same_top),
    quality == null ? "–" : plain([foreign(quality.text.name)]),
    worth == null ? "–" : byteSize(worth.size_packed),
    duration(report.wall_seconds),
  ];
}
