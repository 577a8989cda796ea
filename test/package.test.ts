import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, test } from "vitest";
import { LOAM } from "./shared.js";
import { temporaryFolder } from "./temporary.js";

const root = temporaryFolder();
const project = join(root, "project");
const npm = process.platform === "win32" ? "npm.cmd" : "npm";
let installed = false;
let packed: { readonly filename: string; readonly size: number; readonly files: readonly { readonly path: string }[] };

/** What somebody has who types `npm install physarium` in an empty folder, without the optional engine. */
beforeAll(() => {
  const made = spawnSync(npm, ["pack", "--json", "--ignore-scripts", "--pack-destination", root], { encoding: "utf8" });
  expect(made.status, made.stderr).toBe(0);
  [packed] = JSON.parse(made.stdout);
  mkdirSync(project);
  writeFileSync(join(project, "package.json"), JSON.stringify({ name: "empty", private: true, type: "module" }));
  const flags = ["--prefer-offline", "--omit=optional", "--ignore-scripts", "--no-audit", "--no-fund"];
  const { status, stderr } = spawnSync(npm, ["install", ...flags, join(root, packed.filename)], {
    cwd: project,
    encoding: "utf8",
    timeout: 100_000,
  });
  installed = status === 0;
  if (!installed) console.warn(`skipped: the package's dependencies cannot be installed here: ${stderr.slice(-300)}`);
}, 240_000);

const run = (args: readonly string[]) =>
  spawnSync(process.execPath, [join(project, "node_modules/physarium/bin/physarium.cjs"), ...args], {
    cwd: project,
    encoding: "utf8",
  });

test("the package holds what runs and what is read, no sources and no donor", () => {
  const paths = packed.files.map(({ path }) => path);
  for (const path of [
    ...["bin/physarium.cjs", "dist/index.js", "dist/index.d.ts", "wasm/surgery.wasm", "schemas/outputs.schema.json"],
    ...["docs/first-hour.md", "man/physarium-surgery.1", "README.md", "LICENSE"],
  ]) {
    expect(paths).toContain(path);
  }
  expect(paths.filter((path) => /^(src|test|examples|bench|scripts|assembly|site)\//.test(path))).toEqual([]);
  expect(packed.size).toBeLessThan(4_000_000);
});

describe("installed in an empty project", () => {
  test("operates and verifies", ({ skip }) => {
    if (!installed) skip();
    const output = join(root, "operated");
    const made = run(["surgery", LOAM, output, "--json"]);
    expect(made.status, made.stderr).toBe(0);
    expect(JSON.parse(made.stdout).report.totals.killed).toBe(659_779);
    const verified = run(["verify", LOAM, output, "--json"]);
    expect(verified.status, verified.stderr).toBe(0);
    expect(JSON.parse(verified.stdout)).toMatchObject({ ok: true, guarantee: "exact" });
    expect(readFileSync(join(output, "physarium/report.html"), "utf8")).toContain("<svg");
  });

  test("says how to get the engine, where it is asked for and in doctor", ({ skip }) => {
    if (!installed || existsSync(join(project, "node_modules/onnxruntime-node"))) skip();
    const { status, stderr } = run(["eval", LOAM, "--text", join(LOAM, "config.json")]);
    expect(stderr).toMatch(/npm install --ignore-scripts onnxruntime-node@.*\[USAGE_ENGINE_MISSING\]/);
    expect(status).toBe(2);
    expect(run(["doctor"]).stdout).toContain("onnxruntime-node");
  });

  test("gives its names and its schemas to a program", ({ skip }) => {
    if (!installed) skip();
    writeFileSync(
      join(project, "use.mjs"),
      `import { openDonor, planSurgery, checkOptions } from "physarium";
       import schema from "physarium/schemas/outputs.schema.json" with { type: "json" };
       const plan = planSurgery(await openDonor(${JSON.stringify(LOAM)}), checkOptions({}));
       console.log(plan.targetTensors, Object.keys(schema.$defs).includes("surgery"));`,
    );
    const { stdout, stderr } = spawnSync(process.execPath, ["use.mjs"], { cwd: project, encoding: "utf8" });
    expect(stdout, stderr).toBe("28 true\n");
    const types = join(project, "node_modules/physarium/dist/index.d.ts");
    expect(statSync(types).size).toBeGreaterThan(0);
    expect(readdirSync(join(project, "node_modules/physarium/man")).length).toBeGreaterThan(20);
  });
});
