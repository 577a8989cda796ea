import { execFileSync, spawnSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import { LayerRunner } from "../../dist/probe/forward/layer-runner.js";
import { temporaryFolder } from "../temporary.js";

const ORACLE = fileURLToPath(new URL("../../../shared/oracle/", import.meta.url));
const MAIN = fileURLToPath(new URL("../../dist/cli/main.js", import.meta.url));

/** Families whose reference is `expected.json` beside the models: the mean NLL that transformers finds in f32. */
const FAMILIES = [
  "cohere2",
  "deepseek_v3",
  "exaone4",
  "falcon",
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

  test.each(["gpt2", "falcon", "cohere2", "olmo2"])("v2 on %s verifies", { timeout: 60_000 }, (name) => {
    const output = join(folder, name);
    const text = ["--calibration", `${ORACLE}text.txt`, "--samples", "2", "--window", "64"];
    const v2 = ["--flow", "activation", "--target-sparsity", "0.5", ...text, "--quiet"];
    execFileSync(process.execPath, [MAIN, "surgery", `${ORACLE}${name}`, output, ...v2]);
    const said = execFileSync(process.execPath, [MAIN, "verify", `${ORACLE}${name}`, output], { encoding: "utf8" });
    expect(said).toContain("holds against");
  });

  test("v2 refuses experts by name, before anything is written", { timeout: 60_000 }, () => {
    const args = ["surgery", `${ORACLE}mixtral`, join(folder, "mixtral"), "--flow", "activation", "--pattern", "2:4"];
    const { status, stderr } = spawnSync(process.execPath, [MAIN, ...args, "--calibration", `${ORACLE}text.txt`], {
      encoding: "utf8",
    });
    expect(status).toBe(2);
    expect(stderr).toMatch(/experts\.0\.w1\.weight.*\[USAGE_TARGET\]/);
    expect(existsSync(join(folder, "mixtral"))).toBe(false);
  });

  test("a decoder that looks ahead is refused by the field's name", { timeout: 60_000 }, () => {
    const { stdout, stderr } = evaluate("gemma3_bidir");
    expect(stdout + stderr).toMatch(/use_bidirectional_attention is true/);
  });
});
