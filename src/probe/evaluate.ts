import { basename } from "node:path";
import type { Donor, Model } from "../checkpoint/donor.js";
import { Engine } from "../engine/session.js";
import { isPhysariumError, PhysariumError, refuseStopped } from "../errors.js";
import { readDocuments } from "../record/open-record.js";
import type { ModelQuality, QualitySection } from "../record/quality.js";
import { changedTokens } from "./changed-tokens.js";
import { divergenceOf, klHistogramOf, meanOf, nllCurveOf, sum, type Trace } from "./divergence.js";
import { type InspectedModel, inspectModel } from "./forward/inspect-model.js";
import { type Activations, LayerRunner, type RunnerOptions } from "./forward/layer-runner.js";
import { layerDamage } from "./layer-damage.js";
import { type LoadWarning, loadWarnings, tiedHead } from "./load-warnings.js";
import { defaultMemoryBytes, memoryLimitBytes } from "./memory.js";
import { sizesThatFit } from "./memory-plan.js";
import { Scorer } from "./scorer.js";
import { bytesPredicted } from "./text/predicted-bytes.js";
import { type PreparedText, type ProtocolOptions, prepareText, type ScoredSequence } from "./text/protocols.js";
import { openTextFile } from "./text/text-file.js";
import { readDefinition, TextTokenizer } from "./text/tokenizer.js";

/** How a model is measured on a text: the protocol, the donor to compare with, the engine. */
export interface EvaluateOptions extends ProtocolOptions, RunnerOptions {
  /** The donor to compare with; both models see the same tokens. */
  readonly against?: Model;
  /**
   * Tokens in one run of the engine (at least one sequence); default 2048. More share the cost of casts, and need more
   * memory.
   */
  readonly batchTokens?: number;
  readonly onProgress?: (done: number, total: number) => void;
  /** With `against`: what each layer costs alone, too (`layerDamage`). */
  readonly layers?: boolean;
  readonly onLayer?: (done: number, total: number) => void;
  /** Ends the run between two batches, with `STOPPED`. */
  readonly signal?: AbortSignal;
}

/** What was measured; lengths of the traces are the number of predictions. */
export interface Evaluation {
  readonly quality: QualitySection;
  /** Every prediction's numbers in the order of the text. */
  readonly model: Trace;
  readonly donor: Trace | undefined;
  readonly kl: Float64Array | undefined;
  /** Places of the text that the vocabulary could not spell. */
  readonly unknownTokens: number;
  /** What somebody who reads the numbers should know, in sentences. */
  readonly hints: readonly string[];
  /** Those of the hints that contradict what config.json says. */
  readonly warnings: readonly LoadWarning[];
}

/**
 * Perplexity of a model on a text file, and with `against` its divergence from the donor.
 *
 * Throws `USAGE_TEXT_*`, `USAGE_WINDOW`, `USAGE_STRIDE`, `USAGE_BOS` for what was asked, `DONOR_*` for what is wrong
 * with a model (another tokenizer or vocabulary than the donor's included), `VERIFY_NON_FINITE` where a model gives
 * NaN, `STOPPED` once `signal` aborts.
 */
export async function evaluate(given: Model, textPath: string, options: EvaluateOptions = {}): Promise<Evaluation> {
  const { signal } = options;
  const text = await openTextFile(textPath, { signal });
  const inspected = await inspectModel(given);
  const models = [inspected.donor];
  if (options.against !== undefined) models.unshift((await inspectModel(options.against)).donor);
  const { tokenizer, prepared } = await TextTokenizer.with(inspected.donor.source, { signal }, async (tokenizer) => ({
    tokenizer,
    prepared: await prepareText(text.read(), tokenizer, inspected.architecture.maxPositions, options),
  }));
  if (options.against !== undefined) await checkSameTokenizer(tokenizer, models[0]);
  const run = await runModels(models, prepared, options);
  const model = run.traces[run.traces.length - 1];
  const donor = options.against === undefined ? undefined : run.traces[0];
  const predictedBytes = bytesPredicted(prepared.sequences, tokenizer);
  const names = models.map(({ source }) => source.name);
  const quality: Omit<QualitySection, "summary"> = {
    text: { name: basename(textPath), bytes: text.byteLength, sha256: text.sha256 },
    protocol: prepared.record,
    engine: run.engine,
    model: modelQuality(names[names.length - 1], model.nll, predictedBytes),
    donor: donor === undefined ? null : modelQuality(names[0], donor.nll, predictedBytes),
    divergence: donor === undefined || run.kl === undefined ? null : divergenceOf(donor, model, run.kl),
    nll_curve: nllCurveOf(model.nll, donor?.nll),
    kl_histogram: run.kl === undefined ? null : klHistogramOf(run.kl),
    ...(await changesOf(models, prepared, { model, donor, kl: run.kl }, options)),
  };
  const killed = await killedFraction(inspected.donor);
  const head = await tiedHead(inspected.donor);
  const warnings = await loadWarnings(inspected.donor, head);
  const said = [...warnings.map(({ message }) => message), ...(head?.isCopy ? [head.message] : [])];
  return {
    quality: { summary: summaryOf(quality, killed), ...quality },
    model,
    donor,
    kl: run.kl,
    unknownTokens: prepared.unknownTokens,
    hints: [...(prepared.hints ?? []), ...said, ...embeddingHints(inspected)],
    warnings,
  };
}

