import { refuseStopped } from "../errors.js";
import { repetitionOf } from "../record/verdict.js";
import type { KvCache, LayerRunner, SuppliedWeights } from "./forward/layer-runner.js";
import { argmax } from "./generate.js";

/** Answers that grow side by side: enough to share each step's cost, few enough that keys and values stay small. */
const AT_ONCE = 32;

export interface AnswerOptions {
  /** Tokens of each answer; what would end a text does not end it. */
  readonly tokens: number;
  /** Weights in place of the checkpoint's. */
  readonly supplied?: SuppliedWeights;
  readonly signal?: AbortSignal | undefined;
}

/** What a model says greedily behind prompts of one length. Throws `STOPPED` soon after `signal` aborts. */
export async function greedyAnswers(
  runner: LayerRunner,
  prompts: readonly (readonly number[])[],
  { tokens, supplied, signal }: AnswerOptions,
): Promise<number[][]> {
  const answers: number[][] = [];
  for (let start = 0; start < prompts.length; start += AT_ONCE) {
    const group = prompts.slice(start, start + AT_ONCE);
    const said = group.map((): number[] => []);
    let cache: KvCache | undefined;
    let next: readonly (readonly number[])[] = group;
    while (said[0].length < tokens) {
      refuseStopped(signal);
      const step = await runner.extend(next, cache, supplied);
      cache = step.cache;
      const { data, batch, tokens: length, width } = step.residual;
      const last = new Float32Array(batch * width);
      for (let row = 0; row < batch; row++) {
        const end = (row + 1) * length * width;
        last.set(data.subarray(end - width, end), row * width);
      }
      const logits = await runner.logits({ data: last, batch, tokens: 1, width });
      next = said.map((ids, row) => {
        const id = argmax(logits.data.subarray(row * logits.width, (row + 1) * logits.width));
        ids.push(id);
        return [id];
      });
    }
    answers.push(...said);
  }
  return answers;
}

/** Shares of answers, 0–1. */
export interface AnswerScore {
  /** Those whose first 8, 16, 32 tokens are the donor's. */
  readonly same8: number;
  readonly same16: number;
  readonly same32: number;
  /** Mean share of an answer's runs of four tokens that stood in it before. */
  readonly repetition: number;
}

/** How a model's answers compare with the donor's to the same prompts; shorter ones are compared as far as they go. */
export function scoreAnswers(donor: readonly (readonly number[])[], own: readonly (readonly number[])[]): AnswerScore {
  const share = (length: number): number =>
    own.filter((ids, at) => ids.slice(0, length).every((id, place) => id === donor[at][place])).length / own.length;
  return {
    same8: share(8),
    same16: share(16),
    same32: share(32),
    repetition: own.reduce((sum, ids) => sum + repetitionOf(ids), 0) / own.length,
  };
}
