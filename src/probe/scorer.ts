import { type Feeds, floats } from "../engine/session.js";
import { PhysariumError } from "../errors.js";
import { scoreGraph, type VocabularyChunk, vocabularyChunks } from "./forward/head-graph.js";
import type { Activations, LayerRunner } from "./forward/layer-runner.js";
import { SessionShelf } from "./forward/session-shelf.js";
import { DEFAULT_SIZES } from "./memory-plan.js";

/** What happened at each place: the true token's negative log-likelihood (nats, f64) and the most likely token. */
export interface Scores {
  readonly nll: Float64Array;
  readonly top: Int32Array;
}

export interface PairScores {
  readonly models: readonly Scores[];
  /** KL(first ‖ second) in nats at each place; only with two models. */
  readonly kl: Float64Array | undefined;
}

/**
 * Likelihoods of known tokens, for one model or two side by side.
 *
 * The vocabulary goes by in chunks; per chunk the engine gives a maximum, a sum of exponentials and the target's logit,
 * and here the chunks are put together in f64, so neither logits nor rounding grow with the vocabulary. With p, q the
 * two models' probabilities, KL = Σ p (ln p − ln q) = Σ p (a − b) − lse(a) + lse(b) for logits a, b.
 */
export class Scorer {
  private readonly shelf: SessionShelf;
  private readonly chunks: readonly VocabularyChunk[];

  /**
   * One runner, or two (the donor first) of one vocabulary and engine. Throws `DONOR_VOCABULARY` where the vocabularies
   * differ.
   *
   * placesAtOnce  places multiplied with the output matrix at once: 1024 with a chunk of the vocabulary are 32 MiB of
   *               logits a model
   */
  constructor(
    private readonly runners: readonly LayerRunner[],
    private readonly placesAtOnce = DEFAULT_SIZES.placesAtOnce,
  ) {
    const [first, second] = runners.map(({ architecture }) => architecture.vocabSize);
    if (second !== undefined && first !== second) {
      throw new PhysariumError(
        "DONOR_VOCABULARY",
        `the models have vocabularies of ${first} and ${second} tokens; only models of one vocabulary can be compared`,
        { first, second },
      );
    }
    this.chunks = vocabularyChunks(runners[0].architecture);
    this.shelf = new SessionShelf(
      runners[0].engine,
      runners.every(({ keeping }) => keeping.copies),
      runners.every(({ keeping }) => keeping.sessions),
    );
  }

  /**
   * Score chosen places.
   *
   * residuals  what each model's last layer gave, (batch, tokens, hidden)
   * places     flat positions in (batch × tokens) whose next token counts
   * targets    those tokens
   * throws     `VERIFY_NON_FINITE` where a likelihood is NaN or infinite
   */
  async score(residuals: readonly Activations[], places: Int32Array, targets: Int32Array): Promise<PairScores> {
    const models = this.runners.map(() => ({
      nll: new Float64Array(places.length),
      top: new Int32Array(places.length),
    }));
    const kl = this.runners.length === 2 ? new Float64Array(places.length) : undefined;
    for (let start = 0; start < places.length; start += this.placesAtOnce) {
      const end = Math.min(start + this.placesAtOnce, places.length);
      await this.scorePart(residuals, places.subarray(start, end), targets.subarray(start, end), (place) => ({
        put: (model, nll, top) => {
          models[model].nll[start + place] = nll;
          models[model].top[start + place] = top;
        },
        putKl: (value) => {
          if (kl !== undefined) kl[start + place] = value;
        },
      }));
    }
    return { models, kl };
  }

  async close(): Promise<void> {
    await this.shelf.closeWhere(() => true);
  }

  private async scorePart(
    residuals: readonly Activations[],
    places: Int32Array,
    targets: Int32Array,
    at: (place: number) => {
      put(model: number, nll: number, top: number): void;
      putKl(value: number): void;
    },
  ): Promise<void> {
    const { engine } = this.runners[0];
    const feeds: Feeds = {};
    for (const [model, runner] of this.runners.entries()) {
      feeds[`normed_${model}`] = await runner.finalNorm(pick(residuals[model], places));
    }
    const parts: Record<string, Float32Array>[] = [];
    for (const [number, chunk] of this.chunks.entries()) {
      const [start, end] = chunk;
      const inChunk = BigInt64Array.from(targets, (target) =>
        BigInt(Math.min(Math.max(target - start, 0), end - start - 1)),
      );
      feeds.targets = engine.i64(inChunk, [1, places.length, 1]);
      const build = () => scoreGraph(this.runners, chunk, engine.portable);
      const outputs = await this.shelf.run(`${number}`, build, feeds);
      parts.push(Object.fromEntries(Object.entries(outputs).map(([name, tensor]) => [name, floats(tensor)])));
    }
    for (let place = 0; place < places.length; place++) {
      const sums = this.runners.map((_, model) => this.combine(parts, model, place, targets[place]));
      const { put, putKl } = at(place);
      for (const [model, { nll, top }] of sums.entries()) {
        if (!Number.isFinite(nll)) throw this.nonFinite(model, nll);
        put(model, nll, top);
      }
      if (sums.length === 2) {
        const [donor, operated] = sums;
        let cross = 0;
        for (const part of parts) cross += part.cross[place] * Math.exp(part.max_0[place] - donor.max);
        putKl(cross / donor.sum - donor.logSum + operated.logSum);
      }
    }
  }

  /** Put the chunks of one place together. */
  private combine(parts: readonly Record<string, Float32Array>[], model: number, place: number, target: number) {
    let max = -Infinity;
    let top = -1;
    for (const [number, part] of parts.entries()) {
      const value = part[`max_${model}`][place];
      // Strictly larger, or NaN: the first of equal tokens is the top one, and a NaN is not lost.
      if (!(value <= max)) {
        max = value;
        top = this.chunks[number][0] + part[`top_${model}`][place];
      }
    }
    let sum = 0;
    let targetLogit = Number.NaN;
    for (const [number, part] of parts.entries()) {
      sum += part[`sum_${model}`][place] * Math.exp(part[`max_${model}`][place] - max);
      const [start, end] = this.chunks[number];
      if (target >= start && target < end) targetLogit = part[`target_${model}`][place];
    }
    const logSum = max + Math.log(sum);
    return { max, sum, logSum, top, nll: logSum - targetLogit };
  }

  private nonFinite(model: number, value: number): PhysariumError {
    const { path } = this.runners[model].donor;
    return new PhysariumError(
      "VERIFY_NON_FINITE",
      `${path}: the model's likelihoods are not finite (${value}); its weights or activations overflow, so it has ` +
        "no perplexity",
      { path },
    );
  }
}

/** The rows of `places`, as (1, places, width). */
function pick({ data, width }: Activations, places: Int32Array): Activations {
  const picked = new Float32Array(places.length * width);
  places.forEach((place, row) => {
    picked.set(data.subarray(place * width, (place + 1) * width), row * width);
  });
  return { data: picked, batch: 1, tokens: places.length, width };
}
