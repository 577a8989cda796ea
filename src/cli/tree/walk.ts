import type { Command } from "commander";

/** A command's name with those above it, as it is typed: `physarium surgery`. */
export function pathOf(command: Command): string {
  return command.parent === null ? command.name() : `${pathOf(command.parent)} ${command.name()}`;
}

/** The commands under this one, at any depth, in order. */
export function* commandsUnder(command: Command): Generator<Command> {
  for (const each of command.commands) {
    yield each;
    yield* commandsUnder(each);
  }
}
