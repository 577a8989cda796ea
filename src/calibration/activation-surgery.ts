import { availableParallelism, totalmem } from "node:os";
import type { Donor } from "../checkpoint/donor.js";
import { PhysariumError } from "../errors.js";
import { LayerRunner } from "../probe/layer-runner.js";
import { ACTIVATION_DEFAULTS, type ActivationOptions, activationFlow } from "./activation.js";
import { type Allocation, allocate } from "./allocation.js";
import type { PruneTarget } from "./method.js";
import { openOnnxEngine } from "./onnx-engine.js";
import { type LayerResult, operateLayers } from "./pipeline.js";

/** How the Gram of a place is used: whole, in tiles of 256 columns, or as memory allows. */
export type GramMode = "full" | "tile" | "auto";

/** Tensors that an interrupted run finished, and their stored bytes. */
export interface StoredTensors {
  readonly isDone?: (tensor: string) => boolean;
  readonly stored?: (tensor: string) => Promise<Uint8Array>;
}

export interface ActivationSurgeryOptions extends StoredTensors {
  /** Calibration token ids; see calibration-source.ts. */
  readonly sequences: readonly (readonly number[])[];
  readonly target: PruneTarget;
  /** Shares a sparsity between tensors; default uniform, which measured best. */
  readonly allocation?: Allocation;
  readonly gram?: GramMode;
  /** Budget of the whole operation in bytes; default half of the machine's memory. */
  readonly memoryBytes?: number;
  readonly threads?: number;
  /** Names of the tensors to operate on; default every projection of the decoder. */
  readonly targets?: ReadonlySet<string>;
  /** The method's constants; `heal: false` keeps survivors' bits. */
  readonly settings?: Partial<ActivationOptions>;
}

/**
 * v2 on an opened donor: yields layer by layer the new bytes of every target with their records, in the order of the forward pass. Nothing is written.
 *
 * The same donor, sequences, options, engine and thread count give the same bytes, resumed or not.
 * Throws `DONOR_*` for models without a forward pass here, `DONOR_NON_FINITE`, `USAGE_ENGINE_MISSING`, `USAGE_MEMORY` where the calibration does not fit, `USAGE_TARGET` for
 * targets that the forward pass does not know.
 */
export async function* operateWithActivations(
  donor: Donor,
  options: ActivationSurgeryOptions,
): AsyncGenerator<LayerResult> {
  const memoryBytes = options.memoryBytes ?? totalmem() / 2;
  const threads = options.threads ?? availableParallelism();
  const runner = await LayerRunner.open(donor, { threads, memoryBytes: memoryBytes / 2 });
  const engine = await openOnnxEngine(threads);
  try {
    checkTargets(runner, options.targets);
    checkMemory(runner, options.sequences, memoryBytes);
    const isTarget = (tensor: string): boolean => options.targets?.has(tensor) ?? true;
    const { target, allocation = "uniform" } = options;
    let targetOf: (tensor: string) => PruneTarget = () => target;
    if (target.kind === "sparsity" && allocation !== "uniform") {
      const shares = await allocate(allocation, runner, options.sequences, target.sparsity, isTarget);
      targetOf = (tensor) => ({ kind: "sparsity", sparsity: shares.get(tensor) ?? target.sparsity });
    }
    const blockBytes = Math.min(ACTIVATION_DEFAULTS.blockBytes, memoryBytes / 8);
    yield* operateLayers(runner, options.sequences, {
      method: activationFlow({ blockBytes, ...options.settings }),
      target: targetOf,
      engine,
      isTarget,
      gramOf: (cols) => gramModeFor(cols, options.gram ?? "auto", memoryBytes),
      ...(options.isDone === undefined ? {} : { isDone: options.isDone, stored: options.stored }),
    });
  } finally {
    await engine.release();
    await runner.close();
  }
}

/** Matrices of (n, n) in f32 that a whole Gram costs at its peak: Gram and cross-Gram, coupling and pull, and the engine's packed copies of the two. */
const WHOLE_GRAM_COPIES = 6;

/** `auto`: whole where it fits a third of the budget. */
export function gramModeFor(cols: number, mode: GramMode, memoryBytes: number): "full" | "tile" {
  if (mode !== "auto") return mode;
  return WHOLE_GRAM_COPIES * 4 * cols * cols <= memoryBytes / 3 ? "full" : "tile";
}

/** Bytes of activations the calibration holds at its widest: residuals and inputs of both streams. */
export function activationBytes(runner: LayerRunner, tokens: number): number {
  const { hiddenSize, intermediateSize } = runner.architecture;
  return tokens * 4 * 2 * (hiddenSize + Math.max(hiddenSize, intermediateSize));
}

function checkMemory(runner: LayerRunner, sequences: readonly (readonly number[])[], memoryBytes: number): void {
  const tokens = sequences.reduce((sum, { length }) => sum + length, 0);
  const needed = activationBytes(runner, tokens);
  if (needed <= memoryBytes / 2) return;
  const fit = Math.floor((tokens * (memoryBytes / 2)) / needed);
  throw new PhysariumError(
    "USAGE_MEMORY",
    `${tokens} calibration tokens take ${(needed / 2 ** 30).toFixed(1)} GiB of activations, half of --memory is ${(memoryBytes / 2 ** 31).toFixed(1)} GiB; take at most ${fit} tokens with --samples and --window, or give more --memory`,
    { needed, memoryBytes, tokens },
  );
}

function checkTargets(runner: LayerRunner, targets: ReadonlySet<string> | undefined): void {
  if (targets === undefined) return;
  const known = new Set<string>();
  for (let layer = 0; layer < runner.layerCount; layer++) {
    for (const { tensor } of runner.projections(layer)) known.add(tensor);
  }
  const unknown = [...targets].filter((name) => !known.has(name));
  if (unknown.length === 0) return;
  throw new PhysariumError(
    "USAGE_TARGET",
    `the activation flow operates on the projections of the forward pass only, and ${unknown.length} targets are none: ${unknown.slice(0, 3).join(", ")}; change --include`,
    { unknown },
  );
}
