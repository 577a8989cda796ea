import { stat } from "node:fs/promises";
import { type Command, Option } from "commander";
import { PhysariumError, printable } from "../errors.js";
import { type GgufImport, importGguf } from "../export/gguf/import.js";
import { importSparse } from "../export/sparse/import.js";
import type { FloatDtype } from "../safetensors/dtypes.js";
import { tensorProgress } from "./progress.js";
import { stopSignal } from "./stop-signal.js";

interface Flags {
  dtype?: string;
  json?: boolean;
  quiet?: boolean;
}

/** `physarium import <model> <folder>` */
export function registerImport(program: Command): void {
  program
    .command("import")
    .description("make a model folder of a GGUF file or of a compressed-tensors folder")
    .argument(
      "<model>",
      ".gguf file (of a split model any part), or folder in compressed-tensors' sparse-bitmask; it is only read",
    )
    .argument("<folder>", "the new model folder")
    .addOption(
      new Option("--dtype <name>", "dtype of the weights from a GGUF file (default: bf16)").choices([
        "bf16",
        "f16",
        "f32",
      ]),
    )
    .option("--json", "print the result as one JSON object")
    .option("--quiet", "no progress")
    .addHelpText(
      "after",
      `
Reads GGUF 2 and 3 with F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, IQ4_NL, Q4_K, Q5_K and Q6_K tensors of
the families that export knows (docs/models.md). config.json and the tokenizer are rebuilt from the metadata.

Example:
  physarium import model-q8_0.gguf ./model`,
    )
    .action(async (model: string, folder: string, flags: Flags) => {
      const options = { signal: stopSignal(), ...tensorProgress("import", flags) };
      if (await isFolder(model)) {
        if (flags.dtype !== undefined) {
          throw new PhysariumError("USAGE_ARGUMENT", "--dtype is for GGUF files; a folder keeps its dtypes");
        }
        const result = await importSparse(model, folder, options);
        if (flags.quiet && !flags.json) return;
        process.stdout.write(
          flags.json
            ? `${JSON.stringify({ output: result.path, files: result.files, decompressed: result.decompressed })}\n`
            : printable(`${result.path}: ${result.decompressed.length} projections decompressed\n`, true),
        );
        return;
      }
      const dtype = (flags.dtype ?? "bf16").toUpperCase() as FloatDtype;
      const result = await importGguf(model, folder, { dtype, ...options });
      if (flags.json) process.stdout.write(`${JSON.stringify(toJson(result))}\n`);
      else if (!flags.quiet) process.stdout.write(printable(render(result), true));
    });
}

async function isFolder(path: string): Promise<boolean> {
  try {
    return (await stat(path)).isDirectory();
  } catch {
    // The import itself says what is wrong with the path.
    return false;
  }
}

function toJson(result: GgufImport) {
  return {
    output: result.path,
    model_type: result.modelType,
    dtype: result.dtype,
    files: result.files,
    tensors: result.tensors.map(({ name, ggufName, type, weights, zeros, rounded }) => ({
      name,
      gguf_name: ggufName,
      type,
      weights,
      zeros,
      rounded,
    })),
    warnings: result.warnings,
  };
}

function render(result: GgufImport): string {
  const weights = result.tensors.reduce((sum, tensor) => sum + tensor.weights, 0);
  const rounded = result.tensors.reduce((sum, tensor) => sum + tensor.rounded, 0);
  const lines = [
    `${result.path}: ${result.modelType}, ${result.tensors.length} tensors, ${weights.toLocaleString("en-US")} ` +
      `weights as ${result.dtype}`,
    rounded === 0
      ? "every weight is exact"
      : `${rounded.toLocaleString("en-US")} weights were rounded to ${result.dtype}; --dtype f32 keeps them all`,
    ...result.warnings.map((warning) => `warning: ${warning}`),
  ];
  return `${lines.join("\n")}\n`;
}
