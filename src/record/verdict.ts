import type { DivergenceRecord } from "./quality.js";

/** What an operation did to a model, in a word. */
export type VerdictWord = "intact" | "noticeable" | "broken";

export interface Verdict {
  readonly word: VerdictWord;
  /** One sentence: what it means and what it rests on. */
  readonly sentence: string;
  /** Each measure with its error (one standard error), the word it gives alone, and the limits it was held to. */
  readonly basis: readonly VerdictBasis[];
}

export interface VerdictBasis {
  readonly measure: "kl_mean" | "same_top" | "perplexity_ratio";
  readonly value: number;
  readonly stderr: number;
  readonly intact: number;
  readonly broken: number;
  readonly word: VerdictWord;
}

/**
 * Where "intact" ends and "broken" begins, by what llama.cpp's quantisations of SmolLM2-135M-Instruct measure against
 * it (docs/verdict.md has the commands and the table): Q8_0 has a mean KL of 0.0013 nats, 97.6 % the same top token
 * and perplexity × 1.003; Q6_K 0.0060, 95.2 % and × 1.007; Q4_K 0.091, 80.7 % and × 1.102; Q4_0 0.43, 61.8 % and
 * × 1.38. Nobody calls the first two a different model, and past the last nobody ships one: intact ends short of twice
 * what Q6_K changes, in each of the three measures, and broken begins where Q4_0 stands.
 */
export const VERDICT_LIMITS = {
  kl_mean: { intact: 0.01, broken: 0.43 },
  same_top: { intact: 0.94, broken: 0.62 },
  perplexity_ratio: { intact: 1.01, broken: 1.38 },
} as const;

/** How many standard errors a measure must be clear of a limit to be judged by it. */
const CLEAR = 2;

const WORDS: readonly VerdictWord[] = ["intact", "noticeable", "broken"];

const MEANING: Record<VerdictWord, string> = {
  intact: "less than twice what a Q6_K quantisation changes: it writes as the donor does",
  noticeable:
    "between twice what Q6_K changes and what Q4_0 costs: it still writes sense, and a reader may see the difference",
  broken: "more than what Q4_0 costs: its texts suffer; keep the donor, or operate more gently",
};

/**
 * The verdict on a divergence: the worst word of three measures. A measure is "intact" only where it is so with its
 * error added twice, and "broken" only where it is so with the error taken off twice; in between it is "noticeable".
 */
export function verdictOf(divergence: Judged): Verdict {
  const { kl_mean, kl_mean_stderr, same_top, same_top_stderr, perplexity_ratio, ln_ratio_stderr } = divergence;
  const basis = [
    judge("kl_mean", kl_mean, kl_mean_stderr, 1),
    judge("same_top", same_top, same_top_stderr, -1),
    judge("perplexity_ratio", perplexity_ratio, perplexity_ratio * ln_ratio_stderr, 1),
  ];
  const word = WORDS[Math.max(...basis.map((each) => WORDS.indexOf(each.word)))];
  const figures =
    `mean KL ${figure(kl_mean)} ± ${figure(kl_mean_stderr)} nats, the same top token at ` +
    `${(100 * same_top).toFixed(1)} ± ${(100 * same_top_stderr).toFixed(1)} % of the places, perplexity × ` +
    `${perplexity_ratio.toFixed(3)} ± ${(perplexity_ratio * ln_ratio_stderr).toFixed(3)}`;
  return { word, sentence: `${word}: ${MEANING[word]} (${figures})`, basis };
}

type Judged = Pick<
  DivergenceRecord,
  "kl_mean" | "kl_mean_stderr" | "same_top" | "same_top_stderr" | "perplexity_ratio" | "ln_ratio_stderr"
>;

/** `direction` 1 where more is worse, −1 where less is. */
function judge(measure: VerdictBasis["measure"], value: number, stderr: number, direction: 1 | -1): VerdictBasis {
  const { intact, broken } = VERDICT_LIMITS[measure];
  const margin = direction * CLEAR * stderr;
  // Written so that NaN is broken.
  const isIntact = direction * (value + margin) <= direction * intact;
  const isSurelyBroken = !(direction * (value - margin) <= direction * broken);
  return {
    measure,
    value,
    stderr,
    intact,
    broken,
    word: isSurelyBroken ? "broken" : isIntact ? "intact" : "noticeable",
  };
}

function figure(value: number): string {
  return `${Number(value.toPrecision(3))}`;
}

/** Tokens of a run that counts as a repetition when it comes again. */
const RUN = 4;

/**
 * How much a text repeats itself: the share (0–1) of its runs of four tokens that stood in it before. 0 for a text
 * shorter than that; a loop comes near 1.
 */
export function repetitionOf(tokens: readonly number[]): number {
  const total = tokens.length - RUN + 1;
  if (total < 1) return 0;
  const seen = new Set<string>();
  for (let at = 0; at < total; at++) seen.add(tokens.slice(at, at + RUN).join());
  return 1 - seen.size / total;
}
