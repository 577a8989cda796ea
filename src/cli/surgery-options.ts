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
    .option("--allow-non-finite", "leave NaN and infinite weights untouched instead of refusing them");
}

export function toSurgeryOptions(flags: SurgeryFlags): SurgeryOptions {
  const { flow, blockSize, nIter, beta, survival, targetSparsity, include, exclude, workers, allowNonFinite } = flags;
  return { flow, blockSize, nIter, beta, survival, targetSparsity, include, exclude, workers, allowNonFinite };
}
