import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import { LOAM } from "../shared.js";
import { temporaryFolder } from "../temporary.js";

const MAIN = fileURLToPath(new URL("../../dist/cli/main.js", import.meta.url));
const folder = temporaryFolder();
const output = join(folder, "operated");

function physarium(...args: string[]) {
  const { status, stdout, stderr } = spawnSync(process.execPath, [MAIN, ...args], { encoding: "utf8" });
  return { status, stdout, stderr };
}

describe("surgery, verify, report", () => {
  test("surgery prints a summary, writes the model and its documents", () => {
    const { status, stdout } = physarium("surgery", LOAM, output);
    expect(status).toBe(0);
    expect(stdout).toMatch(/22\.37 % of 2,949,120 target projection weights/);
    expect(stdout).toMatch(/18\.97 % of 3,477,760 weights of the full model/);
    for (const name of ["ledger.jsonl", "surgery.json", "REPORT.md", "report.html", "run.log"])
      expect(existsSync(join(output, "physarium", name))).toBe(true);
  });

  test("surgery.json holds the contract's members", () => {
    const report = JSON.parse(readFileSync(join(output, "physarium/surgery.json"), "utf8"));
    expect(Object.keys(report)).toEqual(
      expect.arrayContaining([
        "physarium_version",
        "flow",
        "flow_version",
        "params",
        "donor",
        "started_at",
        "ended_at",
        "totals",
        "per_tensor",
        "per_projection",
        "per_layer",
        "shards",
        "coverage",
        "wall_seconds",
        "peak_rss_bytes",
      ]),
    );
    expect(Object.keys(report.params)).toEqual(expect.arrayContaining(["block_size", "n_iter", "beta", "survival"]));
    expect(Object.keys(report.per_tensor[0])).toEqual([
      "name",
      "shard",
      "dtype",
      "shape",
      "layer",
      "projection",
      "weights",
      "already_zero",
      "killed",
      "sparsity",
      "tiles",
    ]);
    expect(report).toMatchObject({
      flow: "magnitude",
      flow_version: "v1",
      donor: { tensor_count: 50, shard_count: 4, total_size: 6_955_520 },
    });
  });

  test("verify holds, with the donor and alone, and is recorded in the report", () => {
    expect(physarium("verify", LOAM, output)).toMatchObject({
      status: 0,
      stdout: expect.stringContaining("holds against"),
    });
    expect(JSON.parse(readFileSync(join(output, "physarium/surgery.json"), "utf8")).integrity).toMatchObject({
      ok: true,
      difference_count: 0,
    });
    expect(physarium("verify", output).status).toBe(0);
    const json = JSON.parse(physarium("verify", LOAM, output, "--parity", "full", "--json").stdout);
    expect(json).toMatchObject({ ok: true, parity: { mode: "full", tiles_checked: 52, tiles_total: 52 } });
  });

  test("surgery --resume of it does nothing, and says what was proven since", () => {
    const { status, stdout } = physarium("surgery", LOAM, output, "--resume");
    expect(status).toBe(0);
    expect(stdout).toContain("the operation is finished already; nothing was done");
    expect(stdout).toMatch(/\nverified {2}yes/);
    expect(stdout).toMatch(/\npacked /);
  });

  test("report renders again from the ledger", () => {
    const before = readFileSync(join(output, "physarium/REPORT.md"), "utf8");
    writeFileSync(join(output, "physarium/REPORT.md"), "lost");
    expect(physarium("report", output).status).toBe(0);
    expect(readFileSync(join(output, "physarium/REPORT.md"), "utf8")).toBe(before);
    expect(physarium("report", output, "--format", "md").stdout).toBe(before);
    expect(physarium("report", output, "--format", "html").stdout).toMatch(/^<!doctype html>/i);
    expect(JSON.parse(physarium("report", output, "--format", "json").stdout)).toMatchObject({ flow: "magnitude" });
  });

  test("a damaged output: exit 4, every difference on stdout, one line on stderr", () => {
    writeFileSync(join(output, "config.json"), "{}");
    const { status, stdout, stderr } = physarium("verify", LOAM, output);
    expect(status).toBe(4);
    expect(stdout).toMatch(/difference \[side files copied\] config\.json/);
    expect(stderr).toMatch(/^physarium: .*\[VERIFY_FAILED\]\n$/);
  });

  test("--json: one object on stdout, events on stderr", () => {
    const { stdout, stderr } = physarium("surgery", LOAM, join(folder, "as-json"), "--json");
    expect(JSON.parse(stdout)).toMatchObject({ event: "finished", report: { totals: { killed: 659_779 } } });
    const events = stderr
      .trimEnd()
      .split("\n")
      .map((line) => (JSON.parse(line) as { event: string }).event);
    expect(events[0]).toBe("started");
    expect(events.filter((event) => event === "tensor")).toHaveLength(50);
    expect(events.filter((event) => event === "shard")).toHaveLength(4);
  });

  test("--quiet prints nothing", () => {
    expect(physarium("surgery", LOAM, join(folder, "quiet"), "--quiet")).toEqual({ status: 0, stdout: "", stderr: "" });
  });
});

