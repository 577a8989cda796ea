import { resolve } from "node:path";
import type { Command } from "commander";
import { PhysariumError, printable } from "../errors.js";
import { type Evaluation, evaluate } from "../probe/evaluate.js";
import { isOperated } from "../record/open-record.js";
import type { QualitySection } from "../record/quality.js";
import { verdictOf } from "../record/verdict.js";
import { addSections } from "../report/documents.js";
import { openSource } from "../sources.js";
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
import { countedProgress } from "./progress.js";
import { endOnSignal } from "./stop-signal.js";

interface EvalFlags extends EngineFlags, ProtocolFlags {
  text: string;
  against?: string;
  batchTokens?: number;
  record: boolean;
  layers?: boolean;
  json?: boolean;
  quiet?: boolean;
}

/** `physarium eval <model> --text FILE` */
export function registerEval(program: Command): void {
  const command = program
    .command("eval")
    .description("perplexity of a model on a text, and with --against its divergence from the donor")
    .argument("<model>", "model folder with safetensors files, or a packed one")
    .requiredOption("--text <file>", "UTF-8 text to predict")
    .option("--against <donor>", "the donor: both models see the same tokens");
  addEngineOptions(addProtocolOptions(command))
    .option("--layers", "with --against: what each layer costs alone, too (half the layers squared, on 1,024 tokens)")
    .option("--no-record", "with --against: do not add the numbers to the report of a folder that surgery wrote")
    .option("--json", "the numbers as one JSON object")
    .option("--quiet", "no progress on stderr")
    .addHelpText(
      "after",
      `
Examples:
  physarium eval ./model --text wiki.test.raw --rows                       as GPTQ, SparseGPT and Wanda print it
  physarium eval ./model-operated --text book.txt --against ./model        what surgery cost
  physarium eval ./model --text stories.txt --protocol documents --window 256 --json`,
    )
    .action(async (modelPath: string, flags: EvalFlags) => {
      await fetchTexts(flags, flags, "text");
      const { text, against, record, json, quiet: _, device, threads, memory, ...protocol } = flags;
      const { whole } = endOnSignal("nothing was written");
      if (flags.layers && against === undefined) {
        throw new PhysariumError("USAGE_ARGUMENT", "--layers needs --against: damage is damage to a donor");
      }
      const onProgress = countedProgress("eval", flags, "tokens");
      const onLayer = countedProgress("layers", flags, "layers");
      const folder = resolve(await modelArgument(modelPath, flags));
      const donor = against === undefined ? undefined : resolve(await modelArgument(against, flags));
      const model = await openSource(folder);
      const other = donor === undefined ? undefined : await openSource(donor);
      await leaveRoom(other === undefined ? [model] : [model, other]);
      const evaluation = await evaluate(model, resolve(text), {
        ...toProtocolOptions(protocol),
        ...toEngineOptions({ device, threads, memory }),
        ...(other === undefined ? {} : { against: other }),
        ...(flags.layers ? { layers: true } : {}),
        ...(onLayer === undefined ? {} : { onLayer }),
        ...(onProgress === undefined ? {} : { onProgress }),
      });
      await model.close();
      await other?.close();
      // A packed folder is a pack of what it was made from, report included.
      const keepsReport = (await isOperated(folder)) && model.localPath !== undefined;
      if (record && against !== undefined && keepsReport) {
        await whole(() => addSections(folder, { quality: evaluation.quality }));
      }
      process.stdout.write(json ? `${JSON.stringify(toJson(evaluation))}\n` : `${describe(evaluation)}\n`);
    });
}

/** The quality section with the most asked-for numbers on top. */
function toJson({ quality, unknownTokens, hints, warnings }: Evaluation) {
  const { model, protocol } = quality;
  return {
    perplexity: model.perplexity,
    mean_nll: model.mean_nll,
    stderr: model.stderr,
    bits_per_byte: model.bits_per_byte,
    tokens: protocol.tokens,
    windows: protocol.windows,
    window: protocol.window,
    stride: protocol.stride,
    protocol: protocol.name,
    bos: protocol.bos,
    bos_each: protocol.bos_each ?? false,
    newlines: protocol.newlines ?? null,
    joiner: protocol.joiner,
    separator: protocol.separator,
    documents: protocol.documents,
    unknown_tokens: unknownTokens,
    hints,
    warnings,
    dtype: quality.engine.weights_dtype,
    device: quality.engine.device,
    tokens_per_second: quality.engine.tokens_per_second,
    seconds: quality.engine.seconds,
    peak_rss_bytes: quality.engine.peak_rss_bytes,
    summary: quality.summary,
    text: quality.text,
    engine: quality.engine,
    model: quality.model,
    ...(quality.donor === null ? {} : { donor: quality.donor }),
    ...(quality.divergence === null
      ? {}
      : { divergence: quality.divergence, verdict: verdictOf(quality.divergence), kl_histogram: quality.kl_histogram }),
    ...(quality.changed_tokens === undefined ? {} : { changed_tokens: quality.changed_tokens }),
    ...(quality.layer_damage === undefined ? {} : { layer_damage: quality.layer_damage }),
    nll_curve: quality.nll_curve,
  };
}

