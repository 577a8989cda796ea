import { appendFileSync, cpSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { diffModels } from "../../dist/diff/diff-models.js";
import { gaussianTensor, toWeights, writeDonor } from "../donors.js";
import { physarium } from "../physarium.js";
import { LOAM } from "../shared.js";
import { temporaryFolder } from "../temporary.js";

const folder = temporaryFolder();
const weight = (name: string, values: number[], dtype: "F32" | "BF16" = "F32", shape = [values.length]) => ({
  name,
  dtype,
  shape,
  bytes: toWeights(dtype, values.length, (at) => values[at]),
});

describe("diff", () => {
  test("equal, changed, missing, reshaped: with zeros, RMS, the largest difference and the relative error", async () => {
    const a = writeDonor(join(folder, "a"), [
      [weight("same", [1, 2, 3]), weight("moved", [3, 0, 0, 4]), weight("gone", [1])],
      [weight("shape", [1, 2]), weight("wide", [0.5, 1.5], "BF16")],
    ]);
    const b = writeDonor(
      join(folder, "b"),
      [
        [
          weight("same", [1, 2, 3]),
          weight("moved", [3, 0, 1, 2]),
          weight("new", [0]),
          weight("shape", [1], "F32", [1, 1]),
          weight("wide", [0.5, 1.5]),
        ],
      ],
      { "config.json": '{"a":1}', "extra.txt": "x" },
    );
    const diff = await diffModels(a, b);
    const of = (name: string) => diff.tensors.find((tensor) => tensor.name === name);
    expect(of("same")).toMatchObject({ state: "equal", weights_changed: 0, rms: 0, max: 0, relative_error: 0 });
    expect(of("moved")).toMatchObject({ state: "changed", weights_changed: 2, zeros_a: 2, zeros_b: 1, max: 2 });
    expect(of("moved")!.rms).toBeCloseTo(Math.sqrt(5 / 4), 12);
    expect(of("moved")!.relative_error).toBeCloseTo(Math.sqrt(5) / 5, 12);
    expect(of("gone")).toMatchObject({ state: "only in A", rms: null });
    expect(of("new")).toMatchObject({ state: "only in B", dtype_a: null });
    expect(of("shape")).toMatchObject({ state: "another shape", weights_changed: null });
    // Another dtype of the same values is a change of bits and of no value.
    expect(of("wide")).toMatchObject({ state: "changed", weights_changed: 0, rms: 0 });
    expect(diff.totals).toMatchObject({ equal: 1, changed: 3, only_in_a: 1, only_in_b: 1, not_compared: 1 });
    expect(diff.files).toEqual(
      expect.arrayContaining([
        { file: "config.json", state: "changed" },
        { file: "extra.txt", state: "only in B" },
      ]),
    );
  });

  test("NaN on one side alone leaves no number to believe; on both it is equal", async () => {
    const a = writeDonor(join(folder, "nan-a"), [[weight("one", [Number.NaN, 1]), weight("both", [Number.NaN, 1])]]);
    const b = writeDonor(join(folder, "nan-b"), [[weight("one", [2, 1]), weight("both", [Number.NaN, 1])]]);
    const [one, both] = (await diffModels(a, b)).tensors;
    expect(one).toMatchObject({ state: "changed", weights_changed: 1, rms: null, max: null });
    expect(both).toMatchObject({ state: "equal", rms: 0, max: 0 });
  });

  test("however tensors are spread over files, a large one in pieces", async () => {
    const tensors = [0, 1, 2].map((at) => gaussianTensor(`t${at}`, "BF16", at === 0 ? [1100, 1000] : [8, 8], at));
    const a = writeDonor(join(folder, "one"), [tensors]);
    const b = writeDonor(
      join(folder, "three"),
      tensors.map((tensor) => [tensor]),
    );
    const { totals, files } = await diffModels(a, b);
    expect(totals).toMatchObject({ equal: 3, changed: 0, weights_changed: 0 });
    expect(files.find(({ file }) => file.endsWith("index.json"))?.state).toBe("only in B");
  });

  test("the command: a table, JSON, a page, an exit code; packed folders, too", async () => {
    const [operated, packed, page] = [join(folder, "operated"), join(folder, "packed"), join(folder, "diff.html")];
    expect((await physarium(["surgery", LOAM, operated, "--quiet"])).status).toBe(0);
    expect((await physarium(["pack", operated, packed, "--quiet"])).stdout).toBe("");
    const words = await physarium(["diff", LOAM, operated, "--html", page]);
    expect(words.stdout).toContain("weights: 659,779 changed; zeros 0 (0.00 %) in A, 659,779 (18.97 %) in B");
    expect(readFileSync(page, "utf8")).toContain('class="sortable"');
    const { stdout, status } = await physarium(["diff", LOAM, operated, "--json", "--exit-code"]);
    expect(JSON.parse(stdout).totals.weights_changed).toBe(659_779);
    expect(status).toBe(4);
    const other = join(folder, "config-alone");
    cpSync(LOAM, other, { recursive: true });
    appendFileSync(join(other, "config.json"), "\n");
    const beside = await physarium(["diff", LOAM, other, "--exit-code", "--quiet"]);
    expect(beside.stderr).toMatch(/ differ: 1 side file \[VERIFY_DIFFERENT\]/);
    expect(await physarium(["diff", operated, packed, "--exit-code", "--quiet"])).toMatchObject({
      status: 0,
      stdout: "",
    });
    expect((await physarium(["diff", LOAM, operated, "--html", page])).stderr).toContain("--overwrite replaces it");
    const mine = join(folder, "mine.html");
    writeFileSync(mine, "thesis");
    expect((await physarium(["diff", LOAM, operated, "--html", mine, "--overwrite"])).stderr).toContain("no page of");
    expect(readFileSync(mine, "utf8")).toBe("thesis");
  });
});

test("doctor: this machine is well, and without the engine it says what is missing", async () => {
  const { status, stdout } = await physarium(["doctor", "--json", "--folder", folder]);
  expect(status).toBe(0);
  const { ok, findings } = JSON.parse(stdout);
  expect(ok).toBe(true);
  const names = findings.map(({ what }: { what: string }) => what);
  expect(names).toEqual(["node", "kernels", "engine", "threads", "memory", "disk", "cache"]);
  const preload = new URL("../engine/no-engine-preload.mjs", import.meta.url);
  const bare = await physarium(["doctor", "--folder", folder], { preload });
  expect(bare.status).toBe(0);
  expect(bare.stdout).toMatch(/note {2}engine .*\n.*npm install --ignore-scripts onnxruntime-node/);
});

test("doctor leaves nothing behind", async () => {
  const place = join(folder, "place");
  cpSync(LOAM, place, { recursive: true });
  await physarium(["doctor", "--folder", place]);
  expect((await physarium(["diff", LOAM, place, "--exit-code"])).status).toBe(0);
});
