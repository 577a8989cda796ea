import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import type { DivergenceRecord } from "../../dist/record/quality.js";
import { repetitionOf, VERDICT_LIMITS, verdictOf } from "../../dist/record/verdict.js";

const divergence = (
  [kl_mean, kl_mean_stderr]: [number, number],
  [same_top, same_top_stderr]: [number, number],
  [perplexity_ratio, ln_ratio_stderr]: [number, number],
) => ({ kl_mean, kl_mean_stderr, same_top, same_top_stderr, perplexity_ratio, ln_ratio_stderr }) as DivergenceRecord;

test.each([
  // What the quantisations of SmolLM2-135M-Instruct measured: docs/verdict.md.
  ["Q8_0", divergence([0.00133, 0.00002], [0.9759, 0.0014], [1.0029, 0.0005]), "intact"],
  ["6 and 16 bits", divergence([0.00508, 0.00007], [0.9533, 0.0019], [1.0049, 0.001]), "intact"],
  ["Q4_0", divergence([0.4289, 0.0036], [0.6179, 0.0044], [1.3796, 0.0092]), "noticeable"],
  ["surely past Q4_0", divergence([0.6, 0.004], [0.55, 0.004], [1.6, 0.01]), "broken"],
  ["one measure is enough", divergence([0.001, 0.0001], [0.98, 0.001], [1.6, 0.01]), "broken"],
  ["an error too large to call it intact", divergence([0.005, 0.004], [0.96, 0.001], [1.004, 0.001]), "noticeable"],
  ["an error too large to call it broken", divergence([0.5, 0.1], [0.7, 0.01], [1.2, 0.01]), "noticeable"],
  ["NaN", divergence([Number.NaN, 0], [0.98, 0.001], [1, 0.001]), "broken"],
])("%s", (_, measured, word) => {
  const verdict = verdictOf(measured);
  expect(verdict.word).toBe(word);
  expect(verdict.sentence.startsWith(`${word}: `)).toBe(true);
  expect(verdict.basis.map(({ measure }) => measure)).toEqual(["kl_mean", "same_top", "perplexity_ratio"]);
});

test("how much a text repeats itself", () => {
  expect(repetitionOf([])).toBe(0);
  expect(repetitionOf([1, 2, 3])).toBe(0);
  expect(repetitionOf([1, 2, 3, 4, 5, 6, 7, 8])).toBe(0);
  expect(repetitionOf(new Array(103).fill(7))).toBeCloseTo(0.99);
  expect(repetitionOf([1, 2, 3, 4, 9, 1, 2, 3, 4])).toBeCloseTo(1 / 6);
});

test("its words and limits agree with what docs/verdict.md measured", () => {
  const page = readFileSync("docs/verdict.md", "utf8");
  const rowOf = (type: string) => {
    const row = new RegExp(
      `^\\| ${type} \\| [\\d,]+ \\| ([\\d.]+) ± [\\d.]+ \\| ([\\d.]+) ± [\\d.]+ % \\| ([\\d.]+) ±`,
      "m",
    );
    const [, kl, top, ratio] = row.exec(page)!.map(Number);
    return { kl, differs: 1 - top / 100, rise: ratio - 1 };
  };
  const { kl_mean, same_top, perplexity_ratio } = VERDICT_LIMITS;
  const [sixBits, fourBits] = [rowOf("Q6_K"), rowOf("Q4_0")];
  // "less than twice what a Q6_K quantisation changes", and Q6_K itself is intact.
  for (const [limit, measured] of [
    [kl_mean.intact, sixBits.kl],
    [1 - same_top.intact, sixBits.differs],
    [perplexity_ratio.intact - 1, sixBits.rise],
  ]) {
    expect(limit).toBeGreaterThan(measured);
    expect(limit).toBeLessThan(2 * measured);
  }
  // "what Q4_0 costs".
  expect(kl_mean.broken).toBeCloseTo(fourBits.kl, 2);
  expect(1 - same_top.broken).toBeCloseTo(fourBits.differs, 2);
  expect(perplexity_ratio.broken - 1).toBeCloseTo(fourBits.rise, 2);
});
