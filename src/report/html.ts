import type { ReportInput } from "../record/report-input.js";
import { sparsityCurve } from "./curve-section.js";
import { layerDamage } from "./damage-section.js";
import { escapeHtml } from "./escape-html.js";
import { type LayerGrid, layerGrid, shortProjection, zerosOf } from "./layer-grid.js";
import { count, percent, percentRange, share } from "./number-words.js";
import { headHtml } from "./page.js";
import { curvePlot } from "./pictures/curve.js";
import { layerDamageBars } from "./pictures/damage.js";
import { depthPanels } from "./pictures/depth.js";
import { distribution } from "./pictures/distribution.js";
import { drives } from "./pictures/drives.js";
import { formatSizes } from "./pictures/formats.js";
import { hostsTimeline } from "./pictures/hosts.js";
import { layerMap } from "./pictures/layer-map.js";
import { divergence, nllCurve } from "./pictures/quality.js";
import { stageErrors } from "./pictures/stages.js";
import { tileMaps } from "./pictures/tile-map.js";
import { timeline } from "./pictures/timeline.js";
import { MAX_TUBES, veins } from "./pictures/veins.js";
import { remarksOf } from "./remarks.js";
import {
  type Block,
  foreign,
  type Picture,
  type PictureName,
  type Piece,
  plain,
  type Section,
  type Table,
  type Text,
} from "./report-text.js";
import { reportDocument } from "./sections.js";
import { SORT_SCRIPT } from "./sortable.js";

/**
 * report.html: one file without anything from a network, and with no script but the one that sorts its tables; a
 * content security policy in it holds it to both. Light, dark and print; readable by keyboard; every picture has a text
 * alternative and its numbers in a table.
 */
export function renderHtml(report: ReportInput): string {
  const grid = layerGrid(report.per_tensor);
  const remarks = remarksOf(report, grid);
  const { donorName, lede, sections } = reportDocument(report, grid, remarks);
  const draw: Record<PictureName, () => string> = {
    "layer-map": () => layerMap(grid),
    depth: () => depthPanels(grid, remarks),
    distribution: () => distribution(report.per_tensor),
    drives: () => drives(report.figures?.drive_histogram),
    curve: () => curvePlot(sparsityCurve(report)),
    damage: () => layerDamageBars(layerDamage(report)),
    stages: () => stageErrors(report.activation),
    tiles: () => tileMaps(report.figures?.tile_maps ?? []),
    timeline: () => timeline(report.shards),
    hosts: () => (report.parts == null ? "" : hostsTimeline(report.parts)),
    nll: () => (report.quality == null ? "" : nllCurve(report.quality)),
    divergence: () => (report.quality == null ? "" : divergence(report.quality)),
    formats: () => (report.worth == null ? "" : formatSizes(report.worth)),
  };
  const name = html(foreign(donorName));
  const contents = sections.map(({ id, title }) => `<li><a href="#${id}">${escapeHtml(title)}</a></li>`).join("");
  const tubes = veins(grid);
  return `<!doctype html>
<html lang="en">
<head>
${headHtml(`${plain([foreign(donorName)])} · Physarium surgery report`)}
</head>
<body>
<a class="skip" href="#main">Skip to the report</a>
<header class="masthead">
<p class="kicker"><b>Physarium</b> <span>surgery report</span></p>
<h1>${name}</h1>
<p class="lede">${htmlText(lede)}</p>
${tubes === "" ? "" : `<figure class="hero">${tubes}<figcaption>${veinsCaption(grid)}</figcaption></figure>`}
${denominators(report)}
${keyFigures(report)}
</header>
<div class="page">
<nav class="contents" aria-label="Contents"><p>Contents</p><ol>${contents}</ol></nav>
<main id="main" tabindex="-1">
${sections.map((section) => sectionHtml(section, draw)).join("\n")}
</main>
</div>
<footer><p>Written by physarium ${html(foreign(report.physarium_version))} from <code>physarium/surgery.json</code>,
which has every number unrounded. Rates in this report name their denominator; GB are 10⁹ bytes.
This file loads nothing from a network.</p></footer>
<script>${SORT_SCRIPT}</script>
</body>
</html>
`;
}

