import { printable } from "../errors.js";
import type { ComparisonRecord, ComparisonRow } from "../record/comparison.js";
import { byteSize, count, duration, fixed, percent } from "./number-words.js";

export interface ComparisonTitles {
  /** Method name → how it is written. */
  readonly [method: string]: string;
}

const HEADS = ["target", "method", "perplexity", "damage", "KL", "same top", "zeros", "time", "peak memory"];

/** How the method of a row is written, with what was done behind it. */
export function methodTitle(row: ComparisonRow, titles: ComparisonTitles): string {
  const { method, then, trained, distil_steps: steps } = row;
  const how = `${steps === undefined ? "" : ` in ${steps} steps`}${trained ? " (trained)" : ""}`;
  return `${titles[method] ?? method}${then === undefined ? "" : `, then ${then}${how}`}`;
}

/** The table of `physarium compare`, with what it was measured on above it. */
export function renderComparison(record: ComparisonRecord, titles: ComparisonTitles): string {
  const { protocol, calibration, dense } = record;
  const isMatched = record.rows.some(({ held_out_loss: loss }) => loss !== undefined);
  const heads = isMatched ? [...HEADS.slice(0, 6), "held-out error", ...HEADS.slice(6)] : HEADS;
  const rows = record.rows.map((row) => cells(row, titles, isMatched));
  return [
    `# Methods compared on ${cell(record.donor)}`,
    "",
    `Dense perplexity ${fixed(dense.perplexity, 3)}. Scored: ${count(dense.tokens)} predictions in ` +
      `${count(protocol.windows)} sequences of at most ${count(protocol.window)} tokens of ` +
      `${cell(baseName(record.text))} (${protocol.name}, BOS ${cell(protocol.bos ?? "none")}). Calibrated: ` +
      `${count(calibration.samples)} sequences, ${count(calibration.tokens)} tokens of ` +
      `${cell(baseName(calibration.text))}, seed ${calibration.seed}.${sharedWords(record)}`,
    "",
    "Damage is ln perplexity − ln dense perplexity; KL is the mean divergence from the donor in nats; time is " +
      `calibration and operation together.${isMatched ? MATCHED_WORDS : ""}`,
    "",
    line(heads),
    line(heads.map((_, at) => (at < 2 ? "---" : "---:"))),
    ...rows.map(line),
    "",
  ].join("\n");
}

function sharedWords({ calibration, protocol }: ComparisonRecord): string {
  const { scored_too: shared } = calibration;
  if (shared === undefined) return "";
  if (shared === 0) return " No scored sequence is one of those.";
  return (
    ` **${count(shared)} of the ${count(protocol.windows)} scored sequences were calibrated on, too: methods that ` +
    "calibrate look better here than they are.**"
  );
}

/** The same numbers unrounded, one line a row. */
export function comparisonCsv(record: ComparisonRecord): string {
  const fields = [
    "method",
    "then",
    "trained",
    "distil_steps",
    "sparsity",
    "pattern",
    "perplexity",
    "damage",
    "kl_mean",
    "same_top",
    "held_out_loss",
    "sparsity_reached",
    "seconds",
    "peak_rss_bytes",
  ] as const;
  const rows = record.rows.map((row) => fields.map((field) => row[field] ?? "").join(","));
  return `${fields.join(",")}\n${rows.join("\n")}\n`;
}

/** `50 %` or `2:4` */
export function targetOf(row: ComparisonRow): string {
  return row.pattern ?? `${Number((100 * (row.sparsity ?? 0)).toFixed(2))} %`;
}

const MATCHED_WORDS =
  " Held-out error is the mean over layers of |out − donor's|² / |donor's|² on calibration that nothing learnt from.";

function cells(row: ComparisonRow, titles: ComparisonTitles, isMatched: boolean): string[] {
  return [
    targetOf(row),
    cell(methodTitle(row, titles)),
    fixed(row.perplexity, row.perplexity < 100 ? 3 : 1),
    fixed(row.damage, 4),
    fixed(row.kl_mean, 4),
    percent(row.same_top, 1),
    ...(isMatched ? [row.held_out_loss === undefined ? "–" : fixed(row.held_out_loss, 5)] : []),
    percent(row.sparsity_reached),
    duration(row.seconds),
    byteSize(row.peak_rss_bytes),
  ];
}

function line(values: readonly string[]): string {
  return `| ${values.join(" | ")} |`;
}

/** Names come from folders and files: what Markdown would read is escaped. */
function cell(text: string): string {
  return printable(text).replace(/[\\`*_[\]<>|]/g, (character) => `\\${character}`);
}

function baseName(path: string): string {
  return path.split(/[\\/]/).at(-1) ?? path;
}
