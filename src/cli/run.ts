import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { resolve } from "node:path";
import type { Command } from "commander";
import { attempt } from "../checkpoint/file-layer.js";
import { jsonLine } from "../errors.js";
import { readRecipe } from "./steps/recipe.js";
import { commandLine, runCommand } from "./steps/run-command.js";

interface Flags {
  plan?: boolean;
  json?: boolean;
  quiet?: boolean;
}

/** `physarium run <recipe>` */
export function registerRun(program: Command): void {
  program
    .command("run")
    .description("do what a recipe (YAML) says: surgery, and where wanted verify, eval, gate, pack, export")
    .argument("<recipe>", "a YAML file")
    .option("--plan", "print the commands and stop")
    .addHelpText(
      "after",
      `
A recipe names the model, the output and the steps; options have the names of the command line:

  model: ./model
  output: ./operated
  surgery: { flow: activation, target-sparsity: 0.5, calibration: book.txt }
  verify: true
  eval: { text: test.txt, limit: 32 }
  gate: { max-perplexity-ratio: 1.1 }
  export: [{ output: model.gguf, type: q8_0 }]

Paths are those of the folder in which it is run. A surgery that was stopped goes on.

Example:
  physarium run recipe.yaml --plan`,
    )
    .action(async (path: string, flags: Flags) => {
      const text = await attempt("reading", path, () => readFile(path, "utf8"));
      const commands = readRecipe(text, path, program);
      if (flags.plan) {
        const lines = commands.map(commandLine);
        process.stdout.write(flags.json ? jsonLine({ commands: lines }) : `${lines.join("\n")}\n`);
        return;
      }
      const done: { command: string; exit: number }[] = [];
      for (const args of commands) {
        const output = resolve(args[2]);
        const goesOn = args[0] === "surgery" && (existsSync(`${output}.partial`) || existsSync(output));
        const whole = goesOn ? [...args, "--resume"] : args;
        const { exit } = await runCommand(whole, { output: "show", quiet: flags.quiet ?? flags.json ?? false });
        done.push({ command: commandLine(args), exit });
      }
      if (flags.json) process.stdout.write(jsonLine({ commands: done }));
    });
}