function sectionHtml({ id, title, blocks }: Section, draw: Record<PictureName, () => string>): string {
  const body = blocks.map((block) => blockHtml(block, id, title, draw)).join("\n");
  return (
    `<section id="${id}" aria-labelledby="${id}-title"><h2 id="${id}-title"><a ` +
    `href="#${id}">${escapeHtml(title)}</a></h2>\n${body}\n</section>`
  );
}

function blockHtml(block: Block, section: string, title: string, draw: Record<PictureName, () => string>): string {
  switch (block.kind) {
    case "paragraph":
      return `<p>${htmlText(block.text)}</p>`;
    case "list":
      return `<ul class="${block.items.some(({ mark }) => mark) ? "marks" : "remarks"}">${block.items
        .map(({ mark, text }) => {
          if (mark === undefined) return `<li>${htmlText(text)}</li>`;
          const word = mark === "good" ? "Holds" : "Note";
          return `<li class="${mark}"><span class="mark">${word}</span><span>${htmlText(text)}</span></li>`;
        })
        .join("")}</ul>`;
    case "lines":
      return block.markdownOnly
        ? ""
        : `<div class="scroll" role="region" aria-label="${escapeHtml(block.label)}" ` +
            `tabindex="0"><pre>${escapeHtml(block.lines.join("\n"))}</pre></div>`;
    case "table":
      return tableHtml(block, section, title);
    case "picture":
      return pictureHtml(block, draw[block.picture]());
  }
}

function pictureHtml({ title, caption }: Picture, drawing: string): string {
  if (drawing === "") return "";
  return (
    `<figure class="picture"><h3>${escapeHtml(title)}</h3><div class="scroll" role="region" ` +
    `aria-label="${escapeHtml(`${title} (picture)`)}" ` +
    `tabindex="0">${drawing}</div><figcaption>${htmlText(caption)}</figcaption></figure>`
  );
}

function tableHtml(table: Table, section: string, title: string): string {
  const { caption, columns, rows, note, folded } = table;
  const side = (i: number) => (columns[i]?.numeric ? ` class="n"` : "");
  const head = columns.map(({ name }, i) => `<th scope="col"${side(i)}>${html(foreign(name))}</th>`).join("");
  const cellHtml = (cell: Parameters<typeof htmlText>[0], i: number) =>
    i === 0 ? `<th scope="row"${side(i)}>${htmlText(cell)}</th>` : `<td${side(i)}>${htmlText(cell)}</td>`;
  const body = rows.map((row) => `<tr>${row.map(cellHtml).join("")}</tr>`).join("");
  const long = rows.length > 40 ? " tall" : "";
  const label = escapeHtml(`${caption} (table)`);
  const hidden = folded || caption === title ? ` class="hidden"` : "";
  const sortable = rows.length > 12 ? ` class="sortable"` : "";
  const under = note === undefined ? "" : `<p class="note">${htmlText(note)}</p>`;
  const whole =
    `<div class="scroll${long}" role="region" aria-label="${label}" ` +
    `tabindex="0"><table${sortable}><caption${hidden}>${escapeHtml(caption)}</caption>` +
    `<thead><tr>${head}</tr></thead><tbody>${body}</tbody></table></div>${under}`;
  return folded
    ? "<details " +
        `class="in-${section}${table.htmlOnly ? " behind-picture" : ""}">` +
        `<summary>${escapeHtml(caption)}</summary>${whole}</details>`
    : whole;
}

function veinsCaption(grid: LayerGrid): string {
  const named = grid.projections.slice(0, MAX_TUBES).map((projection) => escapeHtml(shortProjection(projection)));
  return (
    `From the first layer to the last, a tube each for ${named.join(", ")}. Pale is what the donor had, solid what ` +
    "lives."
  );
}

