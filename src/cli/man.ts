import type { Command } from "commander";
import { PhysariumError } from "../errors.js";
import { PHYSARIUM_VERSION } from "../version.js";
import { manPage } from "./tree/man-page.js";

/** `physarium man [command]` */
export function registerMan(program: Command): void {
  program
    .command("man")
    .description("print the man page of a command, made of its help")
    .argument("[command]", "a command of physarium; without one, the page of physarium itself")
    .addHelpText("after", "\nExample:\n  physarium man surgery | man -l -")
    .action((name: string | undefined) => {
      const command = name === undefined ? program : program.commands.find((each) => each.name() === name);
      if (command === undefined) {
        throw new PhysariumError("USAGE_COMMAND", `there is no command ${name}; see physarium --help`, { name });
      }
      process.stdout.write(manPage(command, PHYSARIUM_VERSION));
    });
}
