import { dirname, isAbsolute, relative, resolve } from "node:path";
import { type Command, Option } from "commander";
import { jsonLine, PhysariumError, printable } from "../../errors.js";
import { addBody, addOrgan, initFarm, removeFromFarm } from "../../farm/config/edit-config.js";
import { checkFarm, farmError, farmPath, problemWords } from "../../farm/config/read-config.js";
import { counted } from "../../report/number-words.js";
import { toCount, toInteger, toNumber } from "../arguments.js";
import { addFarmOptions, type FarmFlags, readOptions, toSizeText } from "./options.js";

/** `physarium farm init|add|remove|check`: the farm's file. */
export function registerFarmFile(farm: Command): void {
  farm
    .command("init")
    .description("write organ_farm.json for an empty farm")
    .argument("[folder]", "where", ".")
    .option("--vram <size>", "budget of video memory, or auto", toSizeText, "auto")
    .option("--ram <size>", "budget of RAM, or auto", toSizeText, "auto")
    .option("--ssd <size>", "budget of the disk, or auto", toSizeText, "auto")
    .addOption(tierOption("--tier-default <tier>", "tier of organs that name none").default("VRAM"))
    .option("--json", "the result as JSON")
    .action(
      async (
        folder: string,
        flags: { vram: string; ram: string; ssd: string; tierDefault: string; json?: boolean },
      ) => {
        const path = await initFarm(folder, { VRAM: flags.vram, RAM: flags.ram, SSD: flags.ssd }, flags.tierDefault);
        say(flags, { file: path }, `${path}\nNext: physarium farm add <organ> --body <body> --source <operated model>`);
      },
    );
  registerAdd(farm);
  addFarmOptions(
    farm
      .command("remove")
      .description("remove an organ, or a body that no organ uses")
      .argument("<name>", "organ or body"),
  ).action(async (name: string, flags: FarmFlags) => {
    const path = farmPath(flags.file);
    await removeFromFarm(path, name, readOptions(flags));
    say(flags, { file: path, removed: name }, `${path}: ${name} is removed`);
  });
  addFarmOptions(farm.command("check").description("everything wrong with the farm's file, with line; exit 2")).action(
    async (flags: FarmFlags) => {
      const path = farmPath(flags.file);
      const { problems, farm: found } = await checkFarm(path, readOptions(flags));
      if (flags.json) process.stdout.write(jsonLine({ file: path, ok: problems.length === 0, problems }));
      else for (const problem of problems) process.stdout.write(`${printable(problemWords(problem))}\n`);
      if (problems.length > 0) throw farmError(path, problems);
      if (!flags.json) {
        process.stdout.write(
          `${printable(path)}: nothing is wrong (${bodiesAndOrgans(found!.bodies.size, found!.organs.size)})\n`,
        );
      }
    },
  );
}

interface AddFlags extends FarmFlags {
  body?: string;
  source?: string;
  donor?: string;
  forms?: string;
  context?: number;
  sequences?: number;
  threads?: number | "auto";
  maxKl?: number;
  tier?: string;
  verifier?: string;
  schema?: string;
  template?: string;
  anchors?: string;
  command?: string[];
  maxTokens?: number;
  priority?: number;
  ttl?: string;
  retries?: number;
  preamble?: string;
  chatml?: boolean;
  jsonOut?: boolean;
  pinned?: boolean;
}

function registerAdd(farm: Command): void {
  addFarmOptions(
    farm
      .command("add")
      .description("add an organ, or change one; with --source its body, too")
      .argument("[organ]", "the role's name; without it the body alone is added")
      .option("--body <name>", "the model it uses")
      .option("--source <folder>", "the body's operated model")
      .option("--donor <folder>", "what the body's loss is measured against (default: the ledger's donor)")
      .option("--forms <list>", "GGUF types that may be served, as q8_0,q6_k,q4_k")
      .option("--context <tokens>", "tokens of one conversation", toCount)
      .option("--sequences <n>", "answers at the same time", toCount)
      .option("--threads <n>", "threads of the engine, or auto", (text) => (text === "auto" ? text : toCount(text)))
      .option("--max-kl <nats>", "mean KL divergence from the donor, at most", toNumber)
      .addOption(tierOption("--tier <tier>", "where the organ is wanted"))
      .option("--verifier <name>", "json_strict, json_schema, code_compile, source_present or command")
      .option("--schema <file>", "JSON schema of the answers")
      .option("--template <file>", "prompt template: text with {{input}}")
      .option("--anchors <file>", "JSON lines {prompt, must} that admission asks")
      .option("--command <program...>", "verifier command: program and arguments")
      .option("--max-tokens <n>", "of an answer", toCount)
      .option("--priority <n>", "0 to 100; higher goes first", toInteger)
      .option("--ttl <time>", "idle time after which the body is given back, as 10m")
      .option("--retries <n>", "of an answer that its verifier refused", toInteger)
      .option("--preamble <text>", "system message ahead of every conversation")
      .option("--chatml", "ChatML instead of the model's own chat template")
      .option("--json-out", "answers are JSON: the engine's grammar is held to it")
      .option("--pinned", "the body is never evicted"),
  ).action(async (organ: string | undefined, flags: AddFlags) => {
    const path = farmPath(flags.file);
    const options = readOptions(flags);
    const body = flags.body;
    if (body === undefined) throw new PhysariumError("USAGE_ARGUMENT", "--body names the model; it is missing");
    const place = (given: string | undefined): string | undefined => placeInFile(path, given);
    const bodyMembers = given({
      source: place(flags.source),
      donor: place(flags.donor),
      forms: flags.forms?.split(",").map((form) => form.trim().toLowerCase()),
      context: flags.context,
      sequences: flags.sequences,
      threads: flags.threads,
      max_kl: flags.maxKl,
    });
    if (Object.keys(bodyMembers).length > 0) await addBody(path, body, bodyMembers, options);
    if (organ !== undefined) {
      const members = given({
        body,
        tier: flags.tier,
        verifier: flags.verifier,
        schema: place(flags.schema),
        command: flags.command,
        json_out: flags.jsonOut,
        max_tokens: flags.maxTokens,
        prompt_template: place(flags.template),
        use_chatml: flags.chatml,
        preamble: flags.preamble,
        pinned: flags.pinned,
        priority: flags.priority,
        ttl: flags.ttl,
        retries: flags.retries,
        anchors: place(flags.anchors),
      });
      await addOrgan(path, organ, members, options);
    }
    say(flags, { file: path, body, ...(organ === undefined ? {} : { organ }) }, `${path}: ${organ ?? body} is in`);
  });
}

/** Only what was given: what is left out keeps its default, or what it is. */
function given(members: Record<string, unknown>): Record<string, unknown> {
  return Object.fromEntries(Object.entries(members).filter(([, value]) => value !== undefined));
}

/** A path of the command line as the file writes it: from the file's folder, where it lies in it. */
function placeInFile(path: string, given: string | undefined): string | undefined {
  if (given === undefined) return undefined;
  const way = relative(dirname(path), resolve(given));
  return way.startsWith("..") || isAbsolute(way) ? resolve(given) : way || ".";
}

function bodiesAndOrgans(bodies: number, organs: number): string {
  return `${counted(bodies, "body", "bodies")}, ${counted(organs, "organ")}`;
}

function tierOption(flags: string, words: string): Option {
  return new Option(flags, words).choices(["VRAM", "RAM", "SSD"]);
}

function say(flags: { json?: boolean }, value: object, words: string): void {
  process.stdout.write(flags.json ? jsonLine(value) : `${printable(words, true)}\n`);
}
