import { execFileSync, spawnSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { openDonor } from "../../dist/checkpoint/donor.js";
import { withLoadWarnings } from "../../dist/probe/load-warnings.js";
import { smallConfig, writeDonor } from "../export/random-donor.js";
import { hasEngine } from "../probe/engine-present.js";
import { temporaryFolder } from "../temporary.js";

const folder = temporaryFolder();
const text = join(folder, "text.txt");
writeFileSync(text, "Once upon a time there was a mould that lived in a wood. ".repeat(20));
const run = (...args: string[]): string =>
  execFileSync(process.execPath, ["dist/cli/main.js", ...args], {
    encoding: "utf8",
    stdio: ["ignore", "pipe", "pipe"],
  });

/** A donor whose configuration ties the head, and which holds one. */
function tiedDonor(name: string, isCopy: boolean, modelType = "llama"): string {
  let embedding: Float32Array | undefined;
  const path = writeDonor(join(folder, name), {
    config: smallConfig("llama", { tie_word_embeddings: true }),
    tokenizer: true,
    withOptional: ["lm_head"],
    change: (tensor, weights) => {
      if (tensor === "model.embed_tokens.weight") embedding = weights;
      return isCopy && tensor === "lm_head.weight" ? embedding : weights;
    },
  });
  writeFileSync(join(path, "config.json"), JSON.stringify({ ...smallConfig(modelType), tie_word_embeddings: true }));
  return path;
}

const WARNED = { code: "WARN_TIED_HEAD", message: expect.stringMatching(/holds another lm_head\.weight/) };

describe("a head that differs from the embedding to which config.json ties it", () => {
  const donor = tiedDonor("other", false);

  test("is said by plan", () => {
    expect(JSON.parse(run("plan", donor, "--json")).warnings).toContainEqual(WARNED);
    expect(run("plan", donor)).toMatch(/warning {3}config\.json ties the head .* \[WARN_TIED_HEAD\]/);
  });

  test("is said by surgery: JSON, ledger, report, summary", () => {
    const output = join(folder, "other-operated");
    expect(run("surgery", donor, output)).toMatch(/warnings\s+1, listed in the report/);
    const report = JSON.parse(readFileSync(join(output, "physarium", "surgery.json"), "utf8"));
    expect(report.warnings).toContainEqual(WARNED);
    expect(readFileSync(join(output, "physarium", "REPORT.md"), "utf8")).toMatch(/`WARN_TIED_HEAD`/);
    expect(readFileSync(join(output, "physarium", "ledger.jsonl"), "utf8")).toMatch(/"warning".*WARN_TIED_HEAD/);
  });

  test("is said by parts as by surgery", () => {
    const output = join(folder, "parts");
    run("parts", "prepare", donor, output, "--max-parts", "1", "--quiet");
    run("parts", "run", output, "--part", "0", "--quiet");
    run("parts", "finish", output, "--quiet");
    const report = JSON.parse(readFileSync(join(output, "physarium", "surgery.json"), "utf8"));
    expect(report.warnings).toContainEqual(WARNED);
  });

  test.skipIf(!hasEngine)("is said by calibrate and compare", () => {
    const grams = join(folder, "grams.safetensors");
    const found = JSON.parse(run("calibrate", donor, "--text", text, "--window", "32", "--out", grams, "--json"));
    expect(found.warnings).toEqual([WARNED]);
    const compare = ["compare", donor, "--text", text, "--methods", "magnitude", "--window", "32", "--json"];
    const { stderr } = spawnSync(process.execPath, ["dist/cli/main.js", ...compare], { encoding: "utf8" });
    expect(stderr).toMatch(/warning: config\.json ties the head .* \[WARN_TIED_HEAD\]/);
  });

  test("is said of a family without a forward pass, too", async () => {
    const { warnings } = await withLoadWarnings(await openDonor(tiedDonor("foreign", false, "nobody")));
    expect(warnings).toEqual([WARNED]);
  });
});

test("an equal copy is no warning", async () => {
  expect((await withLoadWarnings(await openDonor(tiedDonor("copy", true)))).warnings).toEqual([]);
});
