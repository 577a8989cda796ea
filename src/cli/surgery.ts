import { join, resolve } from "node:path";
import type { Command } from "commander";
import { openDonor } from "../checkpoint/donor.js";
import { openRuntime } from "../engine/runtime.js";
import { isPhysariumError, jsonLine, PhysariumError, printable } from "../errors.js";
import { findFlow } from "../flow/flows.js";
import type { PushResult } from "../hub/push/push-session.js";
import { writeSmallFile } from "../output/small-file.js";
import { estimateWorth } from "../pack/worth.js";
import { openTextFile } from "../probe/text/text-file.js";
import { readDocuments } from "../record/open-record.js";
import type { ReportInput } from "../record/report-input.js";
import { addSections, loadPage, renderCard, renderDocuments } from "../report/documents.js";
import { nextCommands } from "../report/next-commands.js";
import { shellQuote } from "../report/report-text.js";
import { renderSummary } from "../report/summary.js";
import { type OperationResult, operate } from "../surgery/operation.js";
import { checkOptions } from "../surgery/options.js";
import { createEventPrinter } from "./event-printer.js";
import { fetchTexts } from "./model-argument.js";
import { toDeviceOptions } from "./probe-options.js";
import { countedProgress, type ProgressStyle } from "./progress.js";
import { addPushOptions, beginPush, type PushFlags, pushedLine, pushJson } from "./push-options.js";
import { recipeOf, refuseExistingRecipe } from "./steps/write-recipe.js";
import { stopSignal } from "./stop-signal.js";
import { planFor } from "./surgery-donor.js";
import { addSurgeryOptions, type SurgeryFlags, toSurgeryOptions } from "./surgery-options.js";

interface Flags extends SurgeryFlags, ProgressStyle, PushFlags {
  resume?: boolean;
  overwrite?: boolean;
  stream?: boolean;
  recipe?: string;
  eval?: string;
  card: boolean;
}

/** `physarium surgery <donor> <output>` */
export function registerSurgery(program: Command): void {
  const command = program
    .command("surgery")
    .description("operate on a donor: starve the weights nobody needs, write a checkpoint any loader opens")
    .argument("<donor>", "model folder with safetensors files, or hf://org/name; it is only read")
    .argument("<output>", "folder to be made; built beside its name and renamed when whole");
  addPushOptions(addSurgeryOptions(command))
    .option("--resume", "go on with a stopped run of the same operation")
    .option("--overwrite", "replace an output of physarium, or throw a stopped run away")
    .option("--stream", "hf:// donors: operate on the bytes as they come, proven by their hash; no donor on the disk")
    .option("--eval <text>", "afterwards measure on this text what it cost: perplexity and divergence, into the report")
    .option("--recipe <file>", "write these options as a recipe (YAML) that physarium run takes")
    .option("--no-card", "write no model card: README.md stays the donor's")
    .option("--json", "events as JSON lines on stderr, the result as one JSON object on stdout")
    .option("--quiet", "print errors only")
    .addHelpText(
      "after",
      `
The flow looks at tiles of block-size × block-size weights; drives are magnitudes in units of the tile's mean, and
drives under the survival starve (docs/flows.md). Survivors keep their bits; the dead become +0. The activation flow
takes its drives from calibration tokens instead and heals the survivors; options that begin with "activation:"
are its own, and those of the matched flow, which goes on where it ends: the survivors of a layer move together, by
gradient, until the layer's output is the donor's.

Examples:
  physarium surgery ./model ./operated
  physarium surgery ./model ./half --target-sparsity 0.5
  physarium surgery ./model ./early-layers --include 'layers\\.[0-7]\\.'
  physarium surgery ./model ./v2 --flow activation --target-sparsity 0.5 --calibration book.txt
  physarium surgery ./model ./v2 --flow activation --pattern 2:4 --calibration stories.txt --protocol documents
  physarium surgery hf://HuggingFaceTB/SmolLM2-135M ./operated --stream
  physarium surgery ./model ./v3 --flow matched --target-sparsity 0.5 --calibration book.txt
  physarium surgery ./model ./operated --resume`,
    )
    .action(async (donorPath: string, outputPath: string, flags: Flags) => {
      const signal = stopSignal();
      await fetchTexts(flags, flags, "eval", "calibration");
      if (flags.eval !== undefined) {
        await checkText(resolve(flags.eval), signal);
        await openRuntime(toDeviceOptions(flags));
      }
      const options = checkOptions(toSurgeryOptions(forSurgery(flags)));
      if (flags.recipe !== undefined) await refuseExistingRecipe(resolve(flags.recipe));
      const show = createEventPrinter(flags);
      const note = (message: string) => show.event({ event: "note", message });
      try {
        const push = await beginPush(flags, outputPath, flags, signal);
        const plan = await planFor(donorPath, options, flags, signal, note);
        const { donor } = plan;
        let partial = "";
        const run = (resume: boolean) =>
          operate(plan, {
            outputPath,
            resume,
            overwrite: flags.overwrite ?? false,
            onEvent: (event) => {
              show.event(event);
              if (event.event === "started") {
                partial = `${event.output}.partial`;
                // While the disk is waited for; what is wrong with it shows where it is used.
                loadPage().catch(() => {});
              }
              // Its bytes are final: they go up while the next one is operated on.
              if (event.event === "shard") push?.shard(event.file, join(partial, event.file));
            },
            signal,
            render: renderDocuments,
            ...(flags.card ? { card: renderCard } : {}),
            measure: async (folder) => ({ worth: await estimateWorth(await openDonor(folder)) }),
          });
        const result = await run(flags.resume ?? false).catch((error: unknown) => {
          // As a fetch does: what came damaged is asked for once more, then it is an error.
          if (!flags.stream || !isPhysariumError(error, "HUB_HASH")) throw error;
          note(`${error.message}; trying once more`);
          return run(true);
        });
        show.stop();
        if (flags.recipe !== undefined) {
          const words = process.argv.slice(process.argv.indexOf("surgery"));
          await writeSmallFile(resolve(flags.recipe), recipeOf([words], program));
        }
        // What was proven and measured since an earlier run finished stands beside its figures.
        let report: ReportInput = result.state === "finished" ? result.report : await readDocuments(result.outputPath);
        let unmeasured: unknown;
        let unpushed: unknown;
        try {
          report = await addQuality({ ...result, report }, donor.path, flags, signal);
        } catch (error) {
          // The output stands all the same: say so first.
          unmeasured = error;
        }
        let pushed: PushResult | undefined;
        try {
          if (unmeasured === undefined) pushed = await push?.finish("Upload operated model with physarium");
        } catch (error) {
          unpushed = error;
        }
        if (flags.json) {
          const { state, outputPath: output } = result;
          process.stdout.write(jsonLine({ event: "finished", state, output, report, ...pushJson(pushed) }));
        } else if (!flags.quiet) {
          if (result.state === "already finished")
            process.stdout.write(
              `${printable(result.outputPath)}: the operation is finished already; nothing was done\n`,
            );
          process.stdout.write(`${renderSummary(report)}${ending(report)}`);
          if (pushed !== undefined) process.stdout.write(pushedLine(pushed));
        }
        if (unpushed !== undefined) throw unpushed;
        if (unmeasured !== undefined) throw afterwards(unmeasured, result.outputPath, donor.path);
      } finally {
        show.stop();
      }
    });
}

