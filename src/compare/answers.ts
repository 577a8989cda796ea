import { writeOwnCalibration } from "../calibration/self-calibration.js";
import { type AnswerScore, greedyAnswers, scoreAnswers } from "../probe/answers.js";
import type { LayerRunner, SuppliedWeights } from "../probe/forward/layer-runner.js";
import type { TextTokenizer } from "../probe/text/tokenizer.js";
import type { AnswerRecord } from "../record/comparison.js";
import type { ComparisonOptions } from "./options.js";

/** Tokens of a prompt that the donor writes itself, and of each answer. */
const PROMPT_TOKENS = 16;
const ANSWER_TOKENS = 64;

/** The donor's greedy answers to prompts of its own, and how those of operated weights compare with them. */
export class Answers {
  private constructor(
    private readonly runner: LayerRunner,
    private readonly prompts: readonly (readonly number[])[],
    private readonly donor: readonly (readonly number[])[],
    private readonly signal: AbortSignal | undefined,
  ) {}

  static async ask(
    runner: LayerRunner,
    tokenizer: TextTokenizer,
    { answers = 0, seed, onProgress, signal }: Pick<ComparisonOptions, "answers" | "seed" | "onProgress" | "signal">,
  ): Promise<Answers> {
    onProgress?.(`the donor answers ${answers} prompts of its own`);
    const prompts = await writeOwnCalibration(runner, tokenizer, answers, PROMPT_TOKENS, seed, signal);
    return new Answers(
      runner,
      prompts,
      await greedyAnswers(runner, prompts, { tokens: tokensOf(runner), signal }),
      signal,
    );
  }

  donorFields(): AnswerRecord {
    return record(scoreAnswers(this.donor, this.donor));
  }

  async fields(supplied: SuppliedWeights): Promise<AnswerRecord> {
    const { runner, prompts, donor, signal } = this;
    const own = await greedyAnswers(runner, prompts, { tokens: tokensOf(runner), supplied, signal });
    return record(scoreAnswers(donor, own));
  }
}

/** Shorter where the model has no room for more. */
function tokensOf({ architecture }: LayerRunner): number {
  return Math.max(1, Math.min(ANSWER_TOKENS, architecture.maxPositions - PROMPT_TOKENS));
}

function record({ same8, same16, same32, repetition }: AnswerScore): AnswerRecord {
  return { same_answers_8: same8, same_answers_16: same16, same_answers_32: same32, repetition };
}
