import { execFileSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";

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

const isThere = existsSync(`${ORACLE}expected.json`);
if (!isThere) console.log("skipped: ../shared/oracle with the reference's models is not there");

describe.skipIf(!isThere)("eval agrees with the reference library", () => {
  const expected = isThere ? JSON.parse(readFileSync(`${ORACLE}expected.json`, "utf8")) : {};

  test.each(FAMILIES)("%s, within 1e-5 nats", { timeout: 60_000 }, (name) => {
    const found = meanNll(JSON.parse(evaluate(name).stdout));
    expect(Math.abs(found! - expected[name].mean_nll)).toBeLessThan(1e-5);
  });

  test("a decoder that looks ahead is refused by the field's name", { timeout: 60_000 }, () => {
    const { stdout, stderr } = evaluate("gemma3_bidir");
    expect(stdout + stderr).toMatch(/use_bidirectional_attention is true/);
  });
});
