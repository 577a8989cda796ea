import { sha256 } from "hash-wasm";
import { type Donor, type Model, openDonor } from "../checkpoint/donor.js";
import { Engine } from "../engine/session.js";
import { isPhysariumError, PhysariumError } from "../errors.js";
import type { DivergenceRecord } from "../record/quality.js";
import { repetitionOf, VERDICT_LIMITS, type Verdict, verdictOf } from "../record/verdict.js";
import { divergenceOf } from "./divergence.js";
import { type EvaluateOptions, evaluate, runModels } from "./evaluate.js";
import { LayerRunner } from "./forward/layer-runner.js";
import { generateTokens, promptTokens, stopTokens } from "./generate.js";
import { TextTokenizer } from "./text/tokenizer.js";

/** What an operated model is held to, and what both models are asked. */
export interface GateOptions extends Omit<EvaluateOptions, "against"> {
  readonly against: Model;
  readonly prompts?: readonly string[];
  /** Tokens of each greedy continuation. */
  readonly maxTokens?: number;
  /**
   * A text to compare the models on; without it they are compared on the prompts and what the donor itself writes
   * behind them.
   */
  readonly text?: string;
  readonly maxPerplexityRatio?: number;
  readonly maxKl?: number;
  readonly minSameTop?: number;
  /** By how much the model's texts may repeat themselves more than the donor's, as a share (0–1). */
  readonly maxRepetition?: number;
}

/**
 * What holds where no limit is named: a model that is not "broken" (record/verdict.ts says why there), and does not
 * loop where the donor does not. A quarter of the runs of four tokens said again is a phrase in every other sentence.
 */
export const DEFAULT_LIMITS = {
  maxPerplexityRatio: VERDICT_LIMITS.perplexity_ratio.broken,
  maxKl: VERDICT_LIMITS.kl_mean.broken,
  minSameTop: VERDICT_LIMITS.same_top.broken,
  maxRepetition: 0.25,
} as const;

/** The limits in force: those that were named, or the default ones where none was. */
export function limitsOf({ maxPerplexityRatio, maxKl, minSameTop, maxRepetition }: Limits): Limits {
  const named = { maxPerplexityRatio, maxKl, minSameTop, maxRepetition };
  return Object.values(named).every((limit) => limit === undefined) ? DEFAULT_LIMITS : named;
}

type Limits = Pick<GateOptions, "maxPerplexityRatio" | "maxKl" | "minSameTop" | "maxRepetition">;

/** The gate's finding, as plain JSON. */
export interface GateReport {
  readonly accepted: boolean;
  readonly model: string;
  readonly donor: string;
  readonly prompts: readonly PromptRecord[];
  /** What the models were compared on: a file's name, or `null` for the prompts with the donor's own continuations. */
  readonly text: string | null;
  /** `null` where a model gave NaN or an infinity. */
  readonly divergence: DivergenceRecord | null;
  /** `null` where there is no divergence to judge. */
  readonly verdict: Verdict | null;
  /** Whether the limits were named, or are those of `DEFAULT_LIMITS`. */
  readonly default_limits: boolean;
  readonly rules: readonly RuleRecord[];
}

export interface PromptRecord {
  readonly prompt: string;
  readonly donor: Continuation;
  readonly model: Continuation;
  /** Tokens from the start on which both continuations agree. */
  readonly same_prefix_tokens: number;
}

export interface Continuation {
  readonly text: string;
  readonly tokens: readonly number[];
  /** SHA-256 of the token ids as 32-bit little-endian integers, equal over both runs where `deterministic`. */
  readonly sha256: string;
  readonly deterministic: boolean;
  /** No NaN and no infinity in any logit. */
  readonly finite: boolean;
  /** Share (0–1) of its runs of four tokens that stood in it before. */
  readonly repetition: number;
  /** The ten most likely first tokens. */
  readonly top10: readonly { readonly id: number; readonly token: string; readonly probability: number }[];
}

export interface RuleRecord {
  readonly rule: "finite" | "deterministic" | "max_perplexity_ratio" | "max_kl" | "min_same_top" | "max_repetition";
  readonly limit: number | boolean;
  /** `null` where it could not be measured, which breaks the rule. */
  readonly value: number | boolean | null;
  readonly kept: boolean;
}

