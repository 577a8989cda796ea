import { type Command, Help, type Option } from "commander";
import { LONG_HEADINGS } from "./option-groups.js";
import { pathOf } from "./walk.js";

const ALL = "--all";

/** Help with required options in the usage line, options under headings, and the rare ones only with `--all`. */
export function configureHelp(program: Command): void {
  const plain = new Help();
  const isWhole = (): boolean => process.argv.includes(ALL);
  const isShown = (option: Option): boolean => isWhole() || !LONG_HEADINGS.has(option.helpGroupHeading ?? "");
  program.configureHelp({
    visibleOptions(command) {
      return plain.visibleOptions(command).filter(isShown);
    },
    commandUsage: usageOf,
    subcommandTerm: (command) => command.name(),
    formatHelp(command, helper) {
      return `${Help.prototype.formatHelp.call(this, command, helper)}${isWhole() ? "" : moreOf(command)}`;
    },
  });
}

/** The usage line: what must be given, in full. */
export function usageOf(command: Command): string {
  if (command.parent === null && command.commands.length > 0) return `${command.name()} <command> [options]`;
  const required = command.options.filter(({ mandatory }) => mandatory).map(({ flags }) => flags);
  return [pathOf(command), ...argumentsOf(command), ...required, "[options]"].join(" ");
}

/** A command's arguments as they are typed: `<donor> [output]`. */
export function argumentsOf(command: Command): string[] {
  return command.registeredArguments.map((argument) => {
    const words = `${argument.name()}${argument.variadic ? "..." : ""}`;
    return argument.required ? `<${words}>` : `[${words}]`;
  });
}

/** What the short help leaves out, and how to see it. */
function moreOf(command: Command): string {
  const hidden = new Map<string, number>();
  for (const { helpGroupHeading: heading = "", hidden: isHidden } of command.options) {
    if (!isHidden && LONG_HEADINGS.has(heading)) hidden.set(heading, (hidden.get(heading) ?? 0) + 1);
  }
  if (hidden.size === 0) return "";
  const words = [...hidden].map(([heading, count]) => `${heading.replace(/:$/, "")} (${count})`);
  return `More with --help ${ALL}: ${words.join(", ")}.\n`;
}
