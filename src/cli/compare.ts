import { mkdir, readdir, readFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import type { Command } from "commander";
import { isGramFile } from "../calibration/grams/stored-grams.js";
import { openDonor } from "../checkpoint/donor.js";
import { attempt, nodeFiles } from "../checkpoint/file-layer.js";
import { type ComparisonOptions, compareMethods, mergeRows } from "../compare/comparison.js";
import { isPhysariumError, PhysariumError } from "../errors.js";
import type { PruneTarget } from "../methods/method.js";
import { chooseMethods, METHODS } from "../methods/registry.js";
import { parsePattern } from "../methods/stages/select.js";
import { type Lock, takeLock } from "../output/lock.js";
import { outputNames, refuseOverlap } from "../output/place.js";
import { removeTemporaries, writeSmallFile } from "../output/small-file.js";
import { withLoadWarnings } from "../probe/load-warnings.js";
import type { ComparisonRecord } from "../record/comparison.js";
import { comparisonCsv, methodTitle, renderComparison, targetOf } from "../report/comparison.js";
import { comparisonPicture } from "../report/pictures/comparison.js";
import { toGibibytes, toInteger } from "./arguments.js";
import { fetchTexts, modelArgument } from "./model-argument.js";
import {
  addDeviceOptions,
  addProtocolOptions,
  checkProtocolFlags,
  type DeviceFlags,
  type ProtocolFlags,
  toDeviceOptions,
  toProtocolOptions,
} from "./probe-options.js";
import { sayWarnings } from "./say-warnings.js";
import { stopSignal } from "./stop-signal.js";

interface Flags extends ProtocolFlags, DeviceFlags {
  text: string;
  calibration?: string;
  sparsity?: string;
  pattern?: string;
  methods: string;
  then?: string;
  distil?: number;
  answers?: number;
  samples: number;
  seed: number;
  minTokens?: number;
  memory?: number;
  out?: string;
  json?: boolean;
  quiet?: boolean;
}

/** `physarium compare <donor> --text FILE` */
export function registerCompare(program: Command): void {
  const names = METHODS.map(({ name }) => name).join(", ");
  const command = program
    .command("compare")
    .description("methods × sparsities on one donor: what each costs in perplexity, divergence, time and memory")
    .argument("<donor>", "model folder; nothing is written to it")
    .requiredOption("--text <file>", "UTF-8 text to score")
    .option(
      "--calibration <file>",
      "UTF-8 text to calibrate on (default: the donor writes its own); the scored file itself is split in two; or " +
        "a file of calibrate (.safetensors)",
    )
    .option("--sparsity <list>", "fractions of zeros, as 0.25,0.5,0.6")
    .option("--pattern <list>", "N:M patterns that keep N of each M inputs, as 2:4")
    .option("--methods <list>", `all, or some of ${names}`, "all")
    .option(
      "--then <name>",
      "matched: beside every method's row one whose layers were matched to the donor's afterwards",
    )
    .option(
      "--distil <steps>",
      "beside every method's row one distilled in so many steps (trained: a class of its own)",
      toInteger,
    )
    .option(
      "--answers <n>",
      "greedy answers to so many prompts that the donor writes: how many stay its own, and how they repeat themselves",
      toInteger,
    )
    .option("--samples <n>", "sequences that calibrate", toInteger, 128)
    .option("--seed <n>", "0 takes samples in the order of the text, another number draws them", toInteger, 0);
  addDeviceOptions(addProtocolOptions(command))
    .option("--memory <GiB>", "budget of the comparison (default: half of the machine)", toGibibytes)
    .option("--out <folder>", "keep compare.json, .md, .csv and .svg there; a stopped comparison goes on from it")
    .option("--json", "the numbers as one JSON object")
    .option("--quiet", "no progress on stderr")
    .addHelpText(
      "after",
      `
Example:
  physarium compare ./model --text wiki.test.raw --calibration wiki.train.raw --sparsity 0.5,0.6 --out ./comparison
  physarium compare ./model --text stories.txt --calibration stories.txt --protocol documents --window 128 \\
    --min-tokens 128 --samples 256 --limit 512 --sparsity 0.5`,
    )
    .action(async (given: string, flags: Flags) => {
      const said = ["samples", "seed"].filter((name) => command.getOptionValueSource(name) === "cli");
      if (isGramFile(flags.calibration) && said.length > 0) {
        throw new PhysariumError(
          "USAGE_ARGUMENT",
          `--${said.join(", --")} choose what calibrates, and --calibration is a file of Grams, collected before; ` +
            "leave them out",
        );
      }
      await fetchTexts(flags, flags, "text", "calibration");
      const donor = await modelArgument(given, flags);
      const folder = flags.out === undefined ? undefined : resolve(flags.out);
      const titles = Object.fromEntries(METHODS.map(({ name, title }) => [name, title]));
      const say = flags.quiet || flags.json ? () => {} : (words: string) => process.stderr.write(`${words}\n`);
      // Before the folder is made, so that nothing is for a file that is none of ours.
      if (folder !== undefined) await readEarlier(folder);
      let signal: AbortSignal | undefined;
      const options = (earlier: ComparisonRecord | undefined): ComparisonOptions => ({
        text: resolve(flags.text),
        ...(flags.calibration === undefined ? {} : { calibration: resolve(flags.calibration) }),
        methods: chooseMethods(listOf(flags.methods)),
        whatCan: listOf(flags.methods).includes("all"),
        targets: targetsOf(flags),
        ...(flags.distil === undefined ? {} : { distil: positive("--distil", flags.distil) }),
        ...(flags.answers === undefined ? {} : { answers: positive("--answers", flags.answers) }),
        ...(flags.then === undefined ? {} : { thenMatched: isThenMatched(flags.then) }),
        protocol: toProtocolOptions(protocolOf(flags)),
        samples: positive("--samples", flags.samples),
        seed: flags.seed,
        ...(flags.minTokens === undefined ? {} : { minTokens: flags.minTokens }),
        ...toDeviceOptions(flags),
        ...(flags.memory === undefined ? {} : { memoryBytes: flags.memory * 2 ** 30 }),
        ...(earlier === undefined ? {} : { earlier }),
        // Nobody asks for it before the texts are tokenised: until then nothing is there to keep, and Ctrl-C ends the
        // process by itself.
        get signal() {
          signal ??= stopSignal();
          return signal;
        },
        onProgress: say,
        onRow: async (soFar, row, isEarlier) => {
          const words = isEarlier ? "taken from the earlier run" : `${row.seconds.toFixed(1)} s`;
          say(`${targetOf(row)} ${methodTitle(row, {})}: perplexity ${row.perplexity.toFixed(3)} (${words})`);
          if (folder !== undefined) await keep(folder, soFar, titles);
        },
      });
      options(undefined);
      const opened = await withLoadWarnings(await openDonor(resolve(donor)));
      sayWarnings(opened.warnings, flags.quiet);
      const inputs = [opened.path, ...[flags.text, flags.calibration ?? []].flat()];
      const lock = folder === undefined ? undefined : await claim(folder, inputs);
      let record: ComparisonRecord;
      try {
        record = await compareMethods(donor, options(folder === undefined ? undefined : await readEarlier(folder)));
      } catch (error) {
        throw isPhysariumError(error, "STOPPED") ? stopped(folder) : error;
      } finally {
        await lock?.release();
      }
      process.stdout.write(flags.json ? `${JSON.stringify(record)}\n` : renderComparison(record, titles));
    });
}

function isThenMatched(then: string): boolean {
  if (then === "matched") return true;
  throw new PhysariumError("USAGE_ARGUMENT", `--then ${then}: known is matched`, { then });
}

function stopped(folder: string | undefined): PhysariumError {
  const advice =
    folder === undefined
      ? "nothing was kept: with --out a stopped comparison can go on"
      : "give the same command again to go on from the last row";
  return new PhysariumError("STOPPED", `stopped; ${advice}`);
}

/** Without the least length: calibration and scoring ask for that where they choose sequences. */
function protocolOf(flags: Flags): ProtocolFlags {
  checkProtocolFlags(flags);
  const { protocol, window, stride, bos, rows, separator, skip, limit } = flags;
  return { protocol, window, stride, bos, rows, separator, skip, limit };
}

function targetsOf(flags: Flags): PruneTarget[] {
  const texts = [...listOf(flags.sparsity ?? ""), ...listOf(flags.pattern ?? "")];
  if (texts.length === 0 && (flags.sparsity ?? flags.pattern) !== undefined) {
    throw new PhysariumError("USAGE_SPARSITY", "--sparsity and --pattern are empty: expected lists as 0.5,0.6 and 2:4");
  }
  const targets: PruneTarget[] = [
    ...listOf(flags.sparsity ?? (flags.pattern === undefined ? "0.5" : "")).map((text): PruneTarget => {
      const sparsity = Number(text);
      if (!(sparsity > 0 && sparsity < 1)) {
        throw new PhysariumError("USAGE_SPARSITY", `--sparsity ${text}: expected fractions between 0 and 1`, { text });
      }
      return { kind: "sparsity", sparsity };
    }),
    ...listOf(flags.pattern ?? "").map((text): PruneTarget => ({ kind: "pattern", pattern: parsePattern(text) })),
  ];
  return targets;
}

/** The parts between commas, each once. */
function listOf(text: string): string[] {
  const parts = text.split(",").map((part) => part.trim());
  return [...new Set(parts.filter((part) => part !== ""))];
}

function positive(flag: string, value: number): number {
  if (value > 0) return value;
  throw new PhysariumError("USAGE_ARGUMENT", `${flag} ${value}: expected at least 1`, { value });
}

const FILE = "compare.json";
const OTHER_FILES = ["compare.md", "compare.csv", "compare.svg"];

/** The record of an earlier run, or nothing: a file that is none of ours is refused before anything replaces it. */
async function readEarlier(folder: string): Promise<ComparisonRecord | undefined> {
  const path = join(folder, FILE);
  let text: string;
  try {
    text = await readFile(path, "utf8");
  } catch {
    return undefined;
  }
  try {
    const record = JSON.parse(text) as ComparisonRecord;
    if (typeof record.fingerprint === "string" && Array.isArray(record.rows)) return record;
  } catch {
    // Below: whatever it is, it is not ours.
  }
  throw new PhysariumError("USAGE_OUTPUT", `${path}: this is no record of a comparison; give another --out`, { path });
}

/**
 * Make the folder before anything takes long, and hold it against a second run. Throws `USAGE_OUTPUT_OVERLAP` where an
 * input lies, `USAGE_OUTPUT` where others' files would be replaced, `USAGE_LOCKED`.
 */
async function claim(folder: string, inputs: readonly string[]): Promise<Lock> {
  for (const name of [FILE, ...OTHER_FILES]) await refuseOverlap(await outputNames(join(folder, name)), inputs);
  await attempt("making the folder", folder, () => mkdir(folder, { recursive: true }));
  const lock = await takeLock((await outputNames(join(folder, FILE))).partialPath);
  try {
    await removeTemporaries(folder, nodeFiles, "compare");
    await refuseForeign(folder);
    return lock;
  } catch (error) {
    await lock.release().catch(() => {});
    throw error;
  }
}

async function refuseForeign(folder: string): Promise<void> {
  const found = await attempt("listing", folder, () => readdir(folder));
  const foreign = found.includes(FILE) ? [] : found.filter((name) => OTHER_FILES.includes(name));
  if (foreign.length > 0) {
    throw new PhysariumError(
      "USAGE_OUTPUT",
      `${folder}: ${foreign.join(", ")} would be replaced, and no ${FILE} says that they are ours; give another --out`,
      { foreign },
    );
  }
}

/** Every row is on disk before the next begins; each file is replaced whole. Rows of earlier runs stay. */
async function keep(folder: string, made: ComparisonRecord, titles: Record<string, string>): Promise<void> {
  const beside = await readEarlier(folder);
  const record = { ...made, rows: [...made.rows] };
  if (beside?.fingerprint === made.fingerprint) mergeRows(record.rows, beside.rows);
  const contents = [renderComparison(record, titles), comparisonCsv(record), comparisonPicture(record, titles)];
  await writeSmallFile(join(folder, FILE), `${JSON.stringify(record, undefined, 2)}\n`);
  for (const [at, name] of OTHER_FILES.entries()) await writeSmallFile(join(folder, name), contents[at]);
}
