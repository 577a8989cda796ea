import { type Command, Option } from "commander";
import { PhysariumError, printable } from "../errors.js";
import { exportGguf, type GgufExport } from "../export/gguf/export.js";
import { type ExportRecipe, FILE_TYPE } from "../export/gguf/tensor-types.js";
import { exportSparse, type SparseExport } from "../export/sparse/export.js";
import { relativeError, renderGgufExport, totalMatrices } from "../report/export-summary.js";
import type { CardForm } from "../report/model-card.js";
import { toInteger, toWorkers } from "./arguments.js";
import { openStatistics } from "./export-statistics.js";
import { fetchTexts, modelArgument } from "./model-argument.js";
import { tensorProgress } from "./progress.js";
import { addPushOptions, beginPush, type PushFlags, pushedLine, pushJson } from "./push-options.js";
import { stopSignal } from "./stop-signal.js";

interface Flags extends PushFlags {
  format: "gguf" | "compressed-tensors";
  type?: string;
  overwrite?: boolean;
  imatrix?: string;
  calibration?: string;
  samples: number;
  window?: number;
  workers?: number;
  json?: boolean;
  quiet?: boolean;
}

/** `physarium export <model> <output>` */
export function registerExport(program: Command): void {
  const command = program
    .command("export")
    .description("write a model in a format that other engines run")
    .argument("<model>", "model folder with safetensors files; it is only read")
    .argument("<output>", "the new .gguf file, or the new folder of compressed-tensors")
    .addOption(new Option("--format <name>", "format").choices(["gguf", "compressed-tensors"]).default("gguf"))
    .addOption(
      new Option("--type <name>", "type of the matrices in a GGUF file, or a mixture (default: f16)").choices(
        Object.keys(FILE_TYPE).map((name) => name.toLowerCase()),
      ),
    )
    .option("--overwrite", "replace an existing GGUF file")
    .option(
      "--imatrix <file>",
      "quantise with an importance matrix: calibrate --out x.gguf, or llama.cpp's, old form too",
    )
    .option("--calibration <file>", "round with errors passed on: a text, or the Grams that calibrate wrote")
    .option("--samples <n>", "windows of the text, with --calibration", toInteger, 64)
    .option("--window <n>", "tokens of a window, with --calibration (default: 512)", toInteger)
    .option("--workers <n>", "threads (default: all processors); the bytes do not depend on it", toWorkers);
  addPushOptions(command)
    .option("--json", "print the result as one JSON object, every tensor with its zeros and error")
    .option("--quiet", "no progress")
    .addHelpText(
      "after",
      `
Zeros stay exactly zero in f32, f16, bf16, q8_0, q6_k, q5_0 and q4_0, not in q5_k, q5_1, q4_k and iq4_nl. Rows that a
type's blocks do not divide get what llama.cpp gives them (q5_0 for q4_k, q5_1 for q5_k, q8_0 for q6_k), and are named.
q4_k_s, q4_k_m, q5_k_s, q5_k_m are llama.cpp's mixtures; the other names give every matrix the same type.
compressed-tensors is lossless; vLLM dropped loading it in 2026 (docs/export.md).

Examples:
  physarium export ./operated operated-q8.gguf --format gguf --type q8_0
  physarium export ./operated ./operated-sparse --format compressed-tensors`,
    )
    .action(async (given: string, output: string, flags: Flags) => {
      const signal = stopSignal();
      await fetchTexts(flags, flags, "calibration");
      const push = await beginPush(flags, output, flags, signal);
      const model = await modelArgument(given, flags);
      const pushed = (form: CardForm) => push?.finish("Upload export with physarium", { records: model, form });
      const options = { signal, ...tensorProgress("export", flags) };
      if (flags.format === "compressed-tensors") {
        const { type, overwrite, imatrix, calibration } = flags;
        if (type !== undefined || overwrite || imatrix !== undefined || calibration !== undefined) {
          const which = "--type, --overwrite, --imatrix and --calibration belong to --format gguf";
          throw new PhysariumError("USAGE_ARGUMENT", which);
        }
        const result = await exportSparse(model, output, options);
        const sent = await pushed("compressed-tensors");
        const json = () => `${JSON.stringify({ ...sparseJson(result), ...pushJson(sent) })}\n`;
        if (flags.json) process.stdout.write(json());
        else if (!flags.quiet) process.stdout.write(renderSparse(result));
        if (sent !== undefined && !flags.json) process.stdout.write(pushedLine(sent));
        return;
      }
      const type = (flags.type ?? "f16").toUpperCase() as ExportRecipe;
      const opened = await openStatistics(model, { ...flags, signal });
      const result = await exportGguf(model, output, {
        type,
        overwrite: flags.overwrite ?? false,
        ...(flags.workers === undefined ? {} : { workers: flags.workers }),
        ...(opened === undefined ? {} : { statistics: opened.statistics }),
        ...options,
      }).finally(() => opened?.close());
      const sent = await pushed("gguf");
      const json = () => `${JSON.stringify({ ...ggufJson(result), ...pushJson(sent) })}\n`;
      if (flags.json) process.stdout.write(json());
      else if (!flags.quiet) process.stdout.write(`${printable(renderGgufExport(result), true)}\n`);
      if (sent !== undefined && !flags.json) process.stdout.write(pushedLine(sent));
    });
}

function ggufJson(result: GgufExport) {
  const totals = totalMatrices(result);
  return {
    output: result.path,
    format: "gguf",
    architecture: result.architecture,
    type: result.type,
    holds_exact_zeros: result.holdsExactZeros,
    bytes: result.byteLength,
    matrices: {
      weights: totals.weights,
      zeros_before: totals.zerosBefore,
      zeros_after: totals.zerosAfter,
      zeros_lost: totals.zerosLost,
      relative_error: totals.relativeError,
    },
    tensors: result.tensors.map((tensor) => ({
      name: tensor.name,
      gguf_name: tensor.ggufName,
      dtype: tensor.dtype,
      type: tensor.type,
      bytes: tensor.byteLength,
      weights: tensor.weights,
      zeros_before: tensor.zerosBefore,
      zeros_after: tensor.zerosAfter,
      zeros_lost: tensor.zerosLost,
      squared_error: tensor.squaredError,
      relative_error: relativeError(tensor.squaredError, tensor.squaredNorm),
      ...(tensor.fallback === undefined ? {} : { fallback: tensor.fallback }),
    })),
    left_out: result.leftOut,
    warnings: result.warnings,
  };
}

function sparseJson(result: SparseExport) {
  return {
    output: result.path,
    format: "compressed-tensors",
    bytes_before: result.bytesBefore,
    bytes: result.bytesAfter,
    files: result.files,
    tensors: result.tensors.map(({ name, weights, survivors, bytesBefore, bytesAfter, compressed }) => ({
      name,
      weights,
      survivors,
      bytes_before: bytesBefore,
      bytes: compressed ? bytesAfter : bytesBefore,
      compressed,
    })),
  };
}

function renderSparse(result: SparseExport): string {
  const compressed = result.tensors.filter((tensor) => tensor.compressed).length;
  const share = ((100 * result.bytesAfter) / result.bytesBefore).toFixed(1);
  return printable(
    `${result.path}: ${compressed} of ${result.tensors.length} projections compressed, ` +
      `${result.bytesAfter.toLocaleString("en-US")} bytes, ${share} % of the donor's\n`,
    true,
  );
}
