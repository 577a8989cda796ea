import { afterAll, describe, expect, test } from "vitest";
import { suppliedName } from "../../dist/model/steps.js";
import { greedyAnswers, scoreAnswers } from "../../dist/probe/answers.js";
import { LayerRunner } from "../../dist/probe/forward/layer-runner.js";
import { argmax } from "../../dist/probe/generate.js";
import { hasShared, LOAM, SHARED } from "../shared.js";

const prompts = [
  [5, 9, 31],
  [7, 2, 8],
];

/** Keys and values kept, and (short convolutions beside attention) everything run anew. */
const MODELS: [string, string][] = [
  ["loam", LOAM],
  ...(hasShared ? [["lfm2", `${SHARED}oracle/lfm2`] as [string, string]] : []),
];

describe.each(MODELS)("%s", (_, path) => {
  const opened: LayerRunner[] = [];
  afterAll(() => Promise.all(opened.map((runner) => runner.close())));

  test("answers of supplied weights are those of the same weights run whole", async () => {
    const runner = await LayerRunner.open(path, { threads: 1 });
    opened.push(runner);
    const supplied = new Map<string, Float32Array>();
    for (let layer = 0; layer < runner.layerCount; layer++) {
      for (const place of runner.projections(layer)) {
        const weights = await runner.weight(place);
        supplied.set(
          suppliedName(place),
          weights.map((weight, at) => (at % 3 === 0 ? 0 : weight)),
        );
      }
    }
    const found = await greedyAnswers(runner, prompts, { tokens: 6, supplied });
    const whole = prompts.map((ids) => [...ids]);
    for (let step = 0; step < 6; step++) {
      let residual = await runner.embed(whole);
      for (let layer = 0; layer < runner.layerCount; layer++) {
        residual = await runner.forwardLayer(layer, residual, { supplied });
        await runner.closeLayer(layer);
      }
      const { data, width } = await runner.logits(residual);
      whole.forEach((ids, row) => {
        const end = (row + 1) * ids.length * width;
        ids.push(argmax(data.subarray(end - width, end)));
      });
    }
    expect(found).toEqual(whole.map((ids) => ids.slice(3)));
    expect(found).not.toEqual(await greedyAnswers(runner, prompts, { tokens: 6 }));
    await expect(greedyAnswers(runner, prompts, { tokens: 6, signal: AbortSignal.abort() })).rejects.toMatchObject({
      code: "STOPPED",
    });
  });
});

test("shares of answers that begin as the donor's do, and what repeats", () => {
  const donor = [Array.from({ length: 64 }, (_, at) => at), Array.from({ length: 64 }, (_, at) => 100 + at)];
  const own = [donor[0].map((id, at) => (at < 20 ? id : 0)), donor[1]];
  expect(scoreAnswers(donor, own)).toEqual({ same8: 1, same16: 1, same32: 0.5, repetition: expect.any(Number) });
  expect(scoreAnswers(donor, donor).repetition).toBe(0);
  // 61 runs of four: 21 of their own, and 40 that are four zeros.
  expect(scoreAnswers(donor, own).repetition).toBeCloseTo((1 - 21 / 61) / 2, 12);
});
