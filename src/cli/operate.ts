import { existsSync } from "node:fs";
import { join, resolve } from "node:path";
import { type Command, InvalidArgumentError } from "commander";
import { type Donor, openDonor } from "../checkpoint/donor.js";
import { openRuntime } from "../engine/runtime.js";
import { jsonLine, PhysariumError, printable } from "../errors.js";
import { writeSmallFile } from "../output/small-file.js";
import { estimateWorth } from "../pack/worth.js";
import { inspectModel } from "../probe/forward/inspect-model.js";
import { openTextFile } from "../probe/text/text-file.js";
import type { ComparisonRecord } from "../record/comparison.js";
import { isOperated, readDocuments } from "../record/open-record.js";
import { type Verdict, verdictOf } from "../record/verdict.js";
import { nextCommands } from "../report/next-commands.js";
import { shellQuote } from "../report/report-text.js";
import { checkOptions } from "../surgery/options.js";
import { type Plan, planSurgery } from "../surgery/plan.js";
import { toInteger, toNumber, toThreads } from "./arguments.js";
import { fetchTexts, folderArgument } from "./model-argument.js";
import { duration } from "./progress.js";
import { type Choice, chooseSparsity, SEARCHED, SEARCHED_SPARSITIES, sparsityToFit } from "./steps/choose-sparsity.js";
import { Journal } from "./steps/journal.js";
import { commandLine } from "./steps/run-command.js";
import { type WorkingTexts, workingTexts } from "./steps/working-texts.js";
import { recipeOf } from "./steps/write-recipe.js";

interface Flags {
  keepQuality?: number;
  fit?: number;
  sparsity?: number;
  flow?: "magnitude" | "activation";
  calibration?: string;
  text?: string;
  window: number;
  threads?: number;
  plan?: boolean;
  json?: boolean;
  quiet?: boolean;
}

/** A perplexity two hundredths over the donor's: between what Q6_K and Q4_0 cost (docs/verdict.md). */
const DEFAULT_QUALITY = 0.02;

/** `physarium operate <model> <output>` */
export function registerOperate(program: Command): void {
  program
    .command("operate")
    .description(
      "the whole way: plan, choose flow and sparsity by a short search, operate, verify, measure, one verdict",
    )
    .argument("<model>", "model folder, or hf://org/name")
    .argument("<output>", "folder to be made; the search stands beside it in <output>.operate")
    .option("--keep-quality <x>", "perplexity may rise by this share, as 0.02 (the default)", toShare)
    .option("--fit <size>", "as few zeros as make the packed model fit, as 8GB or 500MB", toBytes)
    .option("--sparsity <x>", "this share of zeros in the targets, as 0.5", toShare)
    .option("--flow <name>", "activation (v2, the default here) or magnitude (v1: loses more, takes seconds)", toFlow)
    .option("--text <file>", "UTF-8 text to measure on (default: what --calibration leaves, or the donor's own)")
    .option("--calibration <file>", "UTF-8 text to calibrate on (default: the first part of --text)")
    .option("--window <tokens>", "tokens of a sample", toInteger, 512)
    .option("--threads <n>", "threads of the matrix products (default: all cores)", toThreads)
    .option("--plan", "print the plan and stop")
    .addHelpText(
      "after",
      `
Everything it does is a command that could have been typed, and it prints each. Stopped, it goes on where it stood when
the same command is given again. Exit code 4 where the gate does not accept the result.

Examples:
  physarium operate ./model ./operated --text book.txt
  physarium operate hf://HuggingFaceTB/SmolLM2-135M-Instruct ./operated --keep-quality 0.05
  physarium operate ./model ./operated --fit 8GB --plan`,
    )
    .action(async (given: string, output: string, flags: Flags) => {
      const aims = [flags.keepQuality, flags.fit, flags.sparsity].filter((aim) => aim !== undefined);
      if (aims.length > 1) {
        throw new PhysariumError("USAGE_ARGUMENT", "--keep-quality, --fit and --sparsity are three aims; give one");
      }
      const say = (line: string): void => {
        if (!flags.quiet && !flags.json) process.stdout.write(`${printable(line, true)}\n`);
      };
      await fetchTexts(flags, flags, "text", "calibration");
      for (const text of [flags.text, flags.calibration]) if (text !== undefined) await openTextFile(resolve(text));
      // What would be refused in an hour is refused now: the engine, the family of the model.
      await openRuntime(flags.threads === undefined ? {} : { threads: flags.threads });
      const model = resolve(await folderArgument(given, flags));
      const donor = await openDonor(model);
      const { architecture } = await inspectModel(donor);
      const plan = planSurgery(donor, checkOptions({}));
      const window = Math.min(flags.window, architecture.maxPositions);
      const work = new Work(donor, plan, resolve(output), { ...flags, window }, program);
      const needed = await work.fitted();
      for (const line of work.planLines(needed)) say(line);
      if (flags.plan) return;
      const end = await work.run(needed, say);
      if (flags.json) process.stdout.write(jsonLine(end));
      else if (!flags.quiet) for (const line of endLines(end)) say(line);
      if (!end.accepted) {
        const words = `${end.output}: the gate did not accept it: ${end.verdict.sentence}`;
        throw new PhysariumError("VERIFY_GATE", words, { verdict: end.verdict.word });
      }
    });
}

