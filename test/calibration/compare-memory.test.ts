import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { compareMethods } from "../../dist/compare/comparison.js";
import { memoryWords, shareMemory } from "../../dist/compare/memory.js";
import { chooseMethods } from "../../dist/methods/registry.js";
import { LayerRunner } from "../../dist/probe/forward/layer-runner.js";
import { temporaryFolder } from "../temporary.js";

const LOAM = "examples/donors/loam";
const runner = await LayerRunner.open(LOAM, { threads: 1 });
const size = { calibrationTokens: 1024, scoredTokens: 512, hasGrams: true, distils: false };

test("what a comparison holds is counted: operated weights, both streams of the scored text", () => {
  const shared = shareMemory(runner, size, 2 ** 30);
  const weights = runner.projections(0).reduce((sum, { rows, cols }) => sum + rows * cols, 0) * runner.layerCount;
  expect(shared.operated).toBe(4 * weights);
  expect(shared.scored).toBe(2 * 4 * 512 * runner.architecture.hiddenSize);
  expect(shared.operated + shared.scored + shared.work).toBe(2 ** 30);
  expect(shareMemory(runner, { ...size, distils: true }, 2 ** 30).operated).toBe(20 * weights);
  expect(memoryWords(shared)).toMatch(/^memory: of 1\.00 GiB the operated weights take 0\.01/);
});

test.each([
  ["the weights themselves", 2 ** 20, size, /holds the operated weights .* give more --memory/],
  ["whole Grams", 40 * 2 ** 20, size, /whole Grams of \d+ inputs do not fit/],
  ["activations", 2 ** 30, { ...size, calibrationTokens: 1e6 }, /1000000 calibration tokens take .* take at most \d+/],
])("too little for %s is said", (_, total, asked, words) => {
  expect(() => shareMemory(runner, asked, total)).toThrow(words);
});

test("it is refused before the donor writes what it is to calibrate on", async () => {
  const text = join(temporaryFolder(), "text.txt");
  writeFileSync(text, "One day a girl found a stone. ".repeat(40));
  const said: string[] = [];
  const comparing = compareMethods(LOAM, {
    text,
    methods: chooseMethods(["wanda"]),
    targets: [{ kind: "sparsity", sparsity: 0.5 }],
    protocol: { window: 64 },
    samples: 100_000,
    seed: 1,
    threads: 1,
    memoryBytes: 2 ** 28,
    onProgress: (words) => said.push(words),
  });
  await expect(comparing).rejects.toMatchObject({ code: "USAGE_MEMORY" });
  expect(said).toEqual([]);
});
