import { execFileSync, spawnSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import { commandsFor } from "../../dist/cli/commands.js";
import { buildProgram } from "../../dist/cli/program.js";
import { completionScript } from "../../dist/cli/tree/completion.js";
import { manPages } from "../../dist/cli/tree/man-page.js";
import { commandsUnder, pathOf } from "../../dist/cli/tree/walk.js";
import { physarium } from "../physarium.js";
import { temporaryFolder } from "../temporary.js";

const folder = temporaryFolder();
const program = await buildProgram();
const names = program.commands.map((command) => command.name());
const LAUNCHER = fileURLToPath(new URL("../../bin/physarium.cjs", import.meta.url));

describe("every command", () => {
  test("has --json, --events and --quiet, with one meaning each", () => {
    const bare = ["completion", "man"];
    for (const flag of ["--json", "--events", "--quiet"]) {
      const said = [...commandsUnder(program)]
        .filter((command) => command.commands.length === 0 && !bare.includes(command.name()))
        .map((command) => command.options.find(({ long }) => long === flag)?.description);
      expect(new Set(said).size, flag).toBe(1);
      expect(said[0]).toBeTypeOf("string");
    }
  });

  test.each(names)("%s is loaded alone where it is asked for, and is what it is among all", async (name) => {
    if (!["completion", "man", "operate", "run"].includes(name)) expect(commandsFor([name, "--help"])).toEqual([name]);
    const [alone] = (await buildProgram([name])).commands;
    const among = program.commands.find((command) => command.name() === name)!;
    expect(alone.helpInformation()).toBe(among.helpInformation());
  });

  test("is known where none is asked for, or one that there is not", () => {
    for (const args of [[], ["--help"], ["help", "surgery"], ["nonsense"], ["constructor"], ["completion", "bash"]])
      expect(commandsFor(args)).toHaveLength(names.length);
  });

  test("stands under a heading of its own kind", () => {
    const headings = new Map(program.commands.map((command) => [command.name(), command.helpGroup()]));
    expect(headings.get("surgery")).toBe("Operate:");
    expect(headings.get("eval")).toBe("Prove and measure:");
  });
});

describe("help", () => {
  test("is short; --all has every option under its heading; required ones stand in the usage", async () => {
    const [short, whole] = await Promise.all([
      physarium(["surgery", "--help"]),
      physarium(["surgery", "--help", "--all"]),
    ]);
    expect(short.status).toBe(0);
    expect(short.stdout).not.toContain("--allocation");
    expect(short.stdout).toMatch(/More with --help --all: .*Mathematics of the flow \(4\)/);
    for (const { long } of program.commands.find((command) => command.name() === "surgery")!.options)
      expect(whole.stdout).toContain(long);
    expect(whole.stdout).toMatch(/\nMathematics of the flow:\n/);
    const { stdout } = await physarium(["eval", "--help"]);
    expect(stdout).toMatch(/^Usage: physarium eval <model> --text <file> \[options\]\n/);
    expect(stdout).toMatch(/\nRequired:\n {2}--text <file>/);
  });

  test.each([
    [["eval", "x"], "see physarium eval --help"],
    [["surgery", "a", "b", "--nonsense"], "see physarium surgery --help"],
    [["surgery", "a", "b", "--beta", "1"], "see physarium surgery --help"],
    [["parts", "prepare", "a", "b", "--max-parts", "2", "--beta", "1"], "see physarium parts prepare --help"],
    [["nonsense"], "see physarium --help"],
  ])("a usage error points to the command's own: %j", async (args, words) => {
    const { status, stderr } = await physarium(args);
    expect(status).toBe(2);
    expect(stderr).toContain(`${words} [USAGE_`);
  });
});

test.each([
  ["surgery", "a", "b", "--calibration"],
  ["export", "a", "b.gguf", "--calibration"],
  ["eval", "a", "--text"],
])("a text may be an address of the Hub: %s", async (...args) => {
  expect((await physarium([...args, "hf://datasets/no-file"])).stderr).toContain("[USAGE_HUB_ADDRESS]");
});

test("--events: JSON lines with v, type, time and command, from the beginning to the end", async () => {
  const { stderr } = await physarium(["plan", "no-such-model", "--events"]);
  const lines = stderr
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line));
  expect(lines.map(({ type }) => type)).toEqual(["begun", "error", "ended"]);
  for (const line of lines) {
    expect(line).toMatchObject({ v: 1, command: "plan" });
    expect(new Date(line.time).toISOString()).toBe(line.time);
  }
  expect(lines[1]).toMatchObject({ code: "DONOR_NOT_FOUND" });
  expect(lines[2]).toMatchObject({ exit: 3 });
});

describe("completion", () => {
  test("bash completes commands, options and choices", () => {
    const script = `${completionScript(program, "bash")}
complete_line() { COMP_WORDS=("$@"); COMP_CWORD=$(( $# - 1 )); _physarium; echo "\${COMPREPLY[@]}"; }
complete_line physarium surg
complete_line physarium eval --ag
complete_line physarium export a b --format c
complete_line physarium parts pre
complete_line physarium parts prepare a b --max-p
complete_line physarium farm plan --vr
complete_line physarium farm add story --tier V`;
    expect(execFileSync("bash", ["-c", script], { encoding: "utf8" }).trimEnd().split("\n")).toEqual([
      ...["surgery", "--against", "compressed-tensors", "prepare", "--max-parts", "--vram", "VRAM"],
    ]);
  });

  test.each(["bash", "zsh", "fish"] as const)("%s names every command and option", (shell) => {
    const script = completionScript(program, shell);
    for (const command of commandsUnder(program)) {
      expect(script).toContain(command.name());
      for (const { long } of command.options) expect(script).toContain(long!.replace(/^--/, ""));
    }
    // A quote in a description would end the word it stands in.
    if (spawnSync(shell, ["--version"]).status !== 0) return;
    const file = join(folder, shell);
    writeFileSync(file, script);
    expect(spawnSync(shell, ["-n", file], { encoding: "utf8" })).toMatchObject({ status: 0, stderr: "" });
  });
});

test("man pages: one a command, with every option in it", () => {
  const pages = manPages(program, "0.0.0");
  const paths = [...commandsUnder(program)].map((command) => pathOf(command).replaceAll(" ", "-"));
  expect([...pages.keys()]).toEqual(["physarium.1", ...paths.map((path) => `${path}.1`)]);
  for (const name of names) expect(paths).toContain(`physarium-${name}`);
  const page = pages.get("physarium-surgery.1")!;
  expect(page.startsWith(".TH PHYSARIUM\\-SURGERY 1") || page.startsWith(".TH PHYSARIUM-SURGERY 1")).toBe(true);
  expect(page).toContain(".B \\-\\-target\\-sparsity <fraction>");
  expect(page).toContain("physarium surgery ./model ./operated");
});

describe("the launcher", () => {
  test("an old Node is told in a sentence", () => {
    const pretend = `Object.defineProperty(process.versions, "node", { value: "18.20.4" }); require(${JSON.stringify(LAUNCHER)})`;
    const { status, stderr } = spawnSync(process.execPath, ["-e", pretend], { encoding: "utf8" });
    expect(stderr).toMatch(/^physarium: this is Node 18\.20\.4, and 20\.19 or newer is needed; .* \[USAGE_NODE\]\n$/);
    expect(status).toBe(2);
  });

  test("a new one runs the command", () => {
    expect(spawnSync(process.execPath, [LAUNCHER, "--version"], { encoding: "utf8" }).stdout).toMatch(
      /^\d+\.\d+\.\d+\n$/,
    );
  });
});
