import { availableParallelism } from "node:os";
import { PhysariumError } from "../errors.js";
import { FLOWS, findFlow } from "../flow/flows.js";
import { checkParams, DEFAULT_PARAMS, type FlowParams } from "../flow/params.js";
import type { DataFreeFlow } from "../flow/reference.js";

/** What a user may ask of surgery; every member has a default. */
export interface SurgeryOptions {
  readonly flow?: string;
  readonly blockSize?: number;
  readonly nIter?: number;
  readonly beta?: number;
  readonly survival?: number;
  /** Aim at this fraction of zeros over all targets (0…1, exclusive); the survival is searched. */
  readonly targetSparsity?: number;
  /** Regular expressions over tensor names; `include` replaces the choice, `exclude` takes away from it. */
  readonly include?: string;
  readonly exclude?: string;
  readonly allowNonFinite?: boolean;
  /** Worker threads; 0 works in this thread. Default: the processors, as memory allows. */
  readonly workers?: number;
}

/** The options checked and completed. */
export interface CheckedOptions {
  readonly flow: DataFreeFlow;
  readonly flowVersion: string;
  readonly params: FlowParams;
  readonly targetSparsity: number | undefined;
  readonly include: string | undefined;
  readonly exclude: string | undefined;
  readonly allowNonFinite: boolean;
  readonly workers: number | undefined;
}

/** Throws `USAGE_*` for anything that cannot be. */
export function checkOptions(options: SurgeryOptions): CheckedOptions {
  const flow = findFlow(options.flow ?? "magnitude");
  if (flow === undefined || flow.name === "activation") {
    throw new PhysariumError(
      "USAGE_FLOW",
      `--flow is "${options.flow}", expected one of ${FLOWS.map(({ name }) => name).join(", ")}`,
    );
  }
  const params = checkParams({
    blockSize: options.blockSize ?? DEFAULT_PARAMS.blockSize,
    nIter: options.nIter ?? DEFAULT_PARAMS.nIter,
    beta: options.beta ?? DEFAULT_PARAMS.beta,
    survival: options.survival ?? DEFAULT_PARAMS.survival,
  });
  const { targetSparsity, workers } = options;
  if (targetSparsity !== undefined) {
    if (!(targetSparsity > 0 && targetSparsity < 1)) {
      throw new PhysariumError(
        "USAGE_PARAM",
        `--target-sparsity is ${targetSparsity}, expected a fraction between 0 and 1, as in 0.5`,
      );
    }
    if (options.survival !== undefined) {
      throw new PhysariumError(
        "USAGE_PARAM",
        "--target-sparsity searches the survival, so --survival cannot be given with it; leave one out",
      );
    }
  }
  if (workers !== undefined && (!Number.isInteger(workers) || workers < 0 || workers > 256)) {
    throw new PhysariumError("USAGE_PARAM", `--workers is ${workers}, expected a whole number from 0 to 256`);
  }
  compilePattern("include", options.include);
  compilePattern("exclude", options.exclude);
  return {
    flow: flow.name,
    flowVersion: flow.version,
    params,
    targetSparsity,
    include: options.include,
    exclude: options.exclude,
    allowNonFinite: options.allowNonFinite ?? false,
    workers,
  };
}

export function compilePattern(flag: string, source: string | undefined): RegExp | undefined {
  if (source === undefined) return undefined;
  try {
    return new RegExp(source, "u");
  } catch (error) {
    throw new PhysariumError("USAGE_PATTERN", `--${flag} is no regular expression: ${(error as Error).message}`, {
      pattern: source,
    });
  }
}

/** Threads worth having: all processors while their kernels stay within `memoryBudget`. */
export function defaultWorkers(byteLengthPerWorker: number, memoryBudget: number): number {
  return Math.max(1, Math.min(availableParallelism(), Math.floor(memoryBudget / byteLengthPerWorker)));
}
