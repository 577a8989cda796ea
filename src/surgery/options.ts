import { availableParallelism } from "node:os";
import { resolve } from "node:path";
import { isGramFile } from "../calibration/grams/stored-grams.js";
import type { LayerSettings } from "../calibration/layer-surgery.js";
import { PhysariumError } from "../errors.js";
import { FLOWS, findFlow } from "../flow/flows.js";
import { checkParams, DEFAULT_PARAMS, type FlowParams } from "../flow/params.js";
import type { DataFreeFlow } from "../flow/reference.js";
import { DISTIL_DEFAULTS, type DistilOptions } from "../matching/distil.js";
import { MATCH_DEFAULTS, type MatchOptions } from "../matching/match-layer.js";
import type { PruneTarget } from "../methods/method.js";
import { parsePattern } from "../methods/stages/select.js";
import type { ProtocolOptions } from "../probe/text/protocols.js";

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
  /** v2: keep N of every M inputs, as `2:4`. Without it or a target sparsity the dead are what the flow starves. */
  readonly pattern?: string;
  /**
   * v2: UTF-8 text whose activations drive the flow, or Grams of it (`.safetensors`); without it the donor writes its
   * own text.
   */
  readonly calibration?: string;
  /** v2: how the calibration text becomes samples; default one stream, windows side by side. */
  readonly protocol?: ProtocolOptions;
  /** v2: calibration samples (128), tokens of each, and which are drawn (0: in order). */
  readonly samples?: number;
  readonly window?: number;
  readonly seed?: number;
  /** v2: false keeps the survivors' bits. */
  readonly heal?: boolean;
  /** v2: how a target sparsity is shared between tensors: uniform, owl or emergent. */
  readonly allocation?: string;
  /** v2: Grams whole (full), in tiles of `blockSize` columns (tile), or as `memoryBytes` allows (auto). */
  readonly gram?: string;
  readonly memoryBytes?: number;
  /** v2: where its products are computed (`cpu`), and on how many threads (default: `workers`). */
  readonly device?: string;
  readonly threads?: number;
  /** v3: rounds through the calibration in which a layer is matched (default 4). */
  readonly matchRounds?: number;
  /** v3: steps in which the whole model is distilled behind the layers (default 0). */
  readonly distil?: number;
  /** Worker threads; 0 works in this thread. Default: the processors, as memory allows. */
  readonly workers?: number;
}

/** The options checked and completed. */
export interface CheckedOptions {
  readonly flow: DataFreeFlow | "activation" | "matched";
  readonly flowVersion: string;
  /** Present for the flow that consumes activations. */
  readonly activation: LayerSettings | undefined;
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
  if (flow === undefined) {
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
        "--target-sparsity says how many weights die, so --survival has no say; leave one out",
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
    activation: flow.consumesActivations
      ? activationSettings(options, params, flow.name === "matched")
      : refuseActivationOptions(options),
    params,
    targetSparsity,
    include: options.include,
    exclude: options.exclude,
    allowNonFinite: options.allowNonFinite ?? false,
    workers,
  };
}

function activationSettings(options: SurgeryOptions, params: FlowParams, isMatched: boolean): LayerSettings {
  const { pattern, targetSparsity, calibration, protocol, samples = 128, window, seed = 0, heal = true } = options;
  const { memoryBytes, workers, device, threads = workers === undefined ? undefined : Math.max(1, workers) } = options;
  if (pattern !== undefined && targetSparsity !== undefined) {
    throw new PhysariumError("USAGE_PARAM", "--pattern and --target-sparsity exclude each other; leave one out");
  }
  if (pattern !== undefined && options.survival !== undefined) {
    throw new PhysariumError(
      "USAGE_PARAM",
      "--pattern says how many weights live, --survival has no say; leave one out",
    );
  }
  if (options.allocation !== undefined && targetSparsity === undefined) {
    throw new PhysariumError("USAGE_PARAM", "--allocation shares out a --target-sparsity; give one, or leave it out");
  }
  if (protocol !== undefined && calibration === undefined) {
    throw new PhysariumError(
      "USAGE_PARAM",
      "--protocol, --bos, --separator, --rows and --min-tokens say how a --calibration text is read; give one, or " +
        "leave them out",
    );
  }
  if (isGramFile(calibration)) refuseWithGrams(options, isMatched);
  const match = isMatched ? matchSettings(options, seed) : refuseMatchOptions(options);
  const distil = options.distil === undefined ? undefined : distilSettings(options.distil, seed);
  if (memoryBytes !== undefined && !(memoryBytes > 0)) {
    throw new PhysariumError("USAGE_PARAM", `--memory is ${memoryBytes / 2 ** 30}, expected more than 0 GiB`);
  }
  if (options.allowNonFinite) {
    throw new PhysariumError(
      "USAGE_PARAM",
      `--allow-non-finite and --flow ${options.flow} exclude each other: the forward pass carries a NaN into ` +
        "everything; leave one out",
    );
  }
  if (!Number.isInteger(samples) || samples < 1) {
    throw new PhysariumError("USAGE_PARAM", `--samples is ${samples}, expected a whole number of at least 1`);
  }
  const target: PruneTarget =
    pattern !== undefined
      ? { kind: "pattern", pattern: parsePattern(pattern) }
      : targetSparsity !== undefined
        ? { kind: "sparsity", sparsity: targetSparsity }
        : { kind: "emergent", survival: params.survival };
  return {
    target,
    ...(calibration === undefined ? {} : { calibration: resolve(calibration) }),
    samples,
    ...(window === undefined ? {} : { window }),
    seed,
    allocation: oneOf("allocation", options.allocation ?? "uniform", ["uniform", "owl", "emergent"]),
    gram: oneOf("gram", options.gram ?? "auto", ["auto", "full", "tile"]),
    ...(memoryBytes === undefined ? {} : { memoryBytes }),
    ...(protocol === undefined ? {} : { protocol }),
    ...(threads === undefined ? {} : { threads }),
    ...(device === undefined ? {} : { device }),
    ...(match === undefined ? {} : { match }),
    ...(distil === undefined ? {} : { distil }),
    options: { heal, beta: params.beta, iterations: params.nIter, tileWidth: params.blockSize },
  };
}