export const GATE_PROMPTS: readonly string[] = [
  "Once upon a time",
  "The most important thing about water is",
  "One day, a little girl named",
];
export const GATE_TOKENS = 48;

/**
 * Does the operated model still speak, and does it still say what the donor said? Greedy continuations twice each,
 * their logits checked, and the rules that were asked for. The caller decides what a broken rule means; `gateError`
 * makes the error of it.
 */
export async function runGate(given: Model, options: GateOptions): Promise<GateReport> {
  const { signal } = options;
  const [model, donor] = [await openDonor(given), await openDonor(options.against)];
  return TextTokenizer.with(model.source, { signal }, (tokenizer) => runOn(tokenizer, model, donor, options));
}

async function runOn(tokenizer: TextTokenizer, model: Donor, donor: Donor, options: GateOptions): Promise<GateReport> {
  const engine = options.engine ?? (await Engine.open(options));
  const texts = options.prompts ?? GATE_PROMPTS;
  const prompts = await Promise.all(texts.map((text) => promptTokens(tokenizer, text)));
  const maxTokens = options.maxTokens ?? GATE_TOKENS;
  const shared = { ...options, engine, workload: { runs: 2 * prompts.length * maxTokens, tokens: 0 } };
  const before = await continueAll(donor, tokenizer, prompts, maxTokens, shared);
  const after = await continueAll(model, tokenizer, prompts, maxTokens, shared);
  const divergence = await compare(model, prompts, before, { ...options, against: donor, engine });
  const limits = limitsOf(options);
  const rules = rulesOf(limits, before, after, divergence);
  return {
    accepted: rules.every(({ kept }) => kept),
    model: model.path,
    donor: donor.path,
    prompts: texts.map((prompt, at) => ({
      prompt,
      donor: before[at],
      model: after[at],
      same_prefix_tokens: samePrefix(before[at].tokens, after[at].tokens),
    })),
    text: options.text ?? null,
    divergence,
    verdict: divergence === null ? null : verdictOf(divergence),
    default_limits: limits === DEFAULT_LIMITS,
    rules,
  };
}

/** The error for a report that was not accepted: `VERIFY_GATE`, exit 4. */
export function gateError(report: GateReport): PhysariumError {
  const broken = report.rules.filter(({ kept }) => !kept);
  const words = broken.map(({ rule, limit, value }) => `${rule} is ${value ?? "not measurable"}, allowed is ${limit}`);
  return new PhysariumError(
    "VERIFY_GATE",
    `${report.model}: ${words.join("; ")}; keep the donor, or operate more gently`,
    {
      broken,
    },
  );
}

async function continueAll(
  model: Donor,
  tokenizer: TextTokenizer,
  prompts: readonly (readonly number[])[],
  maxTokens: number,
  options: Omit<GateOptions, "against">,
): Promise<Continuation[]> {
  const stopIds = await stopTokens(model.source, tokenizer);
  const runner = await LayerRunner.open(model, options);
  try {
    const continuations: Continuation[] = [];
    for (const prompt of prompts) {
      const first = await continueOnce(runner, prompt, maxTokens, stopIds);
      const second = await continueOnce(runner, prompt, maxTokens, stopIds);
      const hash = await hashOf(first.tokens);
      continuations.push({
        text: (await tokenizer.decode([...prompt, ...first.tokens])).slice((await tokenizer.decode(prompt)).length),
        tokens: first.tokens,
        sha256: hash,
        deterministic: hash === (await hashOf(second.tokens)),
        finite: first.finite && second.finite,
        repetition: repetitionOf(first.tokens),
        top10: first.logits === undefined ? [] : await topTen(first.logits, tokenizer),
      });
    }
    return continuations;
  } finally {
    await runner.close();
  }
}

async function continueOnce(
  runner: LayerRunner,
  prompt: readonly number[],
  maxTokens: number,
  stopIds: ReadonlySet<number>,
): Promise<{ tokens: number[]; logits: Float32Array | undefined; finite: boolean }> {
  const tokens: number[] = [];
  let firstLogits: Float32Array | undefined;
  try {
    for await (const { id, logits } of generateTokens(runner, prompt, { maxTokens, stopIds })) {
      firstLogits ??= logits;
      tokens.push(id);
    }
    return { tokens, logits: firstLogits, finite: true };
  } catch (error) {
    if (!isPhysariumError(error, "VERIFY_NON_FINITE")) throw error;
    return { tokens, logits: firstLogits, finite: false };
  }
}

