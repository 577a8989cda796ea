import type { Command } from "commander";

/** Options that mean the same in every command. */
const COMMON = [
  ["--json", "the result as one JSON object on stdout, errors as JSON on stderr"],
  ["--events", "what happens as JSON lines on stderr, each with v, type, time and command"],
  ["--quiet", "nothing but what was asked for, and errors: no progress, no notes, no summary of what was written"],
] as const;

/** Commands whose output is text for another program. */
const WITHOUT = ["completion", "man"];

/** Give a command the common options that it lacks, and all of them one meaning. */
export function addCommonOptions(command: Command): void {
  if (WITHOUT.includes(command.name())) return;
  for (const [flag, description] of COMMON) {
    const known = command.options.find(({ long }) => long === flag);
    if (known === undefined) command.option(flag, description);
    else known.description = description;
  }
}
