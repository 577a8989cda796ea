import { resolve } from "node:path";
import type { Command } from "commander";
import { printable } from "../errors.js";
import { DEFAULT_LIMITS, type GateReport, gateError, runGate } from "../probe/gate.js";
import { isOperated } from "../record/open-record.js";
import type { SpeechNumbers } from "../record/report-input.js";
import { addSections } from "../report/documents.js";
import { openSource } from "../sources.js";
import { toInteger, toNumber } from "./arguments.js";
import { leaveRoom } from "./leave-room.js";
import { fetchTexts, modelArgument } from "./model-argument.js";
import {
  addEngineOptions,
  addProtocolOptions,
  type EngineFlags,
  type ProtocolFlags,
  toEngineOptions,
  toProtocolOptions,
} from "./probe-options.js";
import { endOnSignal } from "./stop-signal.js";

interface GateFlags extends EngineFlags, ProtocolFlags {
  against: string;
  text?: string;
  prompt: string[];
  maxTokens?: number;
  maxPerplexityRatio?: number;
  maxKl?: number;
  minSameTop?: number;
  maxRepetition?: number;
  record: boolean;
  json?: boolean;
  quiet?: boolean;
}

/** `physarium gate <output> --against <donor>` */
export function registerGate(program: Command): void {
  const command = program
    .command("gate")
    .description("accept or revert: greedy continuations of both models, and rules; exit 4 where one is broken")
    .argument("<model>", "the operated model's folder")
    .requiredOption("--against <donor>", "the donor's folder")
    .option("--max-perplexity-ratio <x>", "perplexity of the model over the donor's, at most", toNumber)
    .option("--max-kl <nats>", "mean KL divergence from the donor, at most", toNumber)
    .option("--min-same-top <share>", "share (0–1) of places with the same top token, at least", toNumber)
    .option(
      "--max-repetition <share>",
      "how much more (0–1) its texts may repeat themselves than the donor's",
      toNumber,
    )
    .option("--text <file>", "compare on this text (default: the prompts and what the donor writes behind them)")
    .option(
      "--prompt <text>",
      "a prompt to continue; may be given several times",
      (text, all: string[]) => [...all, text],
      [],
    )
    .option("--max-tokens <n>", "tokens of each continuation (default: 48)", toInteger);
  addEngineOptions(addProtocolOptions(command))
    .option("--no-record", "do not add the texts to the report of a folder that surgery wrote")
    .option("--json", "the finding as one JSON object")
    .addHelpText(
      "after",
      `
Where no limit is named these hold: ${Object.entries(DEFAULT_LIMITS)
        .map(([name, limit]) => `--${name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)} ${limit}`)
        .join(" ")}:
as much as Q4_0 costs a small model, and no loops that the donor does not have (docs/verdict.md).

Examples:
  physarium gate ./model-operated --against ./model
  physarium gate ./model-operated --against ./model --text book.txt --max-perplexity-ratio 1.1 --min-same-top 0.8 \\
    || rm -r ./model-operated`,
    )
    .action(async (modelPath: string, flags: GateFlags) => {
      await fetchTexts(flags, flags, "text");
      const {
        against,
        text,
        prompt,
        maxTokens,
        maxPerplexityRatio,
        maxKl,
        minSameTop,
        maxRepetition,
        record,
        json,
        ...rest
      } = flags;
      const { device, threads, memory, ...protocol } = rest;
      const { whole } = endOnSignal("nothing was written");
      const folder = resolve(await modelArgument(modelPath, flags));
      const model = await openSource(folder);
      const donor = await openSource(resolve(await modelArgument(against, flags)));
      await leaveRoom([model, donor]);
      const report = await runGate(model, {
        ...toProtocolOptions(protocol),
        ...toEngineOptions({ device, threads, memory }),
        against: donor,
        ...(prompt.length === 0 ? {} : { prompts: prompt }),
        ...(text === undefined ? {} : { text: resolve(text) }),
        ...(maxTokens === undefined ? {} : { maxTokens }),
        ...(maxPerplexityRatio === undefined ? {} : { maxPerplexityRatio }),
        ...(maxKl === undefined ? {} : { maxKl }),
        ...(minSameTop === undefined ? {} : { minSameTop }),
        ...(maxRepetition === undefined ? {} : { maxRepetition }),
      });
      await model.close();
      await donor.close();
      if (record && (await isOperated(folder)) && model.localPath !== undefined) {
        await whole(() => addSections(folder, { speech: speechOf(report) }));
      }
      process.stdout.write(json ? `${JSON.stringify(report)}\n` : `${describe(report)}\n`);
      if (!report.accepted) throw gateError(report);
    });
}

/** What the report shows of it. */
function speechOf({ accepted, prompts }: GateReport): SpeechNumbers {
  const said = ({ text, repetition }: GateReport["prompts"][number]["model"]) => ({ text, repetition });
  return {
    accepted,
    prompts: prompts.map(({ prompt, same_prefix_tokens, donor, model }) => ({
      prompt,
      same_prefix_tokens,
      donor: said(donor),
      model: said(model),
    })),
  };
}

function describe(report: GateReport): string {
  const lines: string[] = [];
  for (const { prompt, donor, model, same_prefix_tokens: same } of report.prompts) {
    lines.push(`prompt  ${JSON.stringify(prompt)}`);
    lines.push(`donor   ${JSON.stringify(donor.text)}`, `model   ${JSON.stringify(model.text)}`);
    lines.push(
      `        ${same} tokens alike from the start; said again: donor ${percent(donor.repetition)}, model ` +
        `${percent(model.repetition)}; first token, most likely first:`,
    );
    donor.top10.forEach((entry, at) => {
      const other = model.top10[at];
      const cell = ({ token, probability }: typeof entry): string =>
        `${(100 * probability).toFixed(2).padStart(6)} % ${JSON.stringify(token)}`;
      lines.push(`        ${cell(entry).padEnd(28)}${other === undefined ? "" : cell(other)}`);
    });
    lines.push("");
  }
  if (report.divergence !== null) {
    const { perplexity_ratio: ratio, kl_mean: kl, same_top: top } = report.divergence;
    lines.push(
      `on ${report.text ?? "the prompts and the donor's continuations"}: perplexity ratio ${ratio.toFixed(4)}, ` +
        `mean KL ${kl.toFixed(5)}, same top token ${(100 * top).toFixed(1)} %`,
    );
  }
  if (report.verdict !== null) lines.push(`verdict: ${report.verdict.sentence}`);
  if (report.default_limits) lines.push("no limit was named; these are the default ones:");
  for (const { rule, limit, value, kept } of report.rules) {
    lines.push(
      `${kept ? "kept  " : "BROKEN"}  ${rule} ${limit === true ? "" : `${limit}, found ${shortly(value)}`}`.trimEnd(),
    );
  }
  lines.push(report.accepted ? "accepted" : "not accepted");
  return lines.map((line) => printable(line, true)).join("\n");
}

function percent(share: number): string {
  return `${(100 * share).toFixed(0)} %`;
}

function shortly(value: number | boolean | null): string {
  return typeof value === "number" ? `${Number(value.toPrecision(5))}` : "nothing";
}
