import type { DonorCard } from "../record/card.js";
import type { QualityNumbers, ReportInput } from "../record/report-input.js";
import { byteSize, count, fixed, percent, percentRange, share, significant } from "./number-words.js";
import { shellQuote } from "./report-text.js";

/** How the weights stand in what the card is of. */
export type CardForm = "safetensors" | "packed" | "gguf" | "compressed-tensors";

export interface CardOptions {
  /** The donor's own card and its name beside this one: its licence, languages and the like are carried on. */
  readonly donorCard?: DonorCard | undefined;
  readonly form?: CardForm;
}

/** Stands in every card of ours: one that holds it may be written anew. */
export const CARD_MARK = "<!-- physarium: model card -->";

/** What of a donor's front matter holds for what was made of it. */
const CARRIED_ON = ["license", "license_name", "license_link", "language", "pipeline_tag", "library_name"];
const TAGS = ["physarium", "pruned", "sparse"];

/**
 * `README.md` of an operated model as the Hub reads it: front matter with the base model and the donor's licence; what
 * was done with both denominators, what it cost with its protocol, how to verify it. No time and no path stands in it:
 * the same operation gives the same card.
 */
export function renderModelCard(report: ReportInput, { donorCard, form = "safetensors" }: CardOptions = {}): string {
  const { donor, totals, flow, flow_version } = report;
  const { killed, target_weights, model_weights } = totals;
  const name = donor.name;
  const isHub = /^[\w.-]+\/[\w.-]+$/.test(name);
  const at = donor.commit === undefined ? "" : ` at commit \`${donor.commit}\``;
  const base = isHub ? `[${name}](https://huggingface.co/${name})` : `\`${inline(name)}\``;
  return [
    ...frontMatter(isHub ? name : undefined, donorCard?.text ?? ""),
    "",
    CARD_MARK,
    "",
    `# ${inline(name.split("/").at(-1)!)}, operated`,
    "",
    `${base}${at} with weights set to zero by Physarium's flow \`${inline(flow)}\` (${inline(flow_version)}).`,
    "Headers, shapes, tokenizer and configuration are the base model's: it is loaded as the base model is.",
    "",
    ...FORM_WORDS[form],
    "## What was done",
    "",
    "| | |",
    "|---|---|",
    `| Weights set to zero | ${count(killed)} |`,
    `| of the target projection weights | ${percent(share(killed, target_weights))} of ${count(target_weights)} |`,
    `| of the full model | ${percent(share(killed, model_weights))} of ${count(model_weights)} |`,
    `| Zeros in the targets now | ${percentRange(totals.min_sparsity, totals.max_sparsity)} of a tensor, mean ` +
      `${percent(totals.mean_sparsity)} over ${count(totals.tensors)} tensors |`,
    `| Flow | \`${inline(flow)}\` ${inline(flow_version)}: ${settings(report)} |`,
    ...calibrated(report),
    `| Base model | ${base}${at}, ${byteSize(donor.total_size)} |`,
    ...(donor.proven === undefined ? [] : [`| Base model proven | ${inline(donor.proven)} of every shard |`]),
    "",
    "## Quality",
    "",
    ...quality(report.quality),
    "",
    "## How to verify",
    "",
    "Every tensor's digest stands in `physarium/ledger.jsonl`, the numbers in `physarium/surgery.json`, the report in",
    "`physarium/REPORT.md`. With the base model at hand the whole operation is counted again:",
    "",
    "```sh",
    `physarium verify ${shellQuote(baseAddress(report, isHub))} FOLDER`,
    "```",
    "",
    ...(donorCard === undefined
      ? []
      : [`The base model's own card is kept as [${donorCard.file}](${donorCard.file}).`, ""]),
  ].join("\n");
}

const FORM_WORDS: Record<CardForm, string[]> = {
  safetensors: [],
  packed: ["The weights are packed without loss; `physarium unpack FOLDER OUT` gives the safetensors files back.", ""],
  gguf: ["The weights stand in GGUF files, for llama.cpp and its kin.", ""],
  "compressed-tensors": ["The zeros are stored as masks (compressed-tensors).", ""],
};

function baseAddress({ donor }: ReportInput, isHub: boolean): string {
  if (!isHub) return "BASE_MODEL_FOLDER";
  return `hf://${donor.name}${donor.commit === undefined ? "" : `@${donor.commit}`}`;
}

function settings({ params }: ReportInput): string {
  const shown = Object.entries(params).filter(([, value]) => value !== null && typeof value !== "object");
  return shown.map(([key, value]) => `${key} ${inline(String(value))}`).join(", ");
}