/** Both models on the text, or on the prompts with what the donor wrote behind them. */
async function compare(
  model: Donor,
  prompts: readonly (readonly number[])[],
  continued: readonly Continuation[],
  options: GateOptions,
): Promise<DivergenceRecord | null> {
  try {
    if (options.text !== undefined) return (await evaluate(model, options.text, options)).quality.divergence;
    const sequences = prompts
      .map((prompt, at) => ({ ids: [...prompt, ...continued[at].tokens], scoreFrom: 1 }))
      .filter(({ ids, scoreFrom }) => ids.length > scoreFrom);
    const tokens = sequences.reduce((total, { ids, scoreFrom }) => total + ids.length - scoreFrom, 0);
    if (tokens === 0) return null;
    const record = {
      name: "documents" as const,
      window: Math.max(...sequences.map(({ ids }) => ids.length)),
      stride: 0,
      windows: sequences.length,
      tokens,
      bos: null,
      joiner: null,
      separator: null,
      documents: sequences.length,
    };
    const { traces, kl } = await runModels([options.against, model], { record, sequences, unknownTokens: 0 }, options);
    return divergenceOf(traces[0], traces[1], kl!);
  } catch (error) {
    if (!isPhysariumError(error, "VERIFY_NON_FINITE")) throw error;
    return null;
  }
}

function rulesOf(
  limits: Limits,
  before: readonly Continuation[],
  after: readonly Continuation[],
  divergence: DivergenceRecord | null,
): RuleRecord[] {
  const continuations = [...before, ...after];
  const holds = (rule: RuleRecord["rule"], value: boolean): RuleRecord => ({ rule, limit: true, value, kept: value });
  const rules = [
    holds("finite", divergence !== null && continuations.every(({ finite }) => finite)),
    holds(
      "deterministic",
      continuations.every(({ deterministic }) => deterministic),
    ),
  ];
  const atMost = (rule: RuleRecord["rule"], limit: number | undefined, value: number | undefined): void => {
    // Written so that NaN breaks the rule.
    if (limit !== undefined)
      rules.push({ rule, limit, value: value ?? null, kept: value !== undefined && value <= limit });
  };
  atMost("max_perplexity_ratio", limits.maxPerplexityRatio, divergence?.perplexity_ratio);
  atMost("max_kl", limits.maxKl, divergence?.kl_mean);
  if (limits.minSameTop !== undefined) {
    const value = divergence?.same_top;
    const kept = value !== undefined && value >= limits.minSameTop;
    rules.push({ rule: "min_same_top", limit: limits.minSameTop, value: value ?? null, kept });
  }
  const mean = (all: readonly Continuation[]) => all.reduce((sum, { repetition }) => sum + repetition, 0) / all.length;
  atMost("max_repetition", limits.maxRepetition, mean(after) - mean(before));
  return rules;
}

async function topTen(logits: Float32Array, tokenizer: TextTokenizer): Promise<Continuation["top10"]> {
  const max = logits.reduce((largest, logit) => Math.max(largest, logit), Number.NEGATIVE_INFINITY);
  let total = 0;
  for (const logit of logits) total += Math.exp(logit - max);
  const order = Array.from(logits.keys()).sort((a, b) => logits[b] - logits[a] || a - b);
  return Promise.all(
    order.slice(0, 10).map(async (id) => ({
      id,
      token: (await tokenizer.decode([id])) || ((await tokenizer.textOf(id)) ?? ""),
      probability: Math.exp(logits[id] - max) / total,
    })),
  );
}

function hashOf(tokens: readonly number[]): Promise<string> {
  const bytes = new Uint8Array(4 * tokens.length);
  const view = new DataView(bytes.buffer);
  tokens.forEach((token, at) => {
    view.setInt32(4 * at, token, true);
  });
  return sha256(bytes);
}

function samePrefix(a: readonly number[], b: readonly number[]): number {
  const length = Math.min(a.length, b.length);
  for (let at = 0; at < length; at++) if (a[at] !== b[at]) return at;
  return length;
}