/** How layers are matched: what of it users choose. */
function matchSettings({ heal, matchRounds = MATCH_DEFAULTS.rounds }: SurgeryOptions, seed: number): MatchOptions {
  if (heal === false) {
    throw new PhysariumError(
      "USAGE_PARAM",
      "--no-heal keeps survivors' bits, and --flow matched moves survivors; leave one out",
    );
  }
  if (!(matchRounds > 0 && matchRounds <= 1000)) {
    throw new PhysariumError("USAGE_PARAM", `--match-rounds is ${matchRounds}, expected more than 0, at most 1000`);
  }
  return { ...MATCH_DEFAULTS, rounds: matchRounds, seed };
}

function distilSettings(steps: number, seed: number): DistilOptions {
  if (!Number.isSafeInteger(steps) || steps < 1 || steps > 1_000_000) {
    throw new PhysariumError("USAGE_PARAM", `--distil is ${steps}, expected a whole number of steps from 1 to 1000000`);
  }
  return { ...DISTIL_DEFAULTS, steps, seed };
}

/** Both move weights by gradient: that is v3's. */
function refuseMatchOptions({ matchRounds, distil }: SurgeryOptions): undefined {
  const said = matchRounds !== undefined ? "--match-rounds" : distil !== undefined ? "--distil" : undefined;
  if (said === undefined) return undefined;
  throw new PhysariumError("USAGE_PARAM", `${said} belongs to --flow matched; add that, or leave it out`);
}

/** A file of Grams says how it was collected, and nothing is run any more. */
function refuseWithGrams(options: SurgeryOptions, isMatched: boolean): void {
  if (isMatched) {
    throw new PhysariumError(
      "USAGE_PARAM",
      "--flow matched runs the calibration text through every layer, and --calibration is a file of Grams, which " +
        "holds none; give a text, or take --flow activation",
    );
  }
  const said = (["samples", "window", "protocol", "seed"] as const).filter((name) => options[name] !== undefined);
  if (said.length > 0) {
    throw new PhysariumError(
      "USAGE_PARAM",
      `--${said.join(", --")} ${said.length === 1 ? "says" : "say"} how a text is run, and --calibration is a file ` +
        `of Grams, collected before; leave ${said.length === 1 ? "it" : "them"} out`,
    );
  }
  if ((options.allocation ?? "uniform") !== "uniform") {
    throw new PhysariumError(
      "USAGE_PARAM",
      `--allocation ${options.allocation} runs the calibration text once before, and a file of Grams holds none; ` +
        "give a text, or leave it out",
    );
  }
}

function oneOf<T extends string>(flag: string, value: string, allowed: readonly T[]): T {
  if ((allowed as readonly string[]).includes(value)) return value as T;
  throw new PhysariumError("USAGE_PARAM", `--${flag} is "${value}", expected ${allowed.join(", ")}`);
}

/** Options of v2 mean nothing to a flow that looks at weights alone; taking them in silence would claim otherwise. */
function refuseActivationOptions(options: SurgeryOptions): undefined {
  if (options.heal === false) {
    throw new PhysariumError(
      "USAGE_PARAM",
      "--no-heal belongs to --flow activation: this flow's survivors keep their bits",
    );
  }
  refuseMatchOptions(options);
  const own = [
    ...(["pattern", "calibration", "protocol", "samples", "window", "seed"] as const),
    ...(["allocation", "gram", "device", "threads"] as const),
  ];
  if (options.memoryBytes !== undefined) {
    throw new PhysariumError("USAGE_PARAM", "--memory belongs to --flow activation; other flows stay under 512 MiB");
  }
  for (const name of own) {
    if (options[name] !== undefined) {
      throw new PhysariumError("USAGE_PARAM", `--${name} belongs to --flow activation; add that, or leave it out`);
    }
  }
  return undefined;
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
