import type { Model } from "../../checkpoint/donor.js";
import { PhysariumError, refuseStopped } from "../../errors.js";
import { LayerRunner } from "../../probe/forward/layer-runner.js";
import { GATE_PROMPTS } from "../../probe/gate.js";
import { argmax, generateTokens, promptTokens, stopTokens } from "../../probe/generate.js";
import { prepareText, type ScoredSequence } from "../../probe/text/protocols.js";
import { openTextFile } from "../../probe/text/text-file.js";
import type { TextTokenizer } from "../../probe/text/tokenizer.js";
import { openSource } from "../../sources.js";
import type { LossRecord } from "./admission.js";

/** What a form is measured on: token ids, and what the donor thinks of each next one. */
export interface Reference {
  readonly against: string;
  readonly text: string;
  readonly sequences: readonly (ScoredSequence & { readonly logits: Float32Array })[];
  readonly vocabulary: number;
}

/** Predictions that are scored at most: each is a row of the whole vocabulary. */
export const SCORED_TOKENS = 512;
const WINDOW = 256;
const CONTINUED = 32;

/**
 * The donor's own forward pass over a text, or over prompts and what the donor writes behind them where there is no
 * text. By this project's engine, not by llama.cpp: the two check each other. Throws `STOPPED` soon after `signal`.
 */
export async function referenceOf(
  donor: string,
  tokenizer: TextTokenizer,
  context: number,
  textPath: string | undefined,
  morePrompts: readonly string[],
  signal?: AbortSignal,
): Promise<Reference> {
  const source = await openSource(donor);
  const runner = await LayerRunner.open(source as Model, {});
  try {
    const window = Math.min(WINDOW, context, runner.architecture.maxPositions);
    const sequences =
      textPath === undefined
        ? await continued(runner, source, tokenizer, window, morePrompts, signal)
        : await windowsOf(textPath, tokenizer, window, runner.architecture.maxPositions, signal);
    const scored = [];
    for (const { ids, scoreFrom } of sequences) {
      refuseStopped(signal);
      const residual = await runner.forward(await runner.embed([[...ids]]));
      const { data } = await runner.logits(residual);
      scored.push({ ids, scoreFrom, logits: Float32Array.from(data) });
    }
    const words = textPath === undefined ? "prompts and what the donor writes behind them" : textPath;
    return { against: donor, text: words, sequences: scored, vocabulary: runner.architecture.vocabSize };
  } finally {
    await runner.close();
    await source.close();
  }
}

async function windowsOf(
  path: string,
  tokenizer: TextTokenizer,
  window: number,
  maxPositions: number,
  signal: AbortSignal | undefined,
) {
  const text = await openTextFile(path, { signal });
  const limit = Math.max(1, Math.floor(SCORED_TOKENS / window));
  return (await prepareText(text.read(), tokenizer, maxPositions, { window, limit })).sequences;
}

async function continued(
  runner: LayerRunner,
  source: Awaited<ReturnType<typeof openSource>>,
  tokenizer: TextTokenizer,
  window: number,
  more: readonly string[],
  signal: AbortSignal | undefined,
): Promise<ScoredSequence[]> {
  const stopIds = await stopTokens(source, tokenizer);
  const sequences: ScoredSequence[] = [];
  let scored = 0;
  for (const prompt of [...GATE_PROMPTS, ...more]) {
    const ids = (await promptTokens(tokenizer, prompt)).slice(0, window - CONTINUED);
    if (ids.length === 0) continue;
    const all = [...ids];
    for await (const { id } of generateTokens(runner, ids, { maxTokens: CONTINUED, stopIds })) {
      refuseStopped(signal);
      all.push(id);
    }
    sequences.push({ ids: all, scoreFrom: 1 });
    scored += all.length - 1;
    if (scored >= SCORED_TOKENS) break;
  }
  return sequences;
}

/**
 * KL divergence, perplexity and agreement of a form with the donor.
 *
 * distributions  ln q of every token at each place of a sequence, by the engine that will serve it
 * throws         `VERIFY_NON_FINITE` where one is no number, `VERIFY_ADMISSION` where the vocabularies differ
 */
export async function lossOf(
  reference: Reference,
  distributions: (ids: readonly number[], from: number) => Promise<{ values: Float32Array; places: number }>,
): Promise<LossRecord> {
  let [tokens, kl, klMax, nll, donorNll, same] = [0, 0, 0, 0, 0, 0];
  const { vocabulary } = reference;
  for (const { ids, scoreFrom, logits } of reference.sequences) {
    const { values, places } = await distributions(ids, scoreFrom);
    if (values.length !== places * vocabulary) {
      throw new PhysariumError(
        "VERIFY_ADMISSION",
        `the engine's vocabulary has ${values.length / places} tokens, the donor's ${vocabulary}`,
      );
    }
    for (let place = 0; place < places; place++) {
      const at = scoreFrom + place;
      const donor = logits.subarray((at - 1) * vocabulary, at * vocabulary);
      const form = values.subarray(place * vocabulary, (place + 1) * vocabulary);
      const { divergence, shift } = klOf(donor, form);
      const target = ids[at];
      tokens++;
      kl += divergence;
      klMax = Math.max(klMax, divergence);
      nll -= form[target];
      donorNll -= donor[target] - shift;
      if (argmax(donor) === argmax(form)) same++;
    }
  }
  if (tokens === 0 || !Number.isFinite(kl) || !Number.isFinite(nll)) {
    throw new PhysariumError(
      "VERIFY_NON_FINITE",
      `the form's probabilities hold NaN or an infinity (${tokens} places)`,
    );
  }
  return {
    against: reference.against,
    text: reference.text,
    tokens,
    kl_mean: kl / tokens,
    kl_max: klMax,
    perplexity: Math.exp(nll / tokens),
    donor_perplexity: Math.exp(donorNll / tokens),
    perplexity_ratio: Math.exp((nll - donorNll) / tokens),
    same_top: same / tokens,
  };
}

/** Σ p (ln p − ln q) from the donor's logits and the form's ln q; `shift` is the logarithm of the donor's sum. */
function klOf(donor: Float32Array, form: Float32Array): { divergence: number; shift: number } {
  const most = donor[argmax(donor)];
  let sum = 0;
  for (const logit of donor) sum += Math.exp(logit - most);
  const shift = most + Math.log(sum);
  let divergence = 0;
  for (let id = 0; id < donor.length; id++) {
    const lnP = donor[id] - shift;
    const p = Math.exp(lnP);
    // What the donor holds for impossible adds nothing, whatever the form thinks of it.
    if (p > 0) divergence += p * (lnP - form[id]);
  }
  return { divergence: Math.max(0, divergence), shift };
}
