import { execFileSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import { verify } from "../../dist/audit/verify.js";
import { openDonor } from "../../dist/checkpoint/donor.js";
import { LayerRunner } from "../../dist/probe/forward/layer-runner.js";
import { checkOptions } from "../../dist/surgery/options.js";
import { planSurgery } from "../../dist/surgery/plan.js";
import { operateOn } from "../surgery/operate.js";
import { temporaryFolder } from "../temporary.js";

const ORACLE = fileURLToPath(new URL("../../../shared/oracle/", import.meta.url));
const MAIN = fileURLToPath(new URL("../../dist/cli/main.js", import.meta.url));

/** Families whose reference is `expected.json` beside the models: the mean NLL that transformers finds in f32. */
const FAMILIES = [
  "cohere2",
  "deepseek_v3",
  "exaone4",
  "falcon",
  "gemma4_text",
  "glm4",
  "gpt2",
  "gpt_oss",
  "gpt_neox",
  "granite",
  "lfm2",
  "llama4_text",
  "llama_partial",
  "mixtral",
  "nemotron",
  "olmo2",
  "opt",
  "phi",
  "phi3_longrope",
  "qwen2_moe",
  "qwen3_moe",
  "qwen3_next",
  "stablelm",
  "starcoder2",
];

function evaluate(name: string): { stdout: string; stderr: string } {
  const options = ["--text", `${ORACLE}text.txt`, "--window", "64", "--limit", "8", "--json"];
  try {
    const stdout = execFileSync(process.execPath, [MAIN, "eval", `${ORACLE}${name}`, ...options], {
      encoding: "utf8",
      stdio: ["ignore", "pipe", "pipe"],
    });
    return { stdout, stderr: "" };
  } catch (error) {
    return error as { stdout: string; stderr: string };
  }
}

/** Mean negative log-likelihood, wherever in the record it stands. */
function meanNll(record: unknown): number | undefined {
  if (typeof record !== "object" || record === null) return undefined;
  for (const [key, value] of Object.entries(record)) {
    const found = /^(?:mean_?)?nll$/i.test(key) && typeof value === "number" ? value : meanNll(value);
    if (found !== undefined) return found;
  }
  return undefined;
}

/** What surgery by itself would operate on in these layers. */
async function targetsOf(model: string, layers: string): Promise<{ include: string; decoder: number }> {
  const { shards } = planSurgery(await openDonor(model), checkOptions({}));
  const own = shards.flatMap(({ tensors }) =>
    tensors.filter(({ role, name }) => role === "target" && new RegExp(layers).test(name)),
  );
  return { include: `^(?:${own.map(({ name }) => name.replaceAll(".", "\\.")).join("|")})$`, decoder: own.length };
}

const folder = temporaryFolder();
const isThere = existsSync(`${ORACLE}expected.json`);
if (!isThere) console.log("skipped: ../shared/oracle with the reference's models is not there");

describe.skipIf(!isThere)("eval agrees with the reference library", () => {
  const expected = isThere ? JSON.parse(readFileSync(`${ORACLE}expected.json`, "utf8")) : {};

  test.each(FAMILIES)("%s, within 1e-5 nats", { timeout: 60_000 }, (name) => {
    const found = meanNll(JSON.parse(evaluate(name).stdout));
    expect(Math.abs(found! - expected[name].mean_nll)).toBeLessThan(1e-5);
  });

  test.each(FAMILIES)("%s: tokens one by one give what all at once give", { timeout: 60_000 }, async (name) => {
    const runner = await LayerRunner.open(`${ORACLE}${name}`);
    try {
      const tokens = [...readFileSync(`${ORACLE}text.txt`).subarray(0, 20)];
      const { data: whole } = await runner.logits(await runner.forward(await runner.embed([tokens])));
      const width = runner.architecture.vocabSize;
      let { cache } = await runner.extend([tokens.slice(0, 8)]);
      for (let place = 8; place < tokens.length; place++) {
        const next = await runner.extend([[tokens[place]]], cache);
        cache = next.cache;
        const { data } = await runner.logits(next.residual);
        for (let id = 0; id < width; id++) expect(Math.abs(data[id] - whole[place * width + id])).toBeLessThan(1e-3);
      }
    } finally {
      await runner.close();
    }
  });

  // One layer of each kind that the model has; the first four have plain layers of their own shapes.
  test.each([
    ["gpt2", "h\\.0\\."],
    ["falcon", "h\\.0\\."],
    ["cohere2", "layers\\.0\\."],
    ["olmo2", "layers\\.0\\."],
    ["mixtral", "layers\\.0\\."],
    ["qwen2_moe", "layers\\.0\\."],
    ["qwen3_moe", "layers\\.0\\."],
    ["gpt_oss", "layers\\.0\\."],
    ["deepseek_v3", "layers\\.[01]\\."],
    ["llama4_text", "layers\\.0\\."],
    ["qwen3_next", "layers\\.0\\."],
    ["lfm2", "layers\\.[01]\\."],
  ])("v2 on %s operates on every matrix and verifies", { timeout: 60_000 }, async (name, layers) => {
    const output = join(folder, name);
    const { include, decoder } = await targetsOf(`${ORACLE}${name}`, layers);
    const calibration = { calibration: `${ORACLE}text.txt`, samples: 2, window: 64 };
    const options = { flow: "activation", targetSparsity: 0.5, include, ...calibration, workers: 1 };
    const { report } = await operateOn(`${ORACLE}${name}`, output, options);
    expect(report.totals.tensors).toBe(decoder);
    expect((await verify(output, { donorPath: `${ORACLE}${name}`, workers: 0 })).differences).toEqual([]);
  });

  test("a decoder that looks ahead is computed as the reference does, named, and writes nothing", {
    timeout: 60_000,
  }, async () => {
    const model = `${ORACLE}gemma3_bidir`;
    const { mean_nll: found, hints } = JSON.parse(evaluate("gemma3_bidir").stdout);
    expect(Math.abs(found - expected.gemma3_bidir.mean_nll)).toBeLessThan(1e-5);
    expect(hints.join()).toMatch(/use_bidirectional_attention is true.*embedding model/);
    const runner = await LayerRunner.open(model);
    await expect(runner.extend([[1, 2, 3]])).rejects.toThrow(/use_bidirectional_attention is true/);
    await runner.close();
  });
});