/** What is to be said of a model in which no token is guessed. */
function embeddingHints({ architecture }: InspectedModel): string[] {
  return architecture.bidirectional
    ? [
        "use_bidirectional_attention is true: every token also looks at those behind it, so this is an embedding " +
          "model; its numbers compare it with itself, and are no likelihood of a text",
      ]
    : [];
}

/** Where the models differ: places of the text, and with `layers` the layers. */
async function changesOf(
  models: readonly Donor[],
  { sequences }: PreparedText,
  { model, donor, kl }: { model: Trace; donor: Trace | undefined; kl: Float64Array | undefined },
  options: EvaluateOptions,
): Promise<Pick<QualitySection, "changed_tokens" | "layer_damage">> {
  if (donor === undefined || kl === undefined) return {};
  const { signal, layers, onLayer } = options;
  const changed = await TextTokenizer.with(models[1].source, { signal }, (tokenizer) =>
    changedTokens(sequences, { donor, model, kl }, tokenizer),
  );
  if (!layers) return { changed_tokens: changed };
  return {
    changed_tokens: changed,
    layer_damage: await layerDamage(models[0], models[1], sequences, { ...options, onProgress: onLayer }),
  };
}

/**
 * Run prepared sequences through one model, or the donor and the model, and score every prediction, in the order of the
 * text.
 */
export async function runModels(
  models: readonly Model[],
  prepared: PreparedText,
  options: EvaluateOptions = {},
): Promise<{ traces: Trace[]; kl: Float64Array | undefined; engine: QualitySection["engine"] }> {
  const { sequences } = prepared;
  const inspected: InspectedModel[] = [];
  for (const model of models) inspected.push(await inspectModel(model));
  const longest = sequences.reduce((most, { ids }) => Math.max(most, ids.length), 0);
  const tokensRun = sequences.reduce((total, { ids }) => total + ids.length, 0);
  const engine = options.engine ?? (await Engine.open(options));
  const { batchTokens, placesAtOnce } = sizesThatFit(inspected, longest, memoryLimitBytes(), options.batchTokens);
  const seesPadding = inspected.some(({ architecture }) => architecture.bidirectional);
  const batches = batchesOf(sequences, batchTokens, seesPadding);
  const workload = { runs: batches.length, tokens: tokensRun };
  const share =
    models.length === 1 ? {} : { memoryBytes: (options.memoryBytes ?? defaultMemoryBytes()) / models.length };
  const runners: LayerRunner[] = [];
  let scorer: Scorer | undefined;
  const started = performance.now();
  try {
    for (const { donor } of inspected)
      runners.push(await LayerRunner.open(donor, { workload, ...options, ...share, engine }));
    scorer = new Scorer(runners, placesAtOnce);
    const { tokens } = prepared.record;
    const traces = runners.map(() => ({ nll: new Float64Array(tokens), top: new Int32Array(tokens) }));
    const kl = runners.length === 2 ? new Float64Array(tokens) : undefined;
    const offsets = offsetsOf(sequences);
    let done = 0;
    options.onProgress?.(0, tokens);
    for (const batch of batches) {
      refuseStopped(options.signal);
      const { ids, places, targets, positions } = layOut(sequences, batch, offsets);
      const residuals: Activations[] = [];
      for (const runner of runners) residuals.push(await runner.forward(await runner.embed(ids)));
      const scores = await scorer.score(residuals, places, targets);
      positions.forEach((position, at) => {
        for (const [model, trace] of traces.entries()) {
          trace.nll[position] = scores.models[model].nll[at];
          trace.top[position] = scores.models[model].top[at];
        }
        if (kl !== undefined && scores.kl !== undefined) kl[position] = scores.kl[at];
      });
      done += places.length;
      options.onProgress?.(done, tokens);
    }
    const seconds = (performance.now() - started) / 1000;
    return {
      traces,
      kl,
      engine: {
        name: "onnxruntime-node",
        version: engine.version,
        device: engine.device,
        weights_dtype: runners[runners.length - 1].weights.dtypes.join(", "),
        compute_dtype: "F32",
        threads: engine.threads,
        seconds,
        tokens_per_second: tokensRun / seconds,
        peak_rss_bytes: process.resourceUsage().maxRSS * 1024,
      },
    };
  } finally {
    await scorer?.close();
    for (const runner of runners) await runner.close();
  }
}