interface End {
  readonly output: string;
  readonly flow: string;
  readonly sparsity: number;
  readonly verified: boolean;
  readonly accepted: boolean;
  readonly perplexity_ratio: number;
  /** The share by which perplexity was allowed to rise; `null` where the aim was another. */
  readonly aim: number | null;
  readonly verdict: Verdict;
  readonly texts: string;
  readonly report: string;
  /** A recipe of the same steps, for `physarium run`. */
  readonly recipe: string;
  readonly next: readonly string[];
}

/** One operation from plan to verdict; every step is a command of its own. */
class Work {
  constructor(
    private readonly donor: Donor,
    private readonly plan: Plan,
    private readonly output: string,
    private readonly flags: Flags,
    private readonly program: Command,
  ) {}

  /** With `--fit`: the sparsity it takes. Throws `USAGE_FIT` where none is needed, or none is enough. */
  async fitted(): Promise<number | undefined> {
    const { fit } = this.flags;
    if (fit === undefined) return undefined;
    const { size_packed, formats } = await estimateWorth(this.donor);
    const { modelWeights, path } = this.donor;
    const dense = (8 * size_packed) / modelWeights;
    // A tenth is left for what a model needs beside its weights.
    const sparsity = sparsityToFit({ modelWeights, targetWeights: this.plan.targetWeights, dense }, 0.9 * fit);
    const gigabytes = (bytes: number) => `${(bytes / 1e9).toFixed(2)} GB`;
    if (sparsity === 0) {
      const words = `packed without loss it takes ${gigabytes(size_packed)} as it is, and fits`;
      throw new PhysariumError("USAGE_FIT", `${path}: ${words}; physarium pack ${path} OUT`, { size_packed });
    }
    if (sparsity !== undefined) return sparsity;
    const smaller = formats.filter(({ size }) => size <= 0.9 * fit).map(({ format }) => format);
    throw new PhysariumError(
      "USAGE_FIT",
      `${path}: packed it takes ${gigabytes(size_packed)}, and 70 % zeros do not make it fit ${gigabytes(fit)}; ` +
        (smaller.length === 0 ? "no format of ours does" : `of physarium export these do: ${smaller.join(", ")}`),
      { size_packed, fits: smaller },
    );
  }

  planLines(needed: number | undefined): string[] {
    const { donor, plan, flags } = this;
    const n = (value: number) => value.toLocaleString("en-US");
    const sparsity = flags.sparsity ?? needed;
    const v2 = duration(plan.targetWeights / V2_WEIGHTS_PER_SECOND);
    const aim =
      sparsity === undefined
        ? `perplexity at most × ${1 + (flags.keepQuality ?? DEFAULT_QUALITY)} of the donor's`
        : `${(100 * sparsity).toFixed(0)} % zeros in the targets${needed === undefined ? "" : ", which makes it fit"}`;
    return [
      `model    ${donor.path}: ${n(donor.modelWeights)} weights, ${n(plan.targetWeights)} of them targets`,
      `aim      ${aim}`,
      ...(sparsity === undefined ? [searchLine()] : []),
      flags.flow === "magnitude"
        ? "operate  flow magnitude (v1), as fast as the disk"
        : `operate  flow activation (v2), about ${v2} on two quiet cores; --flow magnitude is as fast as the disk`,
      "then     verify, eval, gate, a verdict and what to type next",
      `disk     ${n(donor.totalSize)} bytes for ${this.output}; memory up to half of the machine`,
      "",
    ];
  }

