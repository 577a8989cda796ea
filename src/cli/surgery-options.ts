import type { Command } from "commander";
import { FLOWS } from "../flow/flows.js";
import { DEFAULT_PARAMS } from "../flow/params.js";
import type { SurgeryOptions } from "../surgery/options.js";
import { toInteger, toNumber } from "./arguments.js";

/** The options that surgery and plan share. */
export interface SurgeryFlags {
  flow: string;
  blockSize?: number;
  nIter?: number;
  beta?: number;
  survival?: number;
  targetSparsity?: number;
  include?: string;
  exclude?: string;
  workers?: number;
  allowNonFinite?: boolean;
  pattern?: string;
  calibration?: string;
  samples?: number;
  window?: number;
  seed?: number;
  heal: boolean;
  allocation?: string;
  gram?: string;
  memory?: number;
}

export function addSurgeryOptions(command: Command): Command {
  const { blockSize, nIter, beta, survival } = DEFAULT_PARAMS;
  return command
    .option("--flow <name>", FLOWS.map(({ name, summary }) => `${name}: ${summary}`).join("; "), "magnitude")
    .option("--block-size <n>", `side of a tile (default: ${blockSize})`, toInteger)
    .option("--n-iter <n>", `steps of the dynamic (default: ${nIter})`, toInteger)
    .option("--beta <x>", `exponent of the adaptation, above 1 (default: ${beta.toFixed(1)})`, toNumber)
    .option("--survival <x>", `drive below which a tube starves (default: ${survival})`, toNumber)
    .option(
      "--target-sparsity <fraction>",
      "search the survival that leaves this fraction of zeros over all targets; reads the targets once more",
      toNumber,
    )
    .option("--include <regexp>", "operate on the matrices whose names match, and on no others")
    .option("--exclude <regexp>", "leave out the tensors whose names match")
    .option(
      "--workers <n>",
      "worker threads; 0 works in one thread (default: the processors, within the memory limit)",
      toInteger,
    )
    .option("--allow-non-finite", "leave NaN and infinite weights untouched instead of refusing them")
    .option("--pattern <n:m>", "activation: keep N of every M inputs, as 2:4")
    .option("--calibration <file>", "activation: UTF-8 text to calibrate on (default: the donor writes its own)")
    .option("--samples <n>", "activation: calibration samples (default: 128)", toInteger)
    .option("--window <n>", "activation: tokens of a sample (default: what the model can see, at most 2048)", toInteger)
    .option("--seed <n>", "activation: 0 takes samples in the order of the text, another number draws them", toInteger)
    .option("--allocation <name>", "activation: share a target sparsity between tensors: uniform, owl, emergent")
    .option("--gram <mode>", "activation: full, tile (256 columns at a time) or auto, as --memory allows")
    .option("--memory <GB>", "activation: budget of the operation (default: half of the machine)", toNumber)
    .option("--no-heal", "activation: survivors keep the donor's bits");
}

export function toSurgeryOptions(flags: SurgeryFlags): SurgeryOptions {
  const { flow, blockSize, nIter, beta, survival, targetSparsity, include, exclude, workers, allowNonFinite } = flags;
  const { pattern, calibration, samples, window, seed, heal, allocation, gram, memory } = flags;
  return {
    ...{ flow, blockSize, nIter, beta, survival, targetSparsity, include, exclude, workers, allowNonFinite },
    ...{ pattern, calibration, samples, window, seed, heal, allocation, gram },
    ...(memory === undefined ? {} : { memoryBytes: memory * 1e9 }),
  };
}