function describe({ quality, unknownTokens, hints, warnings }: Evaluation): string {
  const { protocol, engine, text } = quality;
  const how = [
    `${protocol.name}, window ${protocol.window}`,
    `stride ${protocol.stride}`,
    `${protocol.windows} windows`,
    `BOS ${protocol.bos ?? "none"}${protocol.bos_each ? " in every window" : ""}`,
    ...(protocol.newlines === undefined ? [] : [NEWLINES[protocol.newlines]]),
    ...(protocol.joiner === null ? [] : [`rows joined by ${JSON.stringify(protocol.joiner)}`]),
    ...(protocol.separator === null ? [] : [`separator ${JSON.stringify(protocol.separator)}`]),
  ];
  const lines = [
    quality.summary,
    ...(quality.divergence === null ? [] : [`verdict    ${verdictOf(quality.divergence).sentence}`]),
    "",
    `text       ${text.name}, ${text.bytes.toLocaleString("en")} bytes, sha256 ${text.sha256.slice(0, 16)}…`,
    `protocol   ${how.join(", ")}`,
    `engine     ${engine.name} ${engine.version} on ${engine.device}, ${engine.threads} threads, weights ` +
      `${engine.weights_dtype}, products ${engine.compute_dtype}`,
    `speed      ${engine.tokens_per_second.toFixed(0)} tokens/s, ${engine.seconds.toFixed(1)} s, peak memory ` +
      `${(engine.peak_rss_bytes / 2 ** 20).toFixed(0)} MiB`,
    "",
    modelLines(quality),
    ...(quality.divergence === null ? [] : ["", divergenceLines(quality)]),
    ...(quality.layer_damage === undefined ? [] : ["", ...layerLines(quality.layer_damage)]),
  ];
  const head = quality.divergence === null ? 2 : 3;
  const warned = new Map(warnings.map(({ code, message }) => [message, code]));
  const said = hints.map((hint) =>
    warned.has(hint) ? `warning    ${hint} [${warned.get(hint)}]` : `hint       ${hint}`,
  );
  lines.splice(head, 0, ...said);
  if (unknownTokens > 0)
    lines.splice(
      head,
      0,
      `warning    ${unknownTokens.toLocaleString("en")} tokens of the text are unknown to the vocabulary`,
    );
  return lines.map((line) => printable(line, true)).join("\n");
}

const NEWLINES = {
  universal: "carriage returns read as newlines (--newlines keep leaves them)",
  keep: "carriage returns kept",
};

function modelLines({ model, donor, protocol }: QualitySection): string {
  const row = (name: string, quality: typeof model): string =>
    `${name.padEnd(10)} perplexity ${quality.perplexity.toFixed(4)} ± ${quality.stderr.toFixed(4)}, ` +
    `${quality.mean_nll.toFixed(5)} nats a token${
      quality.bits_per_byte === null ? "" : `, ${quality.bits_per_byte.toFixed(4)} bits a byte`
    }, ${protocol.tokens.toLocaleString("en")} tokens`;
  return [...(donor === null ? [] : [row("donor", donor)]), row("model", model)].join("\n");
}

/** The layers that cost most alone. */
function layerLines(damage: NonNullable<QualitySection["layer_damage"]>): string[] {
  const worst = [...damage].sort((a, b) => b.kl_mean - a.kl_mean).slice(0, 5);
  const words = worst.map(({ layer, kl_mean }) => `layer ${layer} ${kl_mean.toPrecision(3)}`);
  return [`layers     mean KL with one layer put in alone, most first: ${words.join(", ")}`];
}

function divergenceLines({ divergence }: QualitySection): string {
  if (divergence === null) return "";
  const d = divergence;
  const q = d.delta_p_quantiles;
  const percent = (value: number, digits = 3): string => `${(100 * value).toFixed(digits)} %`;
  const rows: [string, string][] = [
    ["perplexity ratio", `${d.perplexity_ratio.toFixed(6)}`],
    ["ln ratio", `${d.ln_ratio.toFixed(6)} ± ${d.ln_ratio_stderr.toFixed(6)}`],
    ["mean KLD", `${d.kl_mean.toFixed(6)} ± ${d.kl_mean_stderr.toFixed(6)}`],
    ["maximum KLD", d.kl_max.toFixed(6)],
    ["99.9 % KLD", d.kl_p999.toFixed(6)],
    ["99 % KLD", d.kl_p99.toFixed(6)],
    ["90 % KLD", d.kl_p90.toFixed(6)],
    ["median KLD", d.kl_median.toFixed(6)],
    ["mean Δp", percent(d.delta_p_mean)],
    ["RMS Δp", percent(d.delta_p_rms)],
    ["Δp 1 / 5 / 25 %", `${percent(q.p1)} / ${percent(q.p5)} / ${percent(q.p25)}`],
    ["Δp 50 %", percent(q.median)],
    ["Δp 75 / 95 / 99 %", `${percent(q.p75)} / ${percent(q.p95)} / ${percent(q.p99)}`],
    ["same top token", `${percent(d.same_top)} ± ${percent(d.same_top_stderr)}`],
  ];
  return rows.map(([name, value]) => `${name.padEnd(18)} ${value}`).join("\n");
}