  async run(needed: number | undefined, say: (line: string) => void): Promise<End> {
    const { donor, flags, output } = this;
    const { keepQuality, fit, sparsity, calibration, text, window, flow } = flags;
    const aim = JSON.stringify({ model: donor.path, keepQuality, fit, sparsity, calibration, text, window, flow });
    const journal = await Journal.open(`${output}.operate`, aim, [donor.path, output]);
    try {
      const texts = await workingTexts(donor.path, namedTexts(flags), journal, flags.quiet ?? false);
      const choice = await this.choose(needed, texts, journal);
      say(`chosen   flow ${choice.flow}, ${(100 * choice.sparsity).toFixed(0)} % zeros in the targets; ${texts.words}`);
      await this.operate(choice, texts, journal);
      return await this.judge(choice, texts, journal);
    } finally {
      await journal.close();
    }
  }

  private async choose(needed: number | undefined, texts: WorkingTexts, journal: Journal): Promise<Choice> {
    const { flags, donor } = this;
    const sparsity = flags.sparsity ?? needed;
    const flow = flags.flow ?? "activation";
    if (sparsity !== undefined) return { flow, sparsity };
    const methods = flow === "activation" ? Object.values(SEARCHED) : [SEARCHED.magnitude];
    const args = [
      ...["compare", donor.path, "--text", texts.text, "--calibration", texts.calibration],
      ...["--methods", methods.join(","), "--sparsity", SEARCHED_SPARSITIES.join(","), "--samples", "8"],
      ...["--window", `${Math.min(256, flags.window)}`, "--limit", "8", "--out", this.search(journal)],
      ...this.threads(),
    ];
    const { output } = await journal.step(args, { output: "json", quiet: flags.quiet ?? false });
    const { rows } = JSON.parse(output) as ComparisonRecord;
    return chooseSparsity(rows, Math.log1p(flags.keepQuality ?? DEFAULT_QUALITY), flow);
  }

  private async operate({ flow, sparsity }: Choice, texts: WorkingTexts, journal: Journal): Promise<void> {
    const { donor, output, flags } = this;
    const calibrated = ["--calibration", texts.calibration, "--samples", "32", "--window", `${flags.window}`];
    const v2 = [...calibrated, ...this.threads()];
    const isThere = existsSync(output) || existsSync(`${output}.partial`);
    const args = [
      ...["surgery", donor.path, output, "--flow", flow, "--target-sparsity", `${sparsity}`],
      ...(flow === "activation" ? v2 : []),
    ];
    // A run that was stopped goes on; one that is finished says so and does nothing.
    const quiet = flags.quiet ?? false;
    await journal.step(args, { output: "show", quiet }, isThere ? ["--resume"] : []);
  }

