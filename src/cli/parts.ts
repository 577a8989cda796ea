import { resolve } from "node:path";
import type { Command } from "commander";
import { openDonor } from "../checkpoint/donor.js";
import { isPhysariumError, jsonLine, PhysariumError, printable } from "../errors.js";
import { estimateWorth } from "../pack/worth.js";
import { finishParts } from "../parts/finish.js";
import { runPart } from "../parts/part-run.js";
import { prepareParts } from "../parts/prepare.js";
import { isWorthRetrying } from "../parts/retry.js";
import { partsStatus } from "../parts/status.js";
import { renderCard, renderDocuments } from "../report/documents.js";
import { shellQuote } from "../report/report-text.js";
import { renderSummary } from "../report/summary.js";
import { openForSurgery } from "../surgery/open-for-surgery.js";
import { checkOptions } from "../surgery/options.js";
import { planSurgery } from "../surgery/plan.js";
import { toCount, toInteger, toWorkers } from "./arguments.js";
import { createEventPrinter } from "./event-printer.js";
import { folderArgument } from "./model-argument.js";
import { describeStatus, statusJson } from "./parts-status.js";
import { registerSubmit } from "./parts-submit.js";
import type { ProgressStyle } from "./progress.js";
import { endOnSignal, stopSignal } from "./stop-signal.js";
import { addSurgeryOptions, type SurgeryFlags, toSurgeryOptions } from "./surgery-options.js";

/** `physarium parts prepare | submit | run | status | finish` */
export function registerParts(program: Command): void {
  const parts = program
    .command("parts")
    .description("one operation over many machines: parts for any scheduler, joined to the bytes of one machine")
    .addHelpText(
      "after",
      `
All machines see donor and output under the same paths, on a disk that they share. Everything of the parts lies in
<output>.parts until finish gives the output its name (docs/scale.md).

Example:
  physarium parts prepare ./model ./operated --max-parts 200
  physarium parts submit ./operated --on slurm --cpus 4 --mem 2G --time 1:00:00 --throttle 32 --yes
  physarium parts status ./operated
  physarium parts finish ./operated               the job that submit sends does it, too

  seq 0 199 | parallel -S node1,node2 physarium parts run /disk/operated --part {}

Exit codes of prepare, run and finish: 0 done, also where it was done before; 75 try again as it is (a disk that did
not answer, preemption, another run at it); 130 Ctrl-C; everything else needs somebody to look.`,
    );
  registerPrepare(parts);
  registerRun(parts);
  registerStatus(parts);
  registerSubmit(parts);
  registerFinish(parts);
}

function registerPrepare(parts: Command): void {
  const command = parts
    .command("prepare")
    .description("decide everything that the parts have in common and cut the donor; writes <output>.parts")
    .argument("<donor>", "model folder with safetensors files; it is only read")
    .argument("<output>", "folder that finish will make")
    .requiredOption("--max-parts <n>", "at most so many parts of like bytes", toCount);
  addSurgeryOptions(command)
    .option("--overwrite", "throw parts away that were prepared otherwise; finish may replace an output of physarium")
    .option("--json", "events as JSON lines on stderr, the result as one JSON object on stdout")
    .option("--quiet", "print errors only")
    .action(
      retryable(async (signal, donor: string, output: string, flags: SurgeryFlags & ProgressStyle & PrepareFlags) => {
        const options = checkOptions(toSurgeryOptions(flags));
        const plan = planSurgery(await openForSurgery(resolve(await folderArgument(donor, flags))), options);
        const show = createEventPrinter(flags);
        const { overwrite = false, maxParts } = flags;
        const prepared = await prepareParts(plan, {
          outputPath: output,
          maxParts,
          overwrite,
          onEvent: show.event,
          signal,
        }).finally(() => show.stop());
        const { state, folder } = prepared;
        const { parts: rows, part_count, search, fingerprint } = prepared.plan;
        const sizes = rows.map(({ byte_length }) => byte_length);
        const cut = new Set(rows.flatMap(({ shards }) => shards.filter(({ whole }) => !whole).map(({ file }) => file)));
        const bytes = sizes.reduce((sum, size) => sum + size, 0);
        const least = sizes.reduce((a, b) => Math.min(a, b), Infinity);
        const most = sizes.reduce((a, b) => Math.max(a, b), 0);
        if (flags.json) {
          const numbers = { part_count, byte_length: bytes, smallest_part: least, largest_part: most };
          const survival = search?.survival ?? null;
          process.stdout.write(
            jsonLine({
              event: "prepared",
              state,
              parts: folder.planPath,
              ...numbers,
              cut_shards: cut.size,
              survival,
              fingerprint,
            }),
          );
          return;
        }
        if (flags.quiet) return;
        const n = (value: number) => value.toLocaleString("en-US");
        const path = printable(shellQuote(folder.path));
        process.stdout.write(
          `${printable(folder.planPath)}: ${state === "prepared" ? "" : "prepared already, nothing was done; "}` +
            `${n(part_count)} parts of ${n(least)} to ${n(most)} bytes, ${n(bytes)} in all; ` +
            `${n(plan.shards.length)} shards, ${n(cut.size)} of them cut\n` +
            (search === null
              ? ""
              : `survival ${search.survival} for ${100 * search.target_sparsity} % zeros, the same for all parts\n`) +
            `next: physarium parts run ${path} --part 0 … ${part_count - 1}, on any machine, in any order; ` +
            "or physarium parts submit\n",
        );
      }),
    );
}

