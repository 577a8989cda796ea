import type { Model } from "../checkpoint/donor.js";
import { Engine } from "../engine/session.js";
import { refuseStopped } from "../errors.js";
import type { LayerDamageRecord } from "../record/quality.js";
import { sum } from "./divergence.js";
import { type Activations, LayerRunner, type RunnerOptions } from "./forward/layer-runner.js";
import { Scorer } from "./scorer.js";
import type { ScoredSequence } from "./text/protocols.js";

export interface LayerDamageOptions extends RunnerOptions {
  readonly signal?: AbortSignal;
  readonly onProgress?: (done: number, total: number) => void;
}

/** Tokens that are enough to tell layers apart: each layer's swap runs all layers behind it. */
const TOKENS = 1024;

/**
 * What each layer costs alone: the donor's mean KL divergence (nats a token) from itself with this one layer of the
 * operated model put in. The donor's residuals before each layer are kept, so a swap runs the layers from there on; all
 * swaps together take half as many layers as there are layers squared.
 *
 * sequences  of the text; the first of them, up to 1024 tokens, are used
 */
export async function layerDamage(
  donorModel: Model,
  operatedModel: Model,
  sequences: readonly ScoredSequence[],
  options: LayerDamageOptions = {},
): Promise<LayerDamageRecord[]> {
  const engine = options.engine ?? (await Engine.open(options));
  const donor = await LayerRunner.open(donorModel, { ...options, engine });
  const operated = await LayerRunner.open(operatedModel, { ...options, engine });
  const scorer = new Scorer([donor, donor]);
  const layers = donor.layerCount;
  const divergences: number[][] = Array.from({ length: layers }, () => []);
  const chosen = firstOf(sequences);
  let done = 0;
  try {
    for (const { ids, scoreFrom } of chosen) {
      const before: Activations[] = [await donor.embed([ids])];
      for (let layer = 0; layer < layers; layer++) before.push(await donor.forward(before[layer], layer, layer + 1));
      const places = Int32Array.from({ length: ids.length - scoreFrom }, (_, at) => scoreFrom + at - 1);
      const targets = Int32Array.from(ids.slice(scoreFrom));
      for (let layer = 0; layer < layers; layer++) {
        refuseStopped(options.signal);
        let residual = await operated.forward(before[layer], layer, layer + 1);
        for (let next = layer + 1; next < layers; next++) residual = await donor.forward(residual, next, next + 1);
        const { kl } = await scorer.score([before[layers], residual], places, targets);
        divergences[layer].push(...kl!);
        options.onProgress?.(++done, chosen.length * layers);
      }
    }
    return divergences.map((kl, layer) => ({ layer, kl_mean: sum(kl) / kl.length, tokens: kl.length }));
  } finally {
    await scorer.close();
    await donor.close();
    await operated.close();
  }
}

function firstOf(sequences: readonly ScoredSequence[]): ScoredSequence[] {
  const chosen: ScoredSequence[] = [];
  let tokens = 0;
  for (const { ids, scoreFrom } of sequences) {
    if (tokens >= TOKENS) break;
    const kept = ids.slice(0, Math.max(scoreFrom + 1, TOKENS - tokens));
    chosen.push({ ids: kept, scoreFrom });
    tokens += kept.length;
  }
  return chosen;
}
