import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { chooseSparsity, packedBits, sparsityToFit } from "../../dist/cli/steps/choose-sparsity.js";
import type { ComparisonRow } from "../../dist/record/comparison.js";
import { physarium } from "../physarium.js";
import { hasEngine } from "../probe/engine-present.js";
import { LOAM } from "../shared.js";
import { temporaryFolder } from "../temporary.js";

const folder = temporaryFolder();
const STORIES = "examples/texts/loam-stories.txt";

describe("the choice", () => {
  const row = (method: string, sparsity: number, damage: number) =>
    ({ method, sparsity, damage, kl_mean: 0 }) as ComparisonRow;
  const v1 = [row("tile-magnitude", 0.1, 0.004), row("tile-magnitude", 0.3, 0.04), row("tile-magnitude", 0.5, 0.4)];
  const wanda = [row("wanda", 0.1, 0.002), row("wanda", 0.3, 0.02), row("wanda", 0.5, 0.2)];

  test("the sparsity at which the curve comes to what is allowed, rounded down", () => {
    expect(chooseSparsity(v1, 0.04, "magnitude")).toEqual({ flow: "magnitude", sparsity: 0.3 });
    // Half way between in the logarithm.
    expect(chooseSparsity(v1, Math.sqrt(0.04 * 0.4), "magnitude").sparsity).toBeCloseTo(0.4);
    expect(chooseSparsity(v1, 0.001, "magnitude").sparsity).toBeCloseTo(0.05);
    expect(chooseSparsity(v1, 1e9, "magnitude").sparsity).toBe(0.9);
    expect(chooseSparsity([row("tile-magnitude", 0.1, 5)], 1e-6, "magnitude").sparsity).toBe(0.02);
  });

  test("a ratio that is noise does not decide: the divergence does", () => {
    const noisy = [-0.0189, 0.3518, 2.694].map((damage, at) => ({
      ...row("tile-magnitude", [0.1, 0.3, 0.5][at], damage),
      kl_mean: [0.058, 0.595, 2.83][at],
    }));
    expect(chooseSparsity(noisy, Math.log(1.02), "magnitude").sparsity).toBeCloseTo(0.05);
  });

  test("v2 goes as far as the better of the two curves, v1 as far as its own", () => {
    expect(chooseSparsity([...v1, ...wanda], 0.02, "activation")).toEqual({ flow: "activation", sparsity: 0.3 });
    expect(chooseSparsity([...v1, ...wanda], 0.02, "magnitude").sparsity).toBeLessThan(0.3);
  });

  test("as few zeros as make the packed model fit", () => {
    const model = { modelWeights: 1e9, targetWeights: 0.9e9, dense: 10.58 };
    expect(sparsityToFit(model, 1.4e9)).toBe(0);
    expect(sparsityToFit(model, 0.1e9)).toBeUndefined();
    const found = sparsityToFit(model, 1e9)!;
    const size = (sparsity: number) => (0.9e9 * packedBits(sparsity, 10.58) + 0.1e9 * 10.58) / 8;
    expect(size(found)).toBeLessThanOrEqual(1e9);
    expect(size(found - 0.01)).toBeGreaterThan(1e9);
  });
});