describe("plan", () => {
  test("lists targets and what is carried over, and why", () => {
    const { status, stdout } = physarium("plan", LOAM);
    expect(status).toBe(0);
    expect(stdout).toMatch(
      /4 × model\.layers\.N\.mlp\.down_proj\.weight {2}BF16 \[256, 704\] {2}down_proj of a decoder layer/,
    );
    expect(stdout).toMatch(/1 × model\.embed_tokens\.weight .* not a projection of a decoder layer/);
  });

  test("--json has every tensor, memory, bytes and time", () => {
    const plan = JSON.parse(physarium("plan", LOAM, "--json", "--exclude", "down_proj").stdout);
    expect(plan.tensors).toHaveLength(50);
    expect(plan).toMatchObject({
      target_tensors: 24,
      memory: { peak_bytes: expect.any(Number) },
      bytes_to_write: expect.any(Number),
      estimated_seconds: expect.any(Number),
    });
    expect(plan.tensors.find(({ name }: { name: string }) => name.endsWith("0.mlp.down_proj.weight"))).toMatchObject({
      role: "carried",
      reason: "matched by --exclude",
    });
  });
});

describe("refusals", () => {
  const foreign = join(folder, "foreign");
  mkdirSync(foreign);
  writeFileSync(join(foreign, "thesis.txt"), "precious");

  test.each([
    [["surgery"], 2, "USAGE_ARGUMENT"],
    [["surgery", LOAM, join(folder, "x"), "--nonsense"], 2, "USAGE_ARGUMENT"],
    [["nonsense"], 2, "USAGE_ARGUMENT"],
    [["surgery", LOAM, join(folder, "x"), "--beta", "1"], 2, "USAGE_PARAM"],
    [["surgery", LOAM, join(folder, "x"), "--beta", "abc"], 2, "USAGE_ARGUMENT"],
    [["surgery", LOAM, join(folder, "x"), "--flow", "activated"], 2, "USAGE_FLOW"],
    [["surgery", LOAM, join(folder, "x"), "--include", "("], 2, "USAGE_PATTERN"],
    [["surgery", LOAM, join(folder, "x"), "--target-sparsity", "50"], 2, "USAGE_PARAM"],
    [["surgery", LOAM, join(folder, "x"), "--target-sparsity", "0.5", "--survival", "1"], 2, "USAGE_PARAM"],
    [["surgery", join(folder, "absent"), join(folder, "x")], 3, "DONOR_NOT_FOUND"],
    [["surgery", foreign, join(folder, "x")], 3, "DONOR_NO_WEIGHTS"],
    [["surgery", LOAM, LOAM], 2, "USAGE_OUTPUT_OVERLAP"],
    [["surgery", LOAM, join(LOAM, "inside")], 2, "USAGE_OUTPUT_OVERLAP"],
    [["surgery", LOAM, join(LOAM, "..")], 2, "USAGE_OUTPUT_OVERLAP"],
    [["surgery", LOAM, foreign], 2, "USAGE_OUTPUT_EXISTS"],
    [["surgery", LOAM, foreign, "--overwrite"], 2, "USAGE_OUTPUT_EXISTS"],
    [["verify", foreign], 4, "VERIFY_OUTPUT"],
    [["report", foreign], 4, "VERIFY_LEDGER"],
  ] as const)("%j: exit %i, %s", (args, exit, code) => {
    const { status, stderr } = physarium(...args);
    expect({ status, code: /\[([A-Z_]+)\]\n$/.exec(stderr)?.[1] }).toEqual({ status: exit, code });
    expect(stderr.trimEnd().split("\n")).toHaveLength(1);
    expect(existsSync(join(folder, "x"))).toBe(false);
    expect(existsSync(join(folder, "x.partial"))).toBe(false);
  });

  test("nothing of a foreign folder is touched", () => {
    expect(readFileSync(join(foreign, "thesis.txt"), "utf8")).toBe("precious");
  });

  test("--json errors are JSON", () => {
    const { stderr } = physarium("surgery", LOAM, LOAM, "--json");
    expect(JSON.parse(stderr)).toMatchObject({ event: "error", code: "USAGE_OUTPUT_OVERLAP" });
  });
});

describe("help", () => {
  test.each([[], ["surgery"], ["plan"], ["verify"], ["report"], ["synth"]])(
    "%s --help has an example",
    (...command) => {
      const { status, stdout } = physarium(...command.filter((word) => word !== undefined), "--help");
      expect(status).toBe(0);
      expect(stdout).toMatch(/Examples?:/);
    },
  );

  test("--version is the package's", () => {
    const { version } = JSON.parse(readFileSync(new URL("../../package.json", import.meta.url), "utf8"));
    expect(physarium("--version").stdout).toBe(`${version}\n`);
  });
});
