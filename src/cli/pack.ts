import type { Command } from "commander";
import { printable } from "../errors.js";
import { packModel } from "../pack/pack-model.js";
import { toWorkers } from "./arguments.js";
import { modelArgument } from "./model-argument.js";
import { createProgress, type ProgressStyle } from "./progress.js";
import { addPushOptions, beginPush, type PushFlags, pushedLine, pushJson } from "./push-options.js";
import { stopSignal } from "./stop-signal.js";

interface Flags extends ProgressStyle, PushFlags {
  resume?: boolean;
  overwrite?: boolean;
  workers?: number;
}

/** `physarium pack <model> <output>` */
export function registerPack(program: Command): void {
  const command = program
    .command("pack")
    .description("write a smaller copy of a model without loss: zeros as a code, exponents entropy-coded")
    .argument("<model>", "a model folder with BF16, F16 or F32 weights; pruned ones shrink most")
    .argument("<output>", "the packed folder; physarium unpack turns it back, byte for byte")
    .option("--resume", "go on where a stopped run stood")
    .option("--overwrite", "replace a packed folder, or start over where a stopped run stands")
    .option("--workers <n>", "worker threads, 0 for none (default: one a core)", toWorkers);
  addPushOptions(command)
    .option("--json", "the result as one JSON object")
    .option("--quiet", "no progress")
    .addHelpText(
      "after",
      `
The packed folder holds plain safetensors files of coded bytes (docs/pack.md): no loader takes it for a model.

Example:
  physarium surgery ./model ./operated
  physarium pack ./operated ./packed          half the size
  physarium unpack ./packed ./again           the same bytes as ./operated`,
    )
    .action(async (given: string, output: string, flags: Flags) => {
      const signal = stopSignal();
      const push = await beginPush(flags, output, flags, signal);
      const model = await modelArgument(given, flags);
      const progress = createProgress("pack", flags);
      const result = await packModel(model, output, {
        resume: flags.resume ?? false,
        overwrite: flags.overwrite ?? false,
        ...(flags.workers === undefined ? {} : { workers: flags.workers }),
        onProgress: ({ bytesDone, bytesTotal }) => progress.update(bytesDone, bytesTotal),
        signal,
      }).finally(() => progress.stop());
      const pushed = await push?.finish("Upload packed model with physarium");
      if (flags.json) {
        process.stdout.write(
          `${JSON.stringify({
            output: result.output,
            state: result.state,
            shards: result.shards,
            kept_files: result.keptFiles,
            left_out: result.leftOut,
            original_bytes: result.originalBytes,
            packed_bytes: result.packedBytes,
            packed_fraction: result.packedFraction,
            entropy_bound_bytes: result.entropyBoundBytes,
            resumed_shards: result.resumedShards,
            seconds: result.seconds,
            ...pushJson(pushed),
          })}\n`,
        );
        return;
      }
      if (flags.quiet || sayFinished(result)) {
        if (pushed !== undefined) process.stdout.write(pushedLine(pushed));
        return;
      }
      const { packedBytes, originalBytes, packedFraction, entropyBoundBytes, seconds } = result;
      const bound = (100 * entropyBoundBytes) / originalBytes;
      const lines = [
        `${printable(result.output)}: ${bytes(packedBytes)} of ${bytes(originalBytes)}, ` +
          `${(100 * packedFraction).toFixed(2)} %, entropy bound ${bound.toFixed(2)} % (${seconds.toFixed(1)} s, ` +
          `${rate(originalBytes, seconds)})`,
        ...result.leftOut.map(({ file, reason }) => `left out: ${printable(file)}, ${reason}`),
      ];
      process.stdout.write(`${lines.join("\n")}\n`);
      if (pushed !== undefined) process.stdout.write(pushedLine(pushed));
    });
}

export function bytes(count: number): string {
  return `${count.toLocaleString("en-US")} bytes`;
}

export function rate(byteLength: number, seconds: number): string {
  return `${(byteLength / 1e9 / seconds).toFixed(2)} GB/s`;
}

/** With `--resume` on a finished output there is nothing to say but that; in the words of surgery. */
export function sayFinished({ output, state }: { readonly output: string; readonly state: string }): boolean {
  if (state !== "already finished") return false;
  process.stdout.write(`${printable(output)}: the operation is finished already; nothing was done\n`);
  return true;
}
