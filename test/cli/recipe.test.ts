import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Ajv2020 } from "ajv/dist/2020.js";
import { describe, expect, test } from "vitest";
import { buildProgram } from "../../dist/cli/program.js";
import { readRecipe } from "../../dist/cli/steps/recipe.js";
import { recipeOf } from "../../dist/cli/steps/write-recipe.js";
import { physarium } from "../physarium.js";
import { LOAM } from "../shared.js";
import { temporaryFolder } from "../temporary.js";

const folder = temporaryFolder();
const program = await buildProgram();
const read = (text: string) => readRecipe(text, "recipe.yaml", program);

describe("a recipe of commands", () => {
  const commands = [
    ["compare", "./model", "--text", "t.txt"],
    [
      "surgery",
      "./model",
      "./out",
      "--flow",
      "activation",
      "--target-sparsity",
      "0.5",
      "--include",
      "a,b",
      "--no-heal",
    ],
    ["verify", "./model", "./out"],
    ["eval", "./out", "--against", "./model", "--text", "a b.txt", "--limit", "32"],
    ["gate", "./out", "--against", "./model", "--prompt", "one", "--prompt", "-2", "--max-kl", "0.1"],
    ["pack", "./out", "./packed"],
    ["export", "./out", "m.gguf", "--type", "q8_0"],
    ["export", "./out", "m2.gguf"],
  ];

  test("is read back as the same commands, what is no step left out", () => {
    expect(read(recipeOf(commands, program))).toEqual(commands.slice(1));
  });

  test("surgery writes its own, as it was typed, and never over a file", async () => {
    const recipe = join(folder, "own.yaml");
    const output = join(folder, "own");
    const words = ["surgery", LOAM, output, "--target-sparsity=0.3", "--include", "layers\\.0", "--recipe", recipe];
    const { status, stderr } = await physarium([...words, "--quiet"]);
    expect(status, stderr).toBe(0);
    expect(read(readFileSync(recipe, "utf8"))).toEqual([
      ["surgery", LOAM, output, "--target-sparsity", "0.3", "--include", "layers\\.0"],
    ]);
    const again = await physarium([...words, "--overwrite"]);
    expect([again.status, again.stderr]).toEqual([
      2,
      expect.stringMatching(/own\.yaml: it exists.*USAGE_OUTPUT_EXISTS/),
    ]);
  });
});

describe("a recipe", () => {
  test("is the commands it stands for, in their order", () => {
    const commands = read(`
export: [{ output: m.gguf, type: q8_0 }, { output: m2.gguf, type: f16, overwrite: true }]
model: ./model
output: ./out
surgery: { flow: activation, target_sparsity: 0.5, calibration: book.txt, heal: false }
verify: true
eval: { text: t.txt, limit: 32, bos: each }
gate: { prompt: [a, b], max-kl: 0.1 }
`);
    expect(commands).toEqual([
      [
        "surgery",
        "./model",
        "./out",
        "--flow",
        "activation",
        "--target-sparsity",
        "0.5",
        "--calibration",
        "book.txt",
        "--no-heal",
      ],
      ["verify", "./model", "./out"],
      ["eval", "./out", "--against", "./model", "--text", "t.txt", "--limit", "32", "--bos", "each"],
      ["gate", "./out", "--against", "./model", "--prompt", "a", "--prompt", "b", "--max-kl", "0.1"],
      ["export", "./out", "m.gguf", "--type", "q8_0"],
      ["export", "./out", "m2.gguf", "--type", "f16", "--overwrite"],
    ]);
  });

  test.each([
    ["a: [", /no YAML/],
    ["[1]", /expected members/],
    ["model: a\noutput: b", /no surgery step/],
    ["model: a\noutput: b\nsurgery: {}\nsing: {}", /"sing" is no step/],
    [
      "model: a\noutput: b\nsurgery: { colour: red }",
      /surgery: there is no option colour; see physarium surgery --help/,
    ],
    ["model: a\noutput: b\nsurgery: { resume: 3 }", /resume is true or false/],
    ["model: a\noutput: b\nsurgery: {}\npack: {}", /pack: expected output/],
    ["a: &a [*a]", /no YAML|expected/],
  ])("is refused with a sentence: %j", (text, words) => {
    expect(() => read(text)).toThrow(words);
  });

  test("run does it, says it first with --plan, and does a finished surgery no second time", async () => {
    const [path, output] = [join(folder, "recipe.yaml"), join(folder, "out")];
    writeFileSync(path, `model: ${LOAM}\noutput: ${output}\nsurgery: { target-sparsity: 0.3 }\nverify: true\n`);
    const plan = await physarium(["run", path, "--plan"]);
    expect(plan.stdout.trim().split("\n")).toHaveLength(2);
    const { status, stdout, stderr } = await physarium(["run", path, "--json"]);
    expect(status, stderr).toBe(0);
    expect(JSON.parse(stdout).commands.map(({ exit }: { exit: number }) => exit)).toEqual([0, 0]);
    expect((await physarium(["run", path, "--quiet"])).status).toBe(0);
  });
});

test("every line of --events is as the published schema has it", async () => {
  const validate = new Ajv2020({ strict: false }).compile(
    JSON.parse(readFileSync("schemas/events.schema.json", "utf8")),
  );
  const runs = [
    await physarium(["surgery", LOAM, join(folder, "told"), "--events"]),
    await physarium(["surgery", LOAM, join(folder, "told"), "--events"]),
    await physarium(["surgery", LOAM, join(folder, "both"), "--events", "--json"]),
    await physarium(["pack", join(folder, "told"), join(folder, "packed"), "--events", "--quiet"]),
  ];
  const lines = runs.flatMap(({ stderr }) => stderr.trimEnd().split("\n")).map((line) => JSON.parse(line));
  const types = new Set(lines.map(({ type }) => type));
  for (const type of ["begun", "progress", "error", "ended"]) expect([...types]).toContain(type);
  for (const line of lines) expect(validate(line), JSON.stringify([line, validate.errors])).toBe(true);
  expect(validate({ v: 1, type: "error", time: "yesterday", command: "x" })).toBe(false);
});

test("report: one as JSON, several side by side", async () => {
  const output = join(folder, "out");
  const one = JSON.parse((await physarium(["report", output, "--json"])).stdout);
  expect(one).toMatchObject({ output, files: expect.arrayContaining(["report.html"]), report: { flow: "magnitude" } });
  const both = await physarium(["report", output, join(folder, "told")]);
  expect(both.stdout.trim().split("\n")).toHaveLength(4);
  expect(both.stdout).toMatch(/\| 30\.\d\d %/);
  expect(JSON.parse((await physarium(["report", output, output, "--json"])).stdout).runs).toHaveLength(2);
});
