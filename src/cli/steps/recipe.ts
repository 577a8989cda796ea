import type { Command } from "commander";
import { parseDocument } from "yaml";
import { PhysariumError } from "../../errors.js";

/** The steps of a recipe, in the order they run; each is a command of that name. */
export const STEPS = ["surgery", "verify", "eval", "gate", "pack", "export"] as const;

/** Deeper or longer than this no recipe is. */
const MAX_BYTES = 1_000_000;

/**
 * The commands that a recipe stands for.
 *
 * ```yaml
 * model: ./model
 * output: ./operated
 * surgery: { flow: activation, target-sparsity: 0.5, calibration: book.txt }
 * verify: true
 * eval: { text: test.txt, limit: 32 }
 * gate: { max-perplexity-ratio: 1.1 }
 * export: [{ output: model.gguf, type: q8_0 }]
 * ```
 *
 * Names of options are those of the command line, with `-` or `_`; `no-heal: true` or `heal: false` turn one off.
 * Throws `USAGE_RECIPE` for what is no YAML, no recipe, or names a step or an option that there is not.
 */
export function readRecipe(text: string, place: string, program: Command): string[][] {
  const refuse = (words: string): PhysariumError => new PhysariumError("USAGE_RECIPE", `${place}: ${words}`, { place });
  if (text.length > MAX_BYTES) throw refuse("this is too long for a recipe");
  const document = parseDocument(text, { prettyErrors: true });
  if (document.errors.length > 0) throw refuse(`this is no YAML: ${document.errors[0].message.split("\n")[0]}`);
  let recipe: unknown;
  try {
    recipe = document.toJS({ maxAliasCount: 100 });
  } catch (error) {
    throw refuse(`this is no YAML: ${(error as Error).message}`);
  }
  if (!isObject(recipe)) throw refuse("expected members as model, output and surgery");
  const { model, output, ...steps } = recipe;
  if (typeof model !== "string" || typeof output !== "string") throw refuse("expected model and output, both as text");
  const known: readonly string[] = STEPS;
  const unknown = Object.keys(steps).find((name) => !known.includes(name));
  if (unknown !== undefined) throw refuse(`"${unknown}" is no step; known are model, output, ${STEPS.join(", ")}`);
  if (!("surgery" in steps)) throw refuse("there is no surgery step; surgery: {} takes the defaults");
  return STEPS.flatMap((name) => {
    const said = steps[name];
    if (said === undefined || said === false || said === null) return [];
    const all = Array.isArray(said) ? said : [said === true ? {} : said];
    return all.map((each) => {
      if (!isObject(each)) throw refuse(`${name}: expected options, as ${name}: { name: value }`);
      const command = program.commands.find((other) => other.name() === name)!;
      const { output: target, ...options } = each;
      return [name, ...placesOf(name, model, output, target, refuse), ...flagsOf(command, options, refuse)];
    });
  });
}

type Refuse = (words: string) => PhysariumError;

/** A step's arguments, and what it is held against. */
function placesOf(name: string, model: string, output: string, target: unknown, refuse: Refuse): string[] {
  if (name === "surgery" || name === "verify") return [model, output];
  if (name === "eval" || name === "gate") return [output, "--against", model];
  if (typeof target !== "string") throw refuse(`${name}: expected output, where it is written`);
  return [output, target];
}

function flagsOf(command: Command, options: Readonly<Record<string, unknown>>, refuse: Refuse): string[] {
  return Object.entries(options).flatMap(([name, value]) => {
    const flag = `--${name.replaceAll("_", "-")}`;
    const find = (long: string) => command.options.find((option) => option.long === long);
    const option = find(flag) ?? (value === false ? find(`--no-${flag.slice(2)}`) : undefined);
    const help = `physarium ${command.name()} --help --all`;
    if (option === undefined) throw refuse(`${command.name()}: there is no option ${name}; see ${help}`);
    if (option.required || option.optional) {
      const values = Array.isArray(value) ? value : [value];
      return values.flatMap((each) => {
        if (each === true && option.optional) return [option.long!];
        if (typeof each !== "string" && typeof each !== "number")
          throw refuse(`${command.name()}: ${name} needs a value`);
        return [option.long!, `${each}`];
      });
    }
    if (typeof value !== "boolean") throw refuse(`${command.name()}: ${name} is true or false`);
    // `heal: false` found `--no-heal`; `no-heal: false` asks for nothing.
    const isAsked = option.long === flag ? value : !value;
    return isAsked ? [option.long!] : [];
  });
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
