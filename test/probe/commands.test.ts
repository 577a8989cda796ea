import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { temporaryFolder } from "../temporary.js";
import { hasEngine, LOAM } from "./engine-present.js";

const folder = temporaryFolder();
const TEXT = "test/fixtures/texts/story.txt";

function physarium(...args: string[]) {
  const { status, stdout, stderr } = spawnSync(process.execPath, ["dist/cli/main.js", ...args], { encoding: "utf8" });
  return { status, stdout, stderr };
}

describe.skipIf(!hasEngine)("eval", () => {
  test("--json has the contract's fields; with --against the divergence too", () => {
    const { status, stdout } = physarium("eval", LOAM, "--text", TEXT, "--window", "64", "--against", LOAM, "--json");
    expect(status).toBe(0);
    const found = JSON.parse(stdout);
    expect(found).toMatchObject({
      window: 64,
      stride: 64,
      protocol: "wikitext",
      windows: 3,
      tokens: 3 * 63,
      bos: null,
    });
    for (const key of ["perplexity", "mean_nll", "stderr", "bits_per_byte", "tokens_per_second", "peak_rss_bytes"]) {
      expect(found[key], key).toBeGreaterThan(0);
    }
    expect(found.perplexity).toBeCloseTo(Math.exp(found.mean_nll), 9);
    for (const key of ["kl_mean", "kl_median", "kl_p99", "kl_max", "ln_ratio_stderr"]) {
      expect(found.divergence[key], key).toBe(0);
    }
    expect(found.divergence).toMatchObject({ same_top: 1, perplexity_ratio: 1 });
  });

  test("without --against there is no divergence; the words name the protocol", () => {
    const { stdout } = physarium("eval", LOAM, "--text", TEXT, "--window", "64", "--quiet");
    expect(stdout).toMatch(/^Perplexity [\d.]+ on 189 tokens of story\.txt\./);
    expect(stdout).toContain("protocol   wikitext, window 64, stride 64, 3 windows, BOS none");
    expect(stdout).not.toContain("KLD");
  });

  test("usage errors are exit 2, in one line, with a code", () => {
    for (const args of [
      ["--window", "0"],
      ["--protocol", "other"],
      ["--device", "abacus"],
      ["--threads", "-1"],
      ["--threads", "0"],
      ["--threads", "100000"],
      ["--threads", "two"],
      ["--memory", "-1"],
      ["--memory", "much"],
      ["--window", "64", "--stride", "65"],
    ]) {
      const { status, stdout, stderr } = physarium("eval", LOAM, "--text", TEXT, ...args);
      expect(status, stderr).toBe(2);
      expect(stdout).toBe("");
      expect(stderr).toMatch(/^physarium: .* \[USAGE_\w+\]\n$/);
    }
  });
});

describe.skipIf(!hasEngine)("compare", () => {
  test.each([
    [["--min-tokens", "9"], /--min-tokens goes with --protocol documents.* \[USAGE_PROTOCOL\]/],
    [["--protocol", "documents", "--rows"], /--rows goes with --protocol wikitext/],
    [["--limit", "0"], /--limit 0: expected at least 1/],
    [["--skip", "-1"], /--skip -1: expected at least 0/],
    [["--methods", ","], /known are all, .* \[USAGE_METHOD\]/],
    [["--sparsity", ""], /are empty: expected lists/],
    [["--out", `${LOAM}/inside`], /equal to or inside .* \[USAGE_OUTPUT_OVERLAP\]/],
    [["--out", "LICENSE"], /LICENSE/],
  ])("is refused at once: %j", (more, message) => {
    const { status, stderr, stdout } = physarium("compare", LOAM, "--text", TEXT, "--window", "64", ...more);
    expect([2, 5]).toContain(status);
    expect(stderr).toMatch(message);
    expect(stderr.trimEnd().split("\n")).toHaveLength(1);
    expect(stdout).toBe("");
  });

  test("files of others in --out are not replaced; a table of another run keeps its rows", () => {
    const [foreign, out] = [join(folder, "foreign"), join(folder, "out")];
    mkdirSync(foreign);
    writeFileSync(join(foreign, "compare.md"), "mine");
    const args = [
      "compare",
      LOAM,
      "--text",
      TEXT,
      "--calibration",
      TEXT,
      "--window",
      "32",
      "--samples",
      "2",
      "--quiet",
    ];
    expect(physarium(...args, "--methods", "magnitude", "--out", foreign).stderr).toMatch(
      /compare\.md would be replaced/,
    );
    expect(readFileSync(join(foreign, "compare.md"), "utf8")).toBe("mine");
    expect(physarium(...args, "--methods", "magnitude,magnitude", "--out", out).status).toBe(0);
    expect(physarium(...args, "--methods", "wanda", "--out", out).status).toBe(0);
    const { rows } = JSON.parse(readFileSync(join(out, "compare.json"), "utf8")) as { rows: { method: string }[] };
    expect(rows.map(({ method }) => method)).toEqual(["magnitude", "wanda"]);
    expect(readFileSync(join(out, "compare.md"), "utf8")).toContain("No scored sequence is one of those.");
  });
});

