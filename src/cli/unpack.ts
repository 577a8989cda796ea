import type { Command } from "commander";
import { printable } from "../errors.js";
import { unpackModel } from "../pack/unpack-model.js";
import { toWorkers } from "./arguments.js";
import { bytes, rate, sayFinished } from "./pack.js";
import { createProgress, type ProgressStyle } from "./progress.js";
import { stopSignal } from "./stop-signal.js";

interface Flags extends ProgressStyle {
  resume?: boolean;
  overwrite?: boolean;
  workers?: number;
}

/** `physarium unpack <packed> <output>` */
export function registerUnpack(program: Command): void {
  program
    .command("unpack")
    .description("turn a packed folder back into the model folder it was made from, byte for byte")
    .argument("<packed>", "a folder that physarium pack made")
    .argument("<output>", "the model folder")
    .option("--resume", "go on where a stopped run stood")
    .option("--overwrite", "replace a folder that holds nothing but this model's files, or start over after a stop")
    .option("--workers <n>", "worker threads, 0 for none (default: one a core)", toWorkers)
    .option("--json", "the result as one JSON object")
    .option("--quiet", "no progress")
    .addHelpText(
      "after",
      `
Every band of weights is checked against its checksum before it is written; a damaged one stops the run.

Example:
  physarium unpack ./packed ./model`,
    )
    .action(async (packed: string, output: string, flags: Flags) => {
      const progress = createProgress("unpack", flags);
      const result = await unpackModel(packed, output, {
        resume: flags.resume ?? false,
        overwrite: flags.overwrite ?? false,
        ...(flags.workers === undefined ? {} : { workers: flags.workers }),
        onProgress: ({ bytesDone, bytesTotal }) => progress.update(bytesDone, bytesTotal),
        signal: stopSignal(),
      }).finally(() => progress.stop());
      if (flags.json) {
        process.stdout.write(
          `${JSON.stringify({
            output: result.output,
            state: result.state,
            shards: result.shards,
            side_files: result.sideFiles,
            packed_bytes: result.packedBytes,
            original_bytes: result.originalBytes,
            resumed_shards: result.resumedShards,
            seconds: result.seconds,
          })}\n`,
        );
        return;
      }
      if (flags.quiet || sayFinished(result)) return;
      const { originalBytes, packedBytes, seconds } = result;
      process.stdout.write(
        `${printable(result.output)}: ${bytes(originalBytes)} from ${bytes(packedBytes)}, every band checked ` +
          `(${seconds.toFixed(1)} s, ${rate(originalBytes, seconds)})\n`,
      );
    });
}
