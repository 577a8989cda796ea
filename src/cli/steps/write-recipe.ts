import type { Command } from "commander";
import { stringify } from "yaml";
import { nodeFiles } from "../../checkpoint/file-layer.js";
import { PhysariumError } from "../../errors.js";
import { exists } from "../../output/place.js";
import { STEPS } from "./recipe.js";

/** What a run says about itself or how it began, not what it makes. */
const NOT_KEPT = ["--json", "--quiet", "--events", "--resume", "--overwrite", "--recipe", "--against"];

/**
 * The recipe (YAML) that commands stand for: `readRecipe` makes the same commands of it. The first surgery names model
 * and output; commands that are no step of a recipe are left out.
 *
 * commands  words behind `physarium`, arguments before options
 */
export function recipeOf(commands: readonly (readonly string[])[], program: Command): string {
  const recipe: Record<string, unknown> = {};
  for (const [name, ...words] of commands) {
    const command = program.commands.find((each) => each.name() === name);
    if (command === undefined || !(STEPS as readonly string[]).includes(name)) continue;
    const { places, options } = parse(command, words);
    if (name === "surgery") Object.assign(recipe, { model: places[0], output: places[1] });
    if (name === "pack" || name === "export") {
      recipe[name] = [...((recipe[name] as unknown[] | undefined) ?? []), { output: places[1], ...options }];
    } else recipe[name] = name === "surgery" || Object.keys(options).length > 0 ? options : true;
  }
  return stringify(recipe);
}

/** Throws `USAGE_OUTPUT_EXISTS` before anything is done where a recipe would replace a file. */
export async function refuseExistingRecipe(path: string): Promise<void> {
  if (!(await exists(path, nodeFiles))) return;
  throw new PhysariumError("USAGE_OUTPUT_EXISTS", `${path}: it exists; give the recipe another name`, { path });
}

/** Arguments and options of one command line, as `readRecipe` names them. */
function parse(command: Command, words: readonly string[]): { places: string[]; options: Record<string, unknown> } {
  const places: string[] = [];
  const options: Record<string, unknown> = {};
  for (let at = 0; at < words.length; at++) {
    const [name, given] = splitWord(words[at]);
    const option = command.options.find(({ long, short }) => name === long || name === short);
    if (option === undefined) {
      places.push(words[at]);
      continue;
    }
    const follows = given ?? words[at + 1];
    const takes = option.required || (option.optional && (given !== undefined || !/^-/.test(follows ?? "-")));
    if (takes && given === undefined) at++;
    if (NOT_KEPT.includes(option.long!)) continue;
    const key = option.long!.slice(2);
    const value = takes ? asNumber(follows) : true;
    const before = options[key];
    // Given twice: both are kept; where the last one counts, it still is the last.
    options[key] = before === undefined || value === true ? value : [before, value].flat();
  }
  return { places, options };
}

function splitWord(word: string): [name: string, value: string | undefined] {
  const found = /^(--[^=]+)=([\s\S]*)$/.exec(word);
  return found === null ? [word, undefined] : [found[1], found[2]];
}

/** A number reads better without quotes, where it comes back as the same text. */
function asNumber(text: string): string | number {
  return text !== "" && String(Number(text)) === text ? Number(text) : text;
}
