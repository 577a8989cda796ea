import { printable } from "../errors.js";
import type { ComparisonRecord, ComparisonRow } from "../record/comparison.js";
import { byteSize, count, duration, fixed, percent } from "./number-words.js";

export interface ComparisonTitles {
  /** Method name → how it is written. */
  readonly [method: string]: string;
}

/** A column of the table; those without `isThere` always stand. */
interface Column {
  readonly head: string;
  readonly isThere?: (row: ComparisonRow) => boolean;
  readonly cell: (row: ComparisonRow) => string;
}

const COLUMNS: readonly Column[] = [
  { head: "perplexity", cell: (row) => fixed(row.perplexity, row.perplexity < 100 ? 3 : 1) },
  { head: "damage", cell: (row) => fixed(row.damage, 4) },
  optional(
    "bits a byte",
    ({ bits_per_byte: bits }) => bits,
    (bits) => fixed(bits, 4),
  ),
  { head: "KL", cell: (row) => fixed(row.kl_mean, 4) },
  { head: "same top", cell: (row) => percent(row.same_top, 1) },
  optional(
    "held-out error",
    ({ held_out_loss: loss }) => loss,
    (loss) => fixed(loss, 5),
  ),
  ...([8, 16, 32] as const).map((tokens) =>
    optional(
      `same ${tokens}`,
      (row) => row[`same_answers_${tokens}`],
      (share) => percent(share, 1),
    ),
  ),
  optional(
    "repeats",
    ({ repetition }) => repetition,
    (share) => percent(share, 1),
  ),
  { head: "zeros", cell: (row) => percent(row.sparsity_reached) },
  { head: "time", cell: (row) => duration(row.seconds) },
  optional(
    "processor",
    ({ processor_seconds: seconds }) => seconds,
    (seconds) => duration(seconds),
  ),
  { head: "peak memory", cell: (row) => byteSize(row.peak_rss_bytes) },
];

function optional(
  head: string,
  of: (row: ComparisonRow) => number | undefined,
  written: (value: number) => string,
): Column {
  return {
    head,
    isThere: (row) => of(row) !== undefined,
    cell(row) {
      const value = of(row);
      return value === undefined ? "–" : written(value);
    },
  };
}

/** How the method of a row is written, with what was done behind it. */
export function methodTitle(
  row: Pick<ComparisonRow, "method" | "then" | "trained" | "distil_steps">,
  titles: ComparisonTitles,
): string {
  const { method, then, trained, distil_steps: steps } = row;
  const how = `${steps === undefined ? "" : ` in ${steps} steps`}${trained ? " (trained)" : ""}`;
  return `${titles[method] ?? method}${then === undefined ? "" : `, then ${then}${how}`}`;
}

/** The table of `physarium compare`, with what it was measured on above it. */
export function renderComparison(record: ComparisonRecord, titles: ComparisonTitles): string {
  const { protocol, calibration, dense } = record;
  const columns = COLUMNS.filter(({ isThere }) => isThere === undefined || record.rows.some(isThere));
  const isMatched = record.rows.some(({ held_out_loss: loss }) => loss !== undefined);
  const heads = ["target", "method", ...columns.map(({ head }) => head)];
  const rows = record.rows.map((row) => [
    targetOf(row),
    cell(methodTitle(row, titles)),
    ...columns.map((column) => column.cell(row)),
  ]);
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
      `calibration and operation together.${isMatched ? MATCHED_WORDS : ""}${answerWords(record)}`,
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
    "distil_tokens",
    "sparsity",
    "pattern",
    "perplexity",
    "damage",
    "bits_per_byte",
    "kl_mean",
    "same_top",
    "held_out_loss",
    "same_answers_8",
    "same_answers_16",
    "same_answers_32",
    "repetition",
    "sparsity_reached",
    "seconds",
    "processor_seconds",
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

function answerWords({ dense }: ComparisonRecord): string {
  if (dense.repetition === undefined) return "";
  return (
    " Same 8, 16, 32: how many greedy answers begin with so many of the donor's tokens; repeats: the share of an " +
    `answer's runs of four tokens that stood in it before, ${percent(dense.repetition, 1)} in the donor's own.`
  );
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
