import type { Command, Option } from "commander";
import { usageOf } from "./help.js";
import { commandsUnder, pathOf } from "./walk.js";

/** Man pages of the whole tree, by file name: `physarium.1`, `physarium-surgery.1`, … */
export function manPages(program: Command, version: string): Map<string, string> {
  return new Map(
    [program, ...commandsUnder(program)].map((command) => [
      `${pathOf(command).replaceAll(" ", "-")}.1`,
      manPage(command, version),
    ]),
  );
}

/** One page in man(7) macros, made of what the help says. */
export function manPage(command: Command, version: string): string {
  const path = pathOf(command);
  const lines = [
    `.TH ${path.replaceAll(" ", "-").toUpperCase()} 1 "" "physarium ${version}" "Physarium"`,
    ".SH NAME",
    `${roff(path.replaceAll(" ", "-"))} \\- ${roff(command.description())}`,
    ".SH SYNOPSIS",
    `.B ${roff(usageOf(command))}`,
  ];
  if (command.registeredArguments.length > 0) {
    lines.push(".SH ARGUMENTS");
    for (const argument of command.registeredArguments)
      lines.push(".TP", `.I ${roff(argument.name())}`, roff(argument.description));
  }
  for (const [heading, options] of byHeading(command.options)) {
    lines.push(`.SH ${roff(heading.replace(/:$/, "").toUpperCase())}`);
    for (const option of options)
      lines.push(".TP", `.B ${roff(option.flags)}`, `${roff(option.description)}${defaultOf(option)}`);
  }
  if (command.commands.length > 0) {
    lines.push(".SH COMMANDS");
    for (const each of command.commands) lines.push(".TP", `.B ${roff(each.name())}`, roff(each.description()));
  }
  const after = afterTextOf(command);
  if (after !== "") lines.push(".SH NOTES", ".nf", ...after.split("\n").map(roff), ".fi");
  const above = command.parent === null ? [] : [".SH SEE ALSO", `.BR ${roff(pathOf(command.parent))} (1)`];
  return `${[...lines, ...above].join("\n")}\n`;
}

function byHeading(options: readonly Option[]): Map<string, Option[]> {
  const groups = new Map<string, Option[]>();
  for (const option of options) {
    if (option.hidden) continue;
    const heading = option.helpGroupHeading ?? "Options:";
    groups.set(heading, [...(groups.get(heading) ?? []), option]);
  }
  return groups;
}

function defaultOf({ defaultValue, negate }: Option): string {
  if (defaultValue === undefined || negate || Array.isArray(defaultValue)) return "";
  return roff(` (default: ${JSON.stringify(defaultValue)})`);
}

/** What stands behind the options in the help: prose and examples. */
function afterTextOf(command: Command): string {
  const parts: string[] = [];
  const write = (text: string): void => {
    parts.push(text);
  };
  // Commander keeps these texts as listeners and has no other way to them.
  (command as unknown as NodeJS.EventEmitter).emit("afterHelp", { error: false, command, write });
  return parts.join("").trim();
}

/** Text as roff reads it back: backslashes, dashes, and a dot or quote that opens a line. */
function roff(text: string): string {
  return text
    .replaceAll("\\", "\\e")
    .replaceAll("-", "\\-")
    .replace(/^([.'])/, "\\&$1");
}
