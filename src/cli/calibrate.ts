import { basename, resolve } from "node:path";
import type { Command } from "commander";
import { chooseSequences, writeGrams } from "../calibration/grams/collect.js";
import { modelFingerprint } from "../calibration/grams/gram-file.js";
import { printable } from "../errors.js";
import { inspectModel } from "../probe/forward/inspect-model.js";
import { withLoadWarnings } from "../probe/load-warnings.js";
import { prepareText } from "../probe/text/protocols.js";
import { openTextFile } from "../probe/text/text-file.js";
import { TextTokenizer } from "../probe/text/tokenizer.js";
import { PHYSARIUM_VERSION } from "../version.js";
import { toInteger } from "./arguments.js";
import { collectImatrix } from "./export-statistics.js";
import { fetchTexts, modelArgument } from "./model-argument.js";
import {
  addEngineOptions,
  addProtocolOptions,
  type EngineFlags,
  type ProtocolFlags,
  toEngineOptions,
  toProtocolOptions,
} from "./probe-options.js";
import { countedProgress } from "./progress.js";
import { sayWarnings } from "./say-warnings.js";
import { stopSignal } from "./stop-signal.js";

interface CalibrateFlags extends EngineFlags, ProtocolFlags {
  text: string;
  out: string;
  normsOnly?: boolean;
  samples: number;
  seed: number;
  json?: boolean;
  quiet?: boolean;
}

/** `physarium calibrate <model> --text FILE --out FILE` */
export function registerCalibrate(program: Command): void {
  const command = program
    .command("calibrate")
    .description("collect the Gram matrix E[x xᵀ] of every projection's input into a safetensors file")
    .argument("<model>", "model folder with safetensors files")
    .requiredOption("--text <file>", "UTF-8 text to run")
    .requiredOption(
      "--out <file>",
      "the file to write; one that ends with .gguf becomes an importance matrix (llama.cpp's)",
    )
    .option("--norms-only", "only E[x²] of each channel: much smaller and faster")
    .option("--samples <n>", "windows or documents, chosen by --seed", toInteger, 128)
    .option("--seed <n>", "same seed, same choice", toInteger, 0);
  addEngineOptions(addProtocolOptions(command))
    .option("--json", "what was collected as one JSON object")
    .addHelpText(
      "after",
      "\nExample:\n  physarium calibrate ./model --text book.txt --out grams.safetensors --samples 64",
    )
    .action(async (modelPath: string, flags: CalibrateFlags) => {
      const signal = stopSignal();
      await fetchTexts(flags, flags, "text");
      const { text, out, normsOnly, samples, seed, json, device, threads, memory, ...protocol } = flags;
      const { donor, architecture } = await inspectModel(resolve(await modelArgument(modelPath, flags)));
      const { warnings } = await withLoadWarnings(donor);
      sayWarnings(warnings, flags.quiet);
      const file = await openTextFile(resolve(text), { signal });
      const options = toProtocolOptions(protocol);
      const prepared = await TextTokenizer.with(donor.path, { signal }, (tokenizer) =>
        prepareText(file.read(), tokenizer, architecture.maxPositions, options),
      );
      const sequences = chooseSequences(prepared.sequences, samples, seed);
      const isImatrix = out.endsWith(".gguf");
      const kind = normsOnly || isImatrix ? "norms" : "gram";
      const { name, window, bos, bos_each, newlines } = prepared.record;
      const onProgress = countedProgress("calibrate", flags, "layers");
      const started = performance.now();
      const collecting = {
        signal,
        inputs: [resolve(text)],
        ...toEngineOptions({ device, threads, memory }),
        ...(onProgress === undefined ? {} : { onProgress }),
      };
      if (isImatrix) await collectImatrix(donor.path, sequences, resolve(out), basename(text), collecting);
      else {
        const provenance = {
          modelFingerprint: await modelFingerprint(donor),
          modelName: donor.source.name,
          textName: basename(text),
          textSha256: file.sha256,
          protocol: JSON.stringify({ name, window, bos, bos_each, newlines }),
          seed,
          physariumVersion: PHYSARIUM_VERSION,
        };
        await writeGrams(donor.path, sequences, resolve(out), provenance, { kind, head: true, ...collecting });
      }
      const found = {
        out: resolve(out),
        kind,
        layers: architecture.layerCount,
        sequences: sequences.length,
        tokens: sequences.reduce((sum, ids) => sum + ids.length, 0),
        seconds: (performance.now() - started) / 1000,
        peak_rss_bytes: process.resourceUsage().maxRSS * 1024,
        warnings,
      };
      const words =
        `${found.out}: ${kind} of ${found.layers} layers from ${found.tokens} tokens in ${found.sequences} ` +
        `sequences, ${found.seconds.toFixed(1)} s, peak memory ${(found.peak_rss_bytes / 2 ** 20).toFixed(0)} MiB`;
      if (json || !flags.quiet) process.stdout.write(`${json ? JSON.stringify(found) : printable(words)}\n`);
    });
}