/** One bar, two denominators: the model, within it the targets, within them what was killed. */
function denominators(report: ReportInput): string {
  const { model_weights: model, target_weights: target, killed } = report.totals;
  const zeros = zerosOf(report.per_tensor);
  if (!(model > 0)) return "";
  const parts: [kind: string, label: string, weights: number][] = [
    ["killed", "killed", killed],
    ["was-zero", "zero before and still", Math.max(0, zeros - killed)],
    ["alive", "alive in the targets", Math.max(0, target - zeros)],
    ["carried", "carried over untouched", Math.max(0, model - target)],
  ];
  const shown = parts.filter(([, , weights]) => weights > 0);
  const bars = shown
    .map(([kind, , weights]) => `<i class="${kind}" style="flex-grow:${((weights / model) * 1000).toFixed(3)}"></i>`)
    .join("");
  const legend = shown
    .map(
      ([kind, label, weights]) =>
        `<li><i class="key ${kind}" aria-hidden="true"></i>${label}: ${count(weights)} <span ` +
        `class="of">${percent(weights / model)} of the model</span></li>`,
    )
    .join("");
  return (
    `<figure class="denominators"><div class="bar" ` +
    `aria-hidden="true">${bars}</div><figcaption><ul>${legend}</ul></figcaption></figure>`
  );
}

function keyFigures(report: ReportInput): string {
  const { totals, integrity, quality, coverage } = report;
  const passed = integrity?.checks.filter(({ ok }) => ok).length ?? 0;
  const figures: [term: string, value: string, detail: string][] = [
    [
      "Killed, of the targets",
      percent(share(totals.killed, totals.target_weights)),
      `${count(totals.killed)} of ${count(totals.target_weights)}`,
    ],
    [
      "Killed, of the full model",
      percent(share(totals.killed, totals.model_weights)),
      `${count(totals.killed)} of ${count(totals.model_weights)}`,
    ],
    [
      "Sparsity of a tensor",
      percentRange(totals.min_sparsity, totals.max_sparsity),
      `mean ${percent(totals.mean_sparsity)}, ${count(totals.tensors)} tensors`,
    ],
    integrity == null
      ? ["Verified", "not yet", `coverage in the run ${percent(coverage.fraction)} of the targets`]
      : [
          "Verified",
          integrity.ok ? "yes" : "failed",
          `${passed} of ${integrity.checks.length} checks, coverage ${percent(coverage.fraction)} of the targets`,
        ],
    quality == null
      ? ["Quality", "untested", "no forward pass was run"]
      : quality.divergence === null
        ? ["Perplexity", quality.model.perplexity.toFixed(2), "without the donor beside it"]
        : [
            "Perplexity",
            `× ${quality.divergence.perplexity_ratio.toFixed(3)}`,
            `${quality.model.perplexity.toFixed(2)} against the donor's ${quality.donor?.perplexity.toFixed(2) ?? "–"}`,
          ],
  ];
  return `<dl class="keys">${figures
    .map(
      ([term, value, detail]) =>
        `<div><dt>${term}</dt><dd>${htmlString(value)}<small>${htmlString(detail)}</small></dd></div>`,
    )
    .join("")}</dl>`;
}

function htmlText(text: Text): string {
  return text.map(html).join("");
}

function html(piece: Piece): string {
  if (typeof piece === "string") return htmlString(piece);
  if ("strong" in piece) return `<strong>${htmlString(piece.strong)}</strong>`;
  if ("command" in piece) return commandHtml(piece.command);
  if ("code" in piece) return `<code>${escapeHtml(piece.code).replace(/([._/-])(?=\w)/g, "$1<wbr>")}</code>`;
  return escapeHtml(piece.foreign);
}

/** A command may wrap at its spaces, but an option is never torn from its dashes. */
function commandHtml(command: string): string {
  const words = command.split(" ").map((word) => {
    const text = escapeHtml(word);
    return word.startsWith("-") ? `<span class="nb">${text}</span>` : text;
  });
  return `<code class="command">${words.join(" ")}</code>`;
}

/**
 * Our own words: a number stays with its unit at the end of a line, and check marks are words for those who hear them.
 */
function htmlString(text: string): string {
  return escapeHtml(text)
    .replace(/(\d) (%|GB|MB|kB|TB|s\b|min\b|bytes)/g, "$1\u00a0$2")
    .replace(/✅ (\w+)/g, `<span class="pass">$1</span>`)
    .replace(/❌ (\w+)/g, `<span class="fail">$1</span>`);
}