function calibrated({ activation }: ReportInput): string[] {
  if (activation?.calibration === undefined) return [];
  const { text, samples, tokens } = activation.calibration;
  const what = text === null ? "text that the base model wrote itself" : `\`${inline(text)}\``;
  const trained = activation.trained ? "; trained afterwards towards the base model's predictions" : "";
  return [`| Calibrated on | ${what}: ${count(samples)} samples, ${count(tokens)} tokens${trained} |`];
}

function quality(numbers: QualityNumbers | null | undefined): string[] {
  if (numbers == null) return ["Not measured: no forward pass was run on this model when this card was written."];
  const { model, donor, divergence, protocol, text, engine } = numbers;
  const ofDonor = (words: (numbers: NonNullable<typeof donor>) => string) => (donor === null ? "–" : words(donor));
  return [
    "| | This model | Base model |",
    "|---|---:|---:|",
    `| Perplexity | ${fixed(model.perplexity, 3)} ± ${fixed(model.stderr, 3)} | ` +
      `${ofDonor(({ perplexity, stderr }) => `${fixed(perplexity, 3)} ± ${fixed(stderr, 3)}`)} |`,
    `| Mean NLL, nats a token | ${fixed(model.mean_nll, 4)} | ${ofDonor(({ mean_nll }) => fixed(mean_nll, 4))} |`,
    ...(divergence === null
      ? []
      : [
          `| Perplexity over the base model's | ${fixed(divergence.perplexity_ratio, 4)} | 1 |`,
          `| KL divergence from it, nats a token | ${significant(divergence.kl_mean)} ± ` +
            `${significant(divergence.kl_mean_stderr, 2)} | 0 |`,
          `| Same most likely token | ${percent(divergence.same_top)} | 100 % |`,
        ]),
    "",
    `Text \`${inline(text.name)}\` (${byteSize(text.bytes)}, SHA-256 \`${inline(text.sha256)}\`), protocol ` +
      `${inline(protocol.name)}: ${count(protocol.windows)} windows of ${count(protocol.window)} tokens, stride ` +
      `${count(protocol.stride)}, ${count(protocol.tokens)} predictions; ${inline(engine.name)} ` +
      `${inline(engine.version)}, weights ${inline(engine.weights_dtype)}, arithmetic ` +
      `${inline(engine.compute_dtype)}. ± is one standard error.`,
  ];
}

/** Foreign words in a line of Markdown: nothing of them may become markup. */
function inline(text: string): string {
  return text.replace(/[\r\n]+/g, " ").replace(/[\\|`<>[\]]/g, (character) => `\\${character}`);
}

function frontMatter(base: string | undefined, donorCard: string): string[] {
  const donor = blocksOf(donorCard);
  // What we made of a model stays that model's, however often it is operated on.
  const carriedBase = base === undefined && donorCard.includes(CARD_MARK) ? (donor.get("base_model") ?? []) : [];
  const carried = [...carriedBase, ...CARRIED_ON.flatMap((key) => donor.get(key) ?? [])];
  const tags = [...new Set([...listOf(donor.get("tags")), ...TAGS])];
  return [
    "---",
    ...(base === undefined ? [] : [`base_model: ${base}`]),
    ...carried,
    "tags:",
    ...tags.map((tag) => `- ${tag}`),
    "---",
  ];
}

/** Top-level keys of YAML front matter with their lines as they stand: what is carried on is not interpreted. */
function blocksOf(markdown: string): Map<string, string[]> {
  const matter = /^---\r?\n([\s\S]*?)\r?\n---[ \t]*(?:\r?\n|$)/.exec(markdown)?.[1] ?? "";
  const blocks = new Map<string, string[]>();
  let block: string[] | undefined;
  for (const line of matter.split(/\r?\n/)) {
    const key = /^([A-Za-z_][\w-]*):/.exec(line)?.[1];
    if (key !== undefined) {
      block = [line];
      blocks.set(key, block);
    } else if (/^(?:[ \t-]|$)/.test(line)) block?.push(line);
    else block = undefined;
  }
  return blocks;
}

/** Items of a plain YAML list, in lines or in brackets. */
function listOf(block: readonly string[] | undefined): string[] {
  if (block === undefined) return [];
  const inBrackets = /^\w+:\s*\[(.*)\]\s*$/.exec(block[0])?.[1];
  const items =
    inBrackets === undefined
      ? block.flatMap((line) => /^\s*-\s+(.+?)\s*$/.exec(line)?.[1] ?? [])
      : inBrackets.split(",");
  return items.map((item) => item.trim()).filter((item) => item !== "");
}