describe.skipIf(!hasEngine)("plan --flow activation", () => {
  test("says what would calibrate, and refuses what surgery refuses", () => {
    const args = ["plan", LOAM, "--flow", "activation", "--target-sparsity", "0.5"];
    const { stdout } = physarium(...args, "--calibration", TEXT, "--window", "32", "--no-heal");
    expect(stdout).toMatch(/calibrate 7 samples, 224 tokens of .*story\.txt, seed 0/);
    expect(stdout).toContain("keep the donor's bits (--no-heal)");
    expect(physarium(...args, "--calibration", "no-such.txt").stderr).toMatch(/\[IO_NOT_FOUND\]/);
    expect(physarium(...args, "--window", "100000").stderr).toMatch(/\[USAGE_WINDOW\]/);
  });
});

test("surgery --eval looks at the text before it operates", () => {
  const output = join(folder, "not-begun");
  const { status, stderr } = physarium("surgery", LOAM, output, "--eval", "no-such.txt");
  expect([status, stderr]).toEqual([5, expect.stringMatching(/no-such\.txt.*\[IO_NOT_FOUND\]/)]);
  expect(existsSync(output)).toBe(false);
});

describe.skipIf(!hasEngine)("gate", () => {
  test("a rule that cannot be kept is exit 4, with the finding on stdout", () => {
    const args = ["gate", LOAM, "--against", LOAM, "--prompt", "One day", "--max-tokens", "4", "--json"];
    expect(physarium(...args, "--max-kl", "0.5").status).toBe(0);
    const { status, stdout, stderr } = physarium(...args, "--min-same-top", "1.01");
    expect(status).toBe(4);
    const found = JSON.parse(stdout);
    expect(found.accepted).toBe(false);
    expect(found.prompts[0].donor.tokens).toEqual(found.prompts[0].model.tokens);
    expect(stderr).toContain("VERIFY_GATE");
  });
});

describe.skipIf(!hasEngine)("generate", () => {
  test("the same seed gives the same text, another seed another", () => {
    const args = ["generate", LOAM, "--prompt", "One day", "--max-tokens", "16", "--temperature", "0.9", "--json"];
    const [one, same, other] = ["5", "5", "6"].map((seed) => JSON.parse(physarium(...args, "--seed", seed).stdout));
    expect(one.tokens).toHaveLength(16);
    expect(same.tokens).toEqual(one.tokens);
    expect(other.tokens).not.toEqual(one.tokens);
  });

  test("prints the prompt and what follows; says what is wrong with a prompt, a temperature or a missing chat template", () => {
    const { stdout } = physarium("generate", LOAM, "--prompt", "Once upon a time", "--max-tokens", "5");
    expect(stdout).toBe("Once upon a time, there was a little\n");
    expect(physarium("generate", LOAM, "--prompt", "").status).toBe(2);
    expect(physarium("generate", LOAM, "--prompt", "a", "--temperature", "-1").status).toBe(2);
    expect(physarium("generate", LOAM, "--prompt", "a", "--chat").stderr).toContain("DONOR_CHAT_TEMPLATE");
  });
});
