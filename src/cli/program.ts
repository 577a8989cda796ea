import { Command } from "commander";
import { PHYSARIUM_VERSION } from "../version.js";
import { COMMANDS } from "./commands.js";
import { emitEvent, tellEvents } from "./events.js";
import { clearProgress } from "./progress.js";
import { addCommonOptions } from "./tree/common-options.js";
import { configureHelp } from "./tree/help.js";
import { COMMAND_GROUPS, groupOptions, headingOfCommand, OTHER_COMMANDS } from "./tree/option-groups.js";
import { commandsUnder, pathOf } from "./tree/walk.js";

/**
 * The command tree. Everything that is made of it (help, completion, man pages) sees new commands by itself; each gets
 * the common options, and options that many share get their headings. `names`: only these commands.
 */
export async function buildProgram(names: readonly string[] = Object.keys(COMMANDS)): Promise<Command> {
  const program = new Command()
    .name("physarium")
    .description("Surgery for open-weight language models: a slime-mould flow decides which weights starve.")
    .version(PHYSARIUM_VERSION)
    .exitOverride()
    .configureOutput({ outputError: () => {} })
    .showSuggestionAfterError()
    .addHelpText(
      "after",
      `
Examples:
  physarium operate hf://HuggingFaceTB/SmolLM2-135M-Instruct ./operated   the whole way, with a plan first
  physarium plan ./model                                                  what would be done, what it takes
  physarium surgery ./model ./operated                                    do it
  physarium verify ./model ./operated                                     prove it, tensor by tensor

physarium <command> --help is short; --help --all has every option.
Exit codes: 2 usage, 3 the donor, 4 verification, 5 input and output, 70 a bug of ours, 75 try again, 130 stopped.`,
    );
  configureHelp(program);
  for (const register of await Promise.all(names.map((name) => COMMANDS[name]()))) register(program);
  sortCommands(program);
  for (const command of commandsUnder(program)) {
    const path = pathOf(command);
    // A group's own commands stand under one heading.
    if (command.parent === program) command.helpGroup(headingOfCommand(command.name()));
    command.exitOverride((error) => {
      throw Object.assign(error, { commandPath: path });
    });
    if (command.commands.length > 0) continue;
    addCommonOptions(command);
    groupOptions(command);
  }
  program.hook("preAction", (_, command) => {
    if (!command.opts().events) return;
    tellEvents(pathOf(command).replace(/^physarium /, ""));
    emitEvent("begun", { arguments: process.argv.slice(2) });
  });
  program.hook("postAction", clearProgress);
  return program;
}

/** In the order of their groups, so that the help's headings are. */
function sortCommands(program: Command): void {
  const headings = [...COMMAND_GROUPS.map(({ heading }) => heading), OTHER_COMMANDS];
  const order = COMMAND_GROUPS.flatMap(({ commands }) => commands);
  const rank = (command: Command): number => {
    const name = command.name();
    const heading = headings.indexOf(headingOfCommand(name));
    return heading * 1000 + Math.max(order.indexOf(name), 0);
  };
  (program.commands as Command[]).sort((a, b) => rank(a) - rank(b));
}
