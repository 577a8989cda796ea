import { describe, expect, test } from "vitest";
import type { ReportInput } from "../../dist/record/report-input.js";
import { curveSection, readOff, sparsityCurve } from "../../dist/report/curve-section.js";
import { renderMarkdown } from "../../dist/report/markdown.js";
import { comparisonNumbers, loamLike, qualityNumbers } from "./fixtures.js";

const bare = loamLike() as unknown as ReportInput;
const full = { ...bare, quality: qualityNumbers(), comparison: comparisonNumbers() } as unknown as ReportInput;

describe("perplexity against sparsity", () => {
  test("nothing where nothing was compared, and nothing of patterns alone", () => {
    expect(curveSection(bare)).toBeUndefined();
    const { rows, ...rest } = comparisonNumbers();
    const patterns = rows.filter(({ pattern }) => pattern !== undefined);
    expect(patterns.length).toBeGreaterThan(0);
    expect(curveSection({ ...full, comparison: { ...rest, rows: patterns } } as ReportInput)).toBeUndefined();
  });

  test("the operation is the point at its own zeros and its own ratio, and its flow's curve is marked", () => {
    const { methods, run } = sparsityCurve(full)!;
    const { per_tensor, totals } = full;
    const zeros = per_tensor.reduce((sum, { killed, already_zero }) => sum + killed + already_zero, 0);
    expect(run.sparsity).toBeCloseTo(zeros / totals.target_weights, 6);
    expect(run.ratio).toBe(full.quality!.divergence!.perplexity_ratio);
    expect(methods.filter(({ isOurs }) => isOurs).map(({ title }) => title)).toEqual([
      "magnitude in tiles (v1, the default flow)",
    ]);
    for (const { points } of methods) {
      expect(points.map(({ sparsity }) => sparsity)).toEqual([0.1, 0.25, 0.5, 0.7]);
    }
    expect(methods[2].points[3].ratio).toBeCloseTo(Math.exp(0.85), 12);
  });

  test("curves are read off between their points and nowhere else", () => {
    const points = [
      { sparsity: 0.2, ratio: 1 },
      { sparsity: 0.4, ratio: Math.E },
    ];
    expect(readOff(points, 0.3)).toBeCloseTo(Math.exp(0.5), 12);
    expect(readOff(points, 0.4)).toBe(Math.E);
    expect(readOff(points, 0.2)).toBe(1);
    expect(readOff(points, 0.1)).toBeUndefined();
    expect(readOff(points, 0.5)).toBeUndefined();
  });

  test("Markdown has the sentence and the table; what was not measured is said to be", () => {
    const text = renderMarkdown(full);
    expect(text).toContain("## Perplexity against sparsity");
    // Between 10 % (−0.001) and 25 % (0.004): ln ratio 0.00313 at 22.25 %.
    expect(text).toMatch(/least is lost by activation flow \\?\(v2\\?\), × 1\.003/);
    expect(text).toMatch(/this operation was scored on another text/);
    expect(renderMarkdown({ ...full, quality: null })).toMatch(/was not measured, so it is a line and no point/);
  });
});