  private async judge(choice: Choice, texts: WorkingTexts, journal: Journal): Promise<End> {
    const { donor, output, flags } = this;
    const options = { output: "json", quiet: flags.quiet ?? false } as const;
    const against = ["--against", donor.path, "--text", texts.text, "--window", `${Math.min(256, flags.window)}`];
    const machine = this.threads();
    const verified = await journal.step(["verify", donor.path, output], { ...options, answers: [4] });
    await journal.step(["eval", output, ...against, "--limit", "32", ...machine], options);
    const gate = await journal.step(["gate", output, ...against, "--limit", "8", ...machine], {
      ...options,
      answers: [4],
    });
    const isSearched = existsSync(this.search(journal));
    if (isSearched && existsSync(output)) {
      await journal.step(["report", output, "--compare", this.search(journal)], options);
    }
    if (!(await isOperated(output))) {
      throw new PhysariumError("VERIFY_OUTPUT", `${output}: it is gone; remove ${journal.folder} and begin anew`);
    }
    const report = await readDocuments(output);
    const divergence = report.quality?.divergence;
    if (divergence == null) throw new PhysariumError("VERIFY_REPORT", `${output}: its report lost what was measured`);
    // The same again, without the search: physarium run.
    await writeSmallFile(this.recipe(journal), recipeOf(journal.commands, this.program));
    return {
      output,
      flow: choice.flow,
      sparsity: choice.sparsity,
      verified: verified.exit === 0,
      accepted: gate.exit === 0 && verified.exit === 0,
      perplexity_ratio: divergence.perplexity_ratio,
      aim: flags.fit === undefined && flags.sparsity === undefined ? (flags.keepQuality ?? DEFAULT_QUALITY) : null,
      verdict: verdictOf(divergence),
      texts: texts.words,
      report: join(output, "physarium", "report.html"),
      recipe: this.recipe(journal),
      next: nextCommands(report)
        .map(({ command }) => command)
        .filter((command) => !command.startsWith("physarium operate"))
        .slice(0, 3),
    };
  }

  private recipe(journal: Journal): string {
    return join(journal.folder, "recipe.yaml");
  }

  /** Where the comparison that chose the sparsity is kept; nothing is there where it was given. */
  private search(journal: Journal): string {
    return join(journal.folder, "search");
  }

  private threads(): string[] {
    return this.flags.threads === undefined ? [] : ["--threads", `${this.flags.threads}`];
  }
}

function searchLine(): string {
  const methods = Object.values(SEARCHED).join(" and ");
  return `search   ${methods} at ${SEARCHED_SPARSITIES.join(", ")} zeros, on a short text`;
}

/** docs/performance.md: half a billion weights in 1430.8 s on two cores. */
const V2_WEIGHTS_PER_SECOND = 350_000;

function namedTexts({ calibration, text }: Flags): { calibration?: string; text?: string } {
  return {
    ...(calibration === undefined ? {} : { calibration: resolve(calibration) }),
    ...(text === undefined ? {} : { text: resolve(text) }),
  };
}

function endLines(end: End): string[] {
  const { verdict, verified, accepted, next, report, recipe, output, aim, perplexity_ratio } = end;
  const reached = `× ${perplexity_ratio.toFixed(3)}, ${perplexity_ratio <= 1 + (aim ?? 0) ? "reached" : "missed"}`;
  return [
    "",
    `verdict  ${verdict.sentence}`,
    ...(aim === null ? [] : [`aim      perplexity × ${(1 + aim).toFixed(3)} at most: ${reached}`]),
    `proof    ${verified ? "nothing differs" : "VERIFICATION FAILED"}; gate: ${accepted ? "accepted" : "not accepted"}`,
    `report   ${shellQuote(report)}`,
    `recipe   ${shellQuote(recipe)} (physarium run: the same again)`,
    ...next.map((command, at) => `${at === 0 ? "next" : "    "}     ${command}`),
    ...(accepted
      ? []
      : [`         ${commandLine(["operate", "MODEL", `${output}-gentler`, "--keep-quality", "0.01"])}`]),
  ];
}

function toShare(text: string): number {
  const value = toNumber(text);
  if (value > 0 && value < 1) return value;
  throw new InvalidArgumentError("Expected a share between 0 and 1, as 0.02.");
}

function toFlow(text: string): "magnitude" | "activation" {
  if (text === "magnitude" || text === "activation") return text;
  throw new InvalidArgumentError("Expected magnitude or activation.");
}

/** `8GB` as makers of cards count: 8 × 2³⁰ bytes; `500MB`. */
function toBytes(text: string): number {
  const match = /^(\d+(?:\.\d+)?)\s*(G|M)i?B?$/i.exec(text);
  if (match === null) throw new InvalidArgumentError("Expected a size, as 8GB or 500MB.");
  return Number(match[1]) * (match[2].toUpperCase() === "G" ? 2 ** 30 : 2 ** 20);
}