describe.skipIf(!hasEngine)("operate", () => {
  const output = join(folder, "operated");
  const args = [
    "operate",
    LOAM,
    output,
    "--text",
    STORIES,
    "--window",
    "64",
    "--flow",
    "magnitude",
    "--keep-quality",
    "0.1",
  ];

  test("plans without writing", async () => {
    const { status, stdout } = await physarium([...args, "--plan"]);
    expect(status).toBe(0);
    expect(stdout).toMatch(/aim {6}perplexity at most × 1\.1 of the donor's/);
    expect(existsSync(output) || existsSync(`${output}.operate`)).toBe(false);
  });

  test("searches, operates, verifies, measures, gates; prints its commands, a verdict and the next three", async () => {
    const { status, stdout, stderr } = await physarium(args);
    expect(status, stderr).toBe(0);
    for (const name of ["compare", "surgery", "verify", "eval", "gate", "report"])
      expect(stderr).toContain(`$ physarium ${name} `);
    expect(stdout).toMatch(/\nverdict {2}noticeable: .*perplexity × 1\./);
    expect(stdout).toMatch(/\nnext {5}physarium chat .*\n {9}physarium export .*\n {9}physarium pack /);
    const report = JSON.parse(readFileSync(join(output, "physarium/surgery.json"), "utf8"));
    expect(report).toMatchObject({ integrity: { ok: true }, speech: { accepted: true } });
    expect(report.quality.divergence.perplexity_ratio).toBeLessThan(1.15);
    const recipe = readFileSync(join(`${output}.operate`, "recipe.yaml"), "utf8");
    expect(recipe).toMatch(
      /^model: .*\noutput: .*\nsurgery:\n {2}flow: magnitude\n {2}target-sparsity: 0\.\d+\nverify: true\n/,
    );
    // The search stands in the report, with the operation in its curves.
    expect(report.comparison.rows.map(({ method }: { method: string }) => method)).toContain("tile-magnitude");
    expect(readFileSync(join(output, "physarium/report.html"), "utf8")).toContain('id="curve"');
  });

  test("a comparison of another model is refused, by its name and by what it measured", async () => {
    const compared = join(folder, "compared");
    const search = JSON.parse(readFileSync(join(`${output}.operate`, "search", "compare.json"), "utf8"));
    const report = JSON.parse(readFileSync(join(output, "physarium/surgery.json"), "utf8"));
    const refused = async (record: unknown) => {
      mkdirSync(compared, { recursive: true });
      writeFileSync(join(compared, "compare.json"), JSON.stringify(record));
      const { status, stderr } = await physarium(["report", output, "--compare", compared]);
      expect(status).toBe(2);
      return stderr;
    };
    expect(await refused({ ...search, donor: "other" })).toMatch(/on other, and .* made of loam.*\[USAGE_COMPARISON\]/);
    // The same predictions as the report's, and another perplexity of the donor on them.
    const { name, window, tokens } = report.quality.protocol;
    const same = { ...search, text: report.quality.text.name, protocol: { ...search.protocol, name, window, tokens } };
    const dense = { ...search.dense, perplexity: 1.02 * report.quality.donor.perplexity };
    expect(await refused({ ...same, dense })).toMatch(/another model of that name.*\[USAGE_COMPARISON\]/);
    expect(await refused({ rows: [] })).toMatch(/no record of a comparison: donor/);
  });

  test("given again nothing is done twice; with another aim it is refused", async () => {
    const { status, stdout, stderr } = await physarium([...args, "--json"]);
    expect(status).toBe(0);
    expect(stderr).not.toContain("$ physarium");
    expect(stderr.match(/\(done before\)/g)).toHaveLength(6);
    expect(JSON.parse(stdout)).toMatchObject({ flow: "magnitude", verified: true, accepted: true, aim: 0.1 });
    const told = (await physarium([...args, "--events"])).stderr.trimEnd().split("\n");
    expect(told.map((line) => JSON.parse(line).type)).toEqual(["begun", ...Array(6).fill("note"), "ended"]);
    const other = await physarium([...args.slice(0, -1), "0.2"]);
    expect(other.stderr).toMatch(/had another aim.*\[USAGE_OUTPUT_EXISTS\]/);
    rmSync(output, { recursive: true });
  });

  test.each([
    [["--sparsity", "0.5"], /three aims; give one/],
    [["--fit", "8 apples"], /Expected a size/],
    [["--text", "hf://datasets/no-file"], /\[USAGE_HUB_ADDRESS\]/],
  ])("is refused at once: %j", async (more, words) => {
    const { status, stderr } = await physarium([...args, ...more]);
    expect(status).toBe(2);
    expect(stderr).toMatch(words);
  });
});
