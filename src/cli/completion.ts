import { Argument, type Command } from "commander";
import { completionScript, SHELLS, type Shell } from "./tree/completion.js";

/** `physarium completion <shell>` */
export function registerCompletion(program: Command): void {
  program
    .command("completion")
    .description("print a completion script for bash, zsh or fish")
    .addArgument(new Argument("<shell>", "the shell that reads it").choices(SHELLS))
    .addHelpText(
      "after",
      `
Examples:
  source <(physarium completion bash)
  physarium completion zsh > "\${fpath[1]}/_physarium"
  physarium completion fish > ~/.config/fish/completions/physarium.fish`,
    )
    .action((shell: Shell) => {
      process.stdout.write(completionScript(program, shell));
    });
}
