import type { ModelSource } from "../checkpoint/model-source.js";
import { PhysariumError } from "../errors.js";
import type { Activations, KvCache, LayerRunner } from "./forward/layer-runner.js";
import { readOptionalJson, type TextTokenizer } from "./text/tokenizer.js";

export interface SamplingOptions {
  /** 0 (default) takes the most likely token each time. */
  readonly temperature?: number;
  /** The smallest set of tokens that reaches this probability is sampled from; 1 (default) for all. */
  readonly topP?: number;
  /** Same seed, same text. */
  readonly seed?: number;
}

export interface GenerateOptions extends SamplingOptions {
  readonly maxTokens?: number;
  /** Ends the text; the token itself is not part of it. */
  readonly stopIds?: ReadonlySet<number>;
}

export interface GeneratedToken {
  readonly id: number;
  /** Logits it was chosen from; valid until the next token is asked for. */
  readonly logits: Float32Array;
}

export const DEFAULT_MAX_TOKENS = 256;

/**
 * Continue `prompt`, token by token with a KV cache, until a stop token, `maxTokens` or the end of the model's
 * positions.
 *
 * Throws `USAGE_PROMPT` for an empty prompt or one that fills the model's positions, `USAGE_SAMPLING` for parameters
 * out of range, `VERIFY_NON_FINITE` where the logits hold NaN or an infinity.
 */
export async function* generateTokens(
  runner: LayerRunner,
  prompt: readonly number[],
  options: GenerateOptions = {},
): AsyncGenerator<GeneratedToken> {
  const { maxPositions } = runner.architecture;
  if (prompt.length === 0 || prompt.length >= maxPositions) {
    throw new PhysariumError(
      "USAGE_PROMPT",
      `the prompt has ${prompt.length} tokens; this model continues 1 to ${maxPositions - 1}`,
      { tokens: prompt.length, maxPositions },
    );
  }
  const sample = samplerOf(options);
  const wanted = Math.min(options.maxTokens ?? DEFAULT_MAX_TOKENS, maxPositions - prompt.length);
  let cache: KvCache | undefined;
  let next: readonly number[] = prompt;
  for (let count = 0; count < wanted; count++) {
    const step = await runner.extend([next], cache);
    cache = step.cache;
    const { data } = await runner.logits(lastPlace(step.residual));
    const id = sample(checked(data, runner));
    if (options.stopIds?.has(id)) return;
    yield { id, logits: data };
    next = [id];
  }
}

/** The tokens that end a text, from the tokenizer, config.json and generation_config.json. */
export async function stopTokens(source: ModelSource, tokenizer: TextTokenizer): Promise<Set<number>> {
  const ids = new Set<number>();
  if (tokenizer.eos !== undefined) ids.add(tokenizer.eos.id);
  for (const file of ["config.json", "generation_config.json"]) {
    const { eos_token_id: eos } = await readOptionalJson(source, file);
    for (const id of Array.isArray(eos) ? eos : [eos]) if (typeof id === "number") ids.add(id);
  }
  return ids;
}

/** A prompt's tokens, behind the one that the tokenizer itself puts in front of a text. */
export async function promptTokens(tokenizer: TextTokenizer, text: string): Promise<number[]> {
  const { leading } = tokenizer;
  return [...(leading === undefined ? [] : [leading.id]), ...(await tokenizer.encode(text))];
}

/** The residual of the last token alone. */
export function lastPlace({ data, width }: Activations): Activations {
  return { data: data.slice(data.length - width), batch: 1, tokens: 1, width };
}

function checked(logits: Float32Array, runner: LayerRunner): Float32Array {
  const at = logits.findIndex((value) => !Number.isFinite(value));
  if (at < 0) return logits;
  throw new PhysariumError(
    "VERIFY_NON_FINITE",
    `${runner.donor.path}: the logit of token ${at} is ${logits[at]}; the model's weights or activations overflow`,
    { path: runner.donor.path, token: at },
  );
}

/** The most likely token; the lower id where two are equal. */
export function argmax(logits: Float32Array): number {
  let best = 0;
  for (let id = 1; id < logits.length; id++) if (logits[id] > logits[best]) best = id;
  return best;
}

function samplerOf({ temperature = 0, topP = 1, seed = 0 }: SamplingOptions): (logits: Float32Array) => number {
  if (!(temperature >= 0) || !(topP > 0 && topP <= 1) || !Number.isSafeInteger(seed)) {
    throw new PhysariumError(
      "USAGE_SAMPLING",
      `--temperature ${temperature} --top-p ${topP} --seed ${seed}: expected a temperature of 0 or more, 0 < top-p ` +
        "≤ 1 and a whole seed",
    );
  }
  if (temperature === 0) return argmax;
  const random = randomNumbers(seed);
  return (logits) => {
    const max = logits[argmax(logits)];
    const weights = Float64Array.from(logits, (logit) => Math.exp((logit - max) / temperature));
    const total = weights.reduce((sum, weight) => sum + weight, 0);
    const order = Array.from(weights.keys()).sort((a, b) => weights[b] - weights[a] || a - b);
    let kept = 0;
    let count = 0;
    while (count < order.length && kept < topP * total) kept += weights[order[count++]];
    let left = random() * kept;
    for (let at = 0; at < count; at++) {
      left -= weights[order[at]];
      if (left < 0) return order[at];
    }
    return order[count - 1];
  };
}

/** mulberry32: 32 bits of state are plenty for choosing words, and the same on every machine. Uniform in [0, 1). */
function randomNumbers(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Text piece by piece as tokens come: holds back what may still be half a character. */
export class StreamDecoder {
  private readonly ids: number[];

  private constructor(
    private readonly tokenizer: TextTokenizer,
    prompt: readonly number[],
    private shown: string,
  ) {
    this.ids = [...prompt];
  }

  /** `prompt` is what stands before; it is not shown again, but decides about spaces. */
  static async after(prompt: readonly number[], tokenizer: TextTokenizer): Promise<StreamDecoder> {
    return new StreamDecoder(tokenizer, prompt, await tokenizer.decode(prompt));
  }

  push(id: number): Promise<string> {
    this.ids.push(id);
    return this.flush(/�+$/);
  }

  /** What was held back, as it is. */
  end(): Promise<string> {
    return this.flush(/$^/);
  }

  private async flush(unfinished: RegExp): Promise<string> {
    const text = (await this.tokenizer.decode(this.ids)).replace(unfinished, "");
    const piece = text.startsWith(this.shown) ? text.slice(this.shown.length) : "";
    if (piece !== "") this.shown = text;
    return piece;
  }
}