interface PrepareFlags {
  maxParts: number;
  overwrite?: boolean;
}

function registerRun(parts: Command): void {
  parts
    .command("run")
    .description("do one part: what a node does; run again, it goes on where it was stopped")
    .argument("<output>", "what parts prepare was given")
    .requiredOption("--part <i>", "which part, from 0 on", toInteger)
    .option("--workers <n>", "worker threads; 0 works in one thread (default: the processors)", toWorkers)
    .option("--json", "events as JSON lines on stderr, the result as one JSON object on stdout")
    .option("--quiet", "print errors only")
    .action(
      retryable(async (signal, output: string, flags: ProgressStyle & { part: number; workers?: number }) => {
        const { part, workers } = flags;
        const show = createEventPrinter(flags);
        const { state, done } = await runPart(output, part, {
          ...(workers === undefined ? {} : { workers }),
          onEvent: show.event,
          signal,
        }).finally(() => show.stop());
        if (flags.json) {
          const { host, seconds, byte_length, tensors = [], resumed_tensors = 0 } = done ?? {};
          process.stdout.write(
            jsonLine({
              event: "part",
              part,
              state,
              host,
              seconds,
              byte_length,
              tensors: tensors.length,
              resumed_tensors,
            }),
          );
        } else if (!flags.quiet) {
          const how =
            done === undefined
              ? ""
              : ` (${done.tensors.length} tensors, ${done.seconds.toFixed(1)} s on ${printable(done.host)})`;
          process.stdout.write(`part ${part}: ${wordsOf(state)}${how}\n`);
        }
      }),
    );
}

function wordsOf(state: "done" | "already done" | "joined"): string {
  if (state === "done") return "done";
  return state === "joined" ? "the output is joined already; nothing was done" : "done before and unchanged";
}

function registerStatus(parts: Command): void {
  parts
    .command("status")
    .description("how far the parts are: done, running, failed, missing, and why")
    .argument("<output>", "what parts prepare was given")
    .option("--json", "everything as one JSON object")
    .action(async (output: string, flags: { json?: boolean }) => {
      endOnSignal("nothing was changed");
      const status = await partsStatus(output);
      process.stdout.write(flags.json ? statusJson(status) : describeStatus(status));
    });
}

function registerFinish(parts: Command): void {
  parts
    .command("finish")
    .description("look at every byte, join what was cut, write the record, give the output its name")
    .argument("<output>", "what parts prepare was given")
    .option("--workers <n>", "worker threads (default: the processors)", toWorkers)
    .option("--no-card", "write no model card: README.md stays the donor's")
    .option("--json", "events as JSON lines on stderr, the result as one JSON object on stdout")
    .option("--quiet", "print errors only")
    .action(
      retryable(async (signal, output: string, flags: ProgressStyle & { workers?: number; card: boolean }) => {
        const show = createEventPrinter(flags);
        const { state, outputPath, report } = await finishParts(output, {
          ...(flags.workers === undefined ? {} : { workers: flags.workers }),
          onEvent: show.event,
          signal,
          render: renderDocuments,
          ...(flags.card ? { card: renderCard } : {}),
          measure: async (folder) => ({ worth: await estimateWorth(await openDonor(folder)) }),
        }).finally(() => show.stop());
        if (flags.json) process.stdout.write(jsonLine({ event: "finished", state, output: outputPath, report }));
        else if (!flags.quiet) {
          if (state === "already finished")
            process.stdout.write(`${printable(outputPath)}: the parts are joined already; nothing was done\n`);
          process.stdout.write(`${renderSummary(report)}\n`);
        }
      }),
    );
}

/** Errors that another try may get over end with 75, whatever their code; pressed by somebody, Ctrl-C is none. */
function retryable<Args extends unknown[]>(action: (signal: AbortSignal, ...args: Args) => Promise<void>) {
  return async (...args: Args): Promise<void> => {
    const signal = stopSignal();
    try {
      await action(signal, ...args);
    } catch (error) {
      if (signal.reason === "SIGINT" || !isPhysariumError(error) || !isWorthRetrying(error)) throw error;
      throw new PhysariumError(error.code, error.message, { ...error.details, retry: true }, error);
    }
  };
}