/**
 * Indexes of sequences that run together: alike in length, so that little is padded, together at most `batchTokens` (or
 * one sequence). Of one length where padding would be looked at.
 */
function batchesOf(sequences: readonly ScoredSequence[], batchTokens: number, seesPadding: boolean): number[][] {
  const order = sequences.map((_, index) => index).sort((a, b) => sequences[b].ids.length - sequences[a].ids.length);
  const batches: number[][] = [];
  let longest = 0;
  for (const index of order) {
    const last = batches.at(-1);
    const isOther = seesPadding && sequences[index].ids.length !== longest;
    if (last === undefined || isOther || (last.length + 1) * longest > batchTokens) {
      batches.push([index]);
      longest = sequences[index].ids.length;
    } else last.push(index);
  }
  return batches;
}

/** Where each sequence's predictions begin in the order of the text. */
function offsetsOf(sequences: readonly ScoredSequence[]): number[] {
  let offset = 0;
  return sequences.map(({ ids, scoreFrom }) => {
    const here = offset;
    offset += ids.length - scoreFrom;
    return here;
  });
}

/** A batch as the runner and the scorer want it; `positions` says where in the text each scored place belongs. */
function layOut(sequences: readonly ScoredSequence[], batch: readonly number[], offsets: readonly number[]) {
  const length = Math.max(...batch.map((index) => sequences[index].ids.length));
  const places: number[] = [];
  const targets: number[] = [];
  const positions: number[] = [];
  const ids = batch.map((index, row) => {
    const { ids, scoreFrom } = sequences[index];
    for (let at = scoreFrom; at < ids.length; at++) {
      places.push(row * length + at - 1);
      targets.push(ids[at]);
      positions.push(offsets[index] + at - scoreFrom);
    }
    // Padding stands on the right, where causal attention never looks from the places that count.
    return [...ids, ...new Array<number>(length - ids.length).fill(0)];
  });
  return { ids, places: Int32Array.from(places), targets: Int32Array.from(targets), positions };
}

function modelQuality(name: string, nll: Float64Array, predictedBytes: number | undefined): ModelQuality {
  const { mean, stderr } = meanOf(nll);
  const perplexity = Math.exp(mean);
  return {
    name,
    perplexity,
    mean_nll: mean,
    stderr: perplexity * stderr,
    mean_nll_stderr: stderr,
    bits_per_byte: predictedBytes === undefined ? null : sum(nll) / Math.LN2 / predictedBytes,
  };
}

async function checkSameTokenizer(tokenizer: TextTokenizer, donor: Donor): Promise<void> {
  const other = await readDefinition(donor.source);
  if (Buffer.compare(tokenizer.definition, other) === 0) return;
  throw new PhysariumError(
    "DONOR_TOKENIZER",
    `${tokenizer.path} and the one of ${donor.path} are different files; a divergence needs the same tokens in ` +
      "both, compare a model with its own donor",
    { tokenizer: tokenizer.path, donor: donor.path },
  );
}

/** The share of target weights that surgery killed, where the model's folder holds surgery's report. */
async function killedFraction({ path }: Donor): Promise<number | undefined> {
  try {
    return (await readDocuments(path)).totals.killed_of_target;
  } catch (error) {
    // A model that was never operated on, or whose numbers cannot be believed: the sentence does without them.
    if (isPhysariumError(error)) return undefined;
    throw error;
  }
}

/** The numbers in one sentence or two. */
function summaryOf(quality: Omit<QualitySection, "summary">, killed: number | undefined): string {
  const { model, donor, divergence, protocol } = quality;
  const places = `${protocol.tokens.toLocaleString("en")} tokens of ${quality.text.name}`;
  if (donor === null || divergence === null) return `Perplexity ${model.perplexity.toPrecision(4)} on ${places}.`;
  const change = 100 * (divergence.perplexity_ratio - 1);
  const surgery = killed === undefined ? "The change" : `Killing ${(100 * killed).toFixed(2)} % of the target weights`;
  const cost =
    change >= 0 ? `cost +${change.toFixed(2)} % perplexity` : `lowered perplexity by ${(-change).toFixed(2)} %`;
  return (
    `${surgery} ${cost} (${donor.perplexity.toPrecision(4)} → ${model.perplexity.toPrecision(4)} on ${places}); ` +
    `the same top token in ${(100 * divergence.same_top).toFixed(1)} % of places.`
  );
}
