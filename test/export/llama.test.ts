import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { exportGguf } from "../../dist/export/gguf/export.js";
import { openLlama, openModel } from "./llama-cpp.js";

const llama = await openLlama();
if (llama === undefined)
  console.log("skipped: llama.cpp, node-llama-cpp is not installed (bench/llama-engine.mjs says how)");

const repository = new URL("../..", import.meta.url).pathname;
const stories = join(repository, "../shared/donors/stories260K");
const donors: [string, string, string][] = [
  ["loam", join(repository, "examples/donors/loam"), join(repository, "test/fixtures/loam")],
];
if (existsSync(stories)) donors.push(["stories260K", stories, stories]);

// Where every test is skipped nothing is called behind them.
const scratch = llama === undefined ? "" : mkdtempSync(join(tmpdir(), "physarium-llama-"));
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

/** Mean negative log-likelihood of the golden tokens under the golden logits. */
function goldenNll(logits: Float32Array, ids: readonly number[], vocabSize: number): number {
  let sum = 0;
  for (let at = 0; at + 1 < ids.length; at++) {
    const row = logits.subarray(at * vocabSize, (at + 1) * vocabSize);
    const largest = row.reduce((a, b) => Math.max(a, b));
    const total = row.reduce((weight, logit) => weight + Math.exp(logit - largest), 0);
    sum -= row[ids[at + 1]] - largest - Math.log(total);
  }
  return sum / (ids.length - 1);
}

describe.runIf(llama !== undefined).each(donors)("llama.cpp runs %s", (name, donor, goldenFolder) => {
  it.each(["F32", "F16", "BF16"] as const)("%s: ids, perplexity and greedy text are the golden ones", async (type) => {
    const path = join(scratch, `${name}-${type}.gguf`);
    await exportGguf(donor, path, { type });
    const golden = JSON.parse(readFileSync(join(goldenFolder, "golden.json"), "utf8"));
    const bytes = readFileSync(join(goldenFolder, "golden_logits.f32"));
    const logits = new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length));
    const model = await openModel(llama!, path, 128);
    const bos = name === "stories260K" ? [1] : [];
    expect([...bos, ...model.tokenize(golden.text)]).toEqual(golden.ids);
    const nll = await model.nll(golden.ids);
    const mean = nll.reduce((sum, each) => sum + each, 0) / nll.length;
    // 0.1 % of perplexity.
    expect(Math.abs(mean - goldenNll(logits, golden.ids, golden.logits_shape[1]))).toBeLessThan(0.001);
    expect(await model.greedy(golden.ids, 64)).toEqual(golden.greedy_next_64.ids);
    await model.close();
  });
});