function consumesActivations(flow: string): boolean {
  return findFlow(flow)?.consumesActivations ?? false;
}

/** Where the report is, and what to type next. */
function ending(report: ReportInput): string {
  const [first, second] = nextCommands(report);
  const path = join(report.output.path, "physarium", "report.html");
  const v1 =
    report.flow === "magnitude"
      ? ["note      v1 looks at magnitudes alone; v2 (physarium operate) loses less at the same zeros"]
      : [];
  return printable(
    [`report    ${path}`, `next      ${first.command}`, `          ${second.command}`, ...v1, ""].join("\n"),
    true,
  );
}

/** Device and threads of other flows are those of `--eval` alone. */
function forSurgery({ device, threads, ...flags }: Flags): SurgeryFlags {
  const isMeasuring = flags.eval !== undefined && !consumesActivations(flags.flow);
  return { ...flags, ...(isMeasuring ? {} : toDeviceOptions({ device, threads })) };
}

/** A text that is missing, empty or no UTF-8 is refused before surgery, not after it. Throws `IO_*`, `USAGE_TEXT_*`. */
async function checkText(path: string, signal: AbortSignal): Promise<void> {
  if (!(await openTextFile(path, { signal })).isBlank) return;
  throw new PhysariumError("USAGE_TEXT_EMPTY", `${path}: the text is empty; there is nothing to predict`, { path });
}

/** An error of the measurement behind a finished operation: the output stands. */
function afterwards(error: unknown, output: string, donor: string): unknown {
  if (!isPhysariumError(error)) return error;
  const again = `physarium eval ${shellQuote(output)} --text FILE --against ${shellQuote(donor)}`;
  return new PhysariumError(
    error.code,
    `${output}: the operation is finished, but it was not measured: ${error.message}; \`${again}\` measures it`,
    error.details,
    error,
  );
}

/** With `--eval`: what surgery cost, measured on the finished output and added to its report. */
async function addQuality(
  { outputPath, report }: OperationResult,
  donorPath: string,
  flags: Flags,
  signal: AbortSignal,
): Promise<ReportInput> {
  if (flags.eval === undefined) return report;
  const { evaluate } = await import("../probe/evaluate.js");
  const onProgress = countedProgress("eval", flags, "tokens");
  const { quality } = await evaluate(outputPath, resolve(flags.eval), {
    against: donorPath,
    ...toDeviceOptions(flags),
    signal,
    ...(onProgress === undefined ? {} : { onProgress }),
  });
  return addSections(outputPath, { quality });
}
