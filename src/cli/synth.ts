import { type Command, InvalidArgumentError } from "commander";
import { jsonLine, printable } from "../errors.js";
import type { FloatDtype } from "../safetensors/dtypes.js";
import { DISTRIBUTIONS, type Distribution } from "../synth/distribution.js";
import { synthesize } from "../synth/synth.js";
import { createProgress } from "./progress.js";
import { stopSignal } from "./stop-signal.js";

interface Flags {
  seed: string;
  distribution: string;
  dtype?: string;
  scale: number;
  overwrite?: boolean;
  json?: boolean;
  quiet?: boolean;
}

/** `physarium synth <config folder> <out>` */
export function registerSynth(program: Command): void {
  program
    .command("synth")
    .description("write a random donor with the exact tensors, names and shards of a real model")
    .argument("<config folder>", "folder with config.json, and tensor_shapes.json and an index where there are")
    .argument("<out>", "the new model folder")
    .option("--seed <text>", "equal seeds give equal bytes", "0")
    .option("--distribution <name>", DISTRIBUTIONS.join(" | "), "gaussian")
    .option("--dtype <name>", "BF16, F16 or F32 (default: the configuration's torch_dtype)")
    .option("--scale <factor>", "layers and vocabulary rows times this, above 0 and up to 1", toNumber, 1)
    .option("--overwrite", "replace a folder that synth wrote")
    .option("--json", "print the result as JSON")
    .option("--quiet", "no progress")
    .addHelpText(
      "after",
      `
Norm weights are 1, biases Gaussian, matrices drawn with the configuration's initializer_range as standard deviation.

Example:
  physarium synth ./Qwen2.5-7B-config ./random-7b --scale 0.13    four of 28 layers, about 2 GB`,
    )
    .action(async (source: string, output: string, flags: Flags) => {
      const progress = createProgress("synth", flags);
      const result = await synthesize(source, output, {
        seed: flags.seed,
        distribution: flags.distribution as Distribution,
        ...(flags.dtype === undefined ? {} : { dtype: flags.dtype.toUpperCase() as FloatDtype }),
        scale: flags.scale,
        overwrite: flags.overwrite ?? false,
        signal: stopSignal(),
        onProgress: ({ bytesDone, bytesTotal, shard }) => progress.update(bytesDone, bytesTotal, shard),
      }).finally(() => progress.stop());
      const { plan, seconds } = result;
      if (flags.json) {
        const { seed, distribution, dtype, scale } = plan;
        process.stdout.write(
          jsonLine({
            output: result.output,
            total_size: result.totalSize,
            tensor_count: result.tensorCount,
            shards: result.shards,
            seed,
            distribution,
            dtype,
            scale,
            seconds,
          }),
        );
        return;
      }
      if (flags.quiet) return;
      const size = `${result.totalSize.toLocaleString("en-US")} bytes`;
      const rate = (result.totalSize / 1e9 / seconds).toFixed(2);
      process.stdout.write(
        `${printable(result.output)}: ${result.tensorCount} tensors in ${result.shards.length} ` +
          `${result.shards.length === 1 ? "file" : "shards"}, ${size}, ${plan.dtype} ${plan.distribution}, seed ` +
          `${printable(plan.seed)} (${seconds.toFixed(1)} s, ${rate} GB/s)\n`,
      );
    });
}

function toNumber(text: string): number {
  const value = Number(text);
  if (text.trim() === "" || Number.isNaN(value)) throw new InvalidArgumentError("expected a number.");
  return value;
}
