import { refuseStopped } from "../errors.js";
import type { Activations, KvCache, LayerRunner } from "../probe/forward/layer-runner.js";
import { randomNumbers } from "../probe/text/random.js";
import type { TextTokenizer } from "../probe/text/tokenizer.js";

/** Sequences that grow side by side: enough to share each step's cost, few enough that keys and values stay small. */
const AT_ONCE = 16;

/**
 * Calibration text that the donor writes itself, for when none is given: `samples` sequences of `window` tokens,
 * sampled from the model's own probabilities (temperature 1), each from BOS, or from the token that ends texts where
 * there is no BOS.
 *
 * The same seed gives the same tokens. source: the data-free calibration of LLM-QAT, Liu et al. 2023,
 * https://arxiv.org/abs/2305.17888
 */
export async function writeOwnCalibration(
  runner: LayerRunner,
  tokenizer: TextTokenizer,
  samples: number,
  window: number,
  seed: number,
  signal?: AbortSignal,
): Promise<number[][]> {
  const first = (tokenizer.bos ?? tokenizer.eos)?.id ?? 0;
  const sequences: number[][] = [];
  for (let start = 0; start < samples; start += AT_ONCE) {
    const group = Array.from({ length: Math.min(AT_ONCE, samples - start) }, (_, at) => ({
      ids: [first],
      random: randomNumbers(seed * 1_000_003 + start + at),
    }));
    let cache: KvCache | undefined;
    while (group[0].ids.length < window) {
      refuseStopped(signal);
      const step = await runner.extend(
        group.map(({ ids }) => [ids[ids.length - 1]]),
        cache,
      );
      cache = step.cache;
      const logits: Activations = await runner.logits(step.residual);
      group.forEach(({ ids, random }, row) => {
        ids.push(sample(logits.data.subarray(row * logits.width, (row + 1) * logits.width), random()));
      });
    }
    sequences.push(...group.map(({ ids }) => ids));
  }
  return sequences;
}

/** The token at share `point` of the cumulated probabilities. */
function sample(logits: Float32Array, point: number): number {
  let max = Number.NEGATIVE_INFINITY;
  for (const logit of logits) if (logit > max) max = logit;
  let total = 0;
  for (const logit of logits) total += Math.exp(logit - max);
  let left = point * total;
  for (let id = 0; id < logits.length; id++) {
    left -= Math.exp(logits[id] - max);
    if (left < 0) return id;
  }
  return logits.length - 1;
}
