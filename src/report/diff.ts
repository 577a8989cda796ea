import type { DiffRecord, TensorDiff } from "../record/diff.js";
import { escapeHtml } from "./escape-html.js";
import { byteSize, count, counted, percent, significant } from "./number-words.js";
import { pageHtml } from "./page.js";
import { clip, foreign, plain } from "./report-text.js";

/** The differing tensors shown in a terminal; `--json` and the page have all. */
const SHOWN = 40;

const COLUMNS = ["State", "Changed", "Zeros A", "Zeros B", "RMS", "Largest", "Relative"] as const;

/** The comparison for a terminal: totals, then what differs, the most changed first. */
export function renderDiff(diff: DiffRecord): string {
  const lines = [...sides(diff), ...totalLines(diff), ""];
  const differing = diff.tensors.filter(({ state }) => state !== "equal");
  const ordered = [...differing].sort((a, b) => (b.relative_error ?? Infinity) - (a.relative_error ?? Infinity));
  const rows = [["Tensor", ...COLUMNS], ...ordered.slice(0, SHOWN).map((tensor) => [nameOf(tensor), ...cells(tensor)])];
  if (ordered.length > 0) {
    const widths = rows[0].map((_, at) => Math.max(...rows.map((row) => row[at].length)));
    for (const row of rows) {
      const padded = row.map((cell, at) => (at < 2 ? cell.padEnd(widths[at]) : cell.padStart(widths[at])));
      lines.push(padded.join("  ").trimEnd());
    }
    const more = ordered.length - SHOWN;
    if (more > 0) lines.push(`… and ${counted(more, "tensor")} more; --json or --html has all`);
  }
  return `${lines.join("\n").trimEnd()}\n`;
}

/** The same as a page of its own, every tensor in a table that sorts and filters. */
export function renderDiffHtml(diff: DiffRecord): string {
  const head = ["Tensor", "Shape", ...COLUMNS].map((name) => `<th scope="col">${name}</th>`).join("");
  const rows = diff.tensors
    .map((tensor) => {
      const shape = (tensor.shape_b ?? tensor.shape_a ?? []).join(" × ");
      const numbers = cells(tensor).map((cell, at) => `<td${at === 0 ? "" : ` class="n"`}>${escapeHtml(cell)}</td>`);
      const name = `<th scope="row"><code>${escapeHtml(nameOf(tensor))}</code></th>`;
      return `<tr>${name}<td>${escapeHtml(shape)}</td>${numbers.join("")}</tr>`;
    })
    .join("");
  const list = [...sides(diff), ...totalLines(diff)].map((line) => `<li>${escapeHtml(line)}</li>`).join("");
  return pageHtml({
    title: "Two checkpoints compared",
    kicker: "checkpoint diff",
    body:
      `<section><ul class="remarks">${list}</ul></section><section><h2>Tensors</h2>` +
      `<div class="scroll tall" role="region" aria-label="Tensors" tabindex="0"><table class="sortable">` +
      `<thead><tr>${head}</tr></thead><tbody>${rows}</tbody></table></div></section>`,
  });
}

function sides({ a, b }: DiffRecord): string[] {
  return [a, b].map(
    ({ path, tensors, weights, bytes }, at) =>
      `${at === 0 ? "A" : "B"}  ${plain([foreign(path)])}: ${counted(tensors, "tensor")}, ` +
      `${count(weights)} weights, ${byteSize(bytes)}`,
  );
}

function totalLines({ totals, files, a, b }: DiffRecord): string[] {
  const { equal, changed, only_in_a, only_in_b, weights_changed, zeros_a, zeros_b, not_compared } = totals;
  const lines = [
    `tensors: ${count(equal)} equal, ${count(changed)} changed, ${count(only_in_a)} only in A, ` +
      `${count(only_in_b)} only in B` +
      (not_compared === 0 ? "" : ` (${count(not_compared)} of the changed in shape or dtype)`),
    `weights: ${count(weights_changed)} changed; zeros ${of(zeros_a, a.weights)} in A, ` +
      `${of(zeros_b, b.weights)} in B`,
  ];
  const other = files.filter(({ state }) => state !== "equal");
  lines.push(
    other.length === 0
      ? `files: ${counted(files.length, "side file")} equal`
      : `files: ${other.map(({ file, state }) => `${plain([foreign(file)])} ${state}`).join(", ")}`,
  );
  return lines;
}

/** `12 (0.50 %)` */
function of(part: number, whole: number): string {
  return `${count(part)} (${percent(whole === 0 ? 0 : part / whole)})`;
}

function cells(tensor: TensorDiff): string[] {
  const { weights, weights_changed, zeros_a, zeros_b, rms, max, relative_error } = tensor;
  const share = (part: number | null): string => (part === null ? "–" : percent(weights === 0 ? 0 : part / weights));
  const number = (value: number | null): string => (value === null ? "–" : value === 0 ? "0" : significant(value, 3));
  return [
    stateOf(tensor),
    share(weights_changed),
    share(zeros_a),
    share(zeros_b),
    ...[rms, max, relative_error].map(number),
  ];
}

function stateOf({ state, dtype_a, dtype_b, shape_a, shape_b }: TensorDiff): string {
  if (state === "another shape") return `shape ${shape_a?.join("×")} → ${shape_b?.join("×")}`;
  if (dtype_a !== null && dtype_b !== null && dtype_a !== dtype_b) return `${state}, ${dtype_a} → ${dtype_b}`;
  return state;
}

function nameOf({ name }: TensorDiff): string {
  return clip(plain([foreign(name)]), 80);
}
