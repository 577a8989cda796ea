import { availableParallelism } from "node:os";
import type { Donor } from "../checkpoint/donor.js";
import { openOnnxEngine } from "../engine/onnx-products.js";
import { PhysariumError } from "../errors.js";
import { ACTIVATION_DEFAULTS, type ActivationOptions, activationFlow } from "../methods/activation.js";
import type { PruneTarget } from "../methods/method.js";
import { type BlockRunner, openBlocks } from "../methods/rows/runner.js";
import { LayerRunner } from "../probe/forward/layer-runner.js";
import { type Allocation, allocate } from "./allocation.js";
import {
  blockThreads,
  COPIES_SHARE,
  checkMemory,
  defaultMemoryBytes,
  type GramMode,
  gramModeFor,
  ROWS_SHARE,
} from "./memory.js";
import { type LayerResult, operateLayers } from "./pipeline.js";

/** Tensors that an interrupted run finished, and their stored bytes. */
export interface StoredTensors {
  readonly isDone?: (tensor: string) => boolean;
  readonly stored?: (tensor: string) => Promise<Uint8Array>;
}

export interface ActivationSurgeryOptions extends StoredTensors {
  /** Calibration token ids; see calibration-source.ts. */
  readonly sequences: readonly (readonly number[])[];
  readonly target: PruneTarget;
  /** Shares a sparsity between tensors; default uniform (docs/flows.md has the table). */
  readonly allocation?: Allocation;
  readonly gram?: GramMode;
  /** Budget of the whole operation in bytes; default half of the machine's memory. */
  readonly memoryBytes?: number;
  readonly threads?: number;
  /** Names of the tensors to operate on; default every projection of the decoder. */
  readonly targets?: ReadonlySet<string>;
  /** The method's constants; `heal: false` keeps survivors' bits. */
  readonly settings?: Partial<ActivationOptions>;
  readonly signal?: AbortSignal | undefined;
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
  const memoryBytes = options.memoryBytes ?? defaultMemoryBytes();
  const threads = options.threads ?? availableParallelism();
  const runner = await LayerRunner.open(donor, { threads, memoryBytes: memoryBytes * COPIES_SHARE });
  const engine = await openOnnxEngine({ threads });
  const { gram = "auto" } = options;
  const side = blockThreads(runner, gram, memoryBytes, threads);
  let blocks: BlockRunner | undefined;
  try {
    blocks = await openBlocks(side, threads, engine);
    checkTargets(runner, options.targets);
    const tokens = options.sequences.reduce((sum, { length }) => sum + length, 0);
    checkMemory(runner, tokens, memoryBytes);
    const isTarget = (tensor: string): boolean => options.targets?.has(tensor) ?? true;
    const { target, allocation = "uniform" } = options;
    let targetOf: (tensor: string) => PruneTarget = () => target;
    if (target.kind === "sparsity" && allocation !== "uniform") {
      const shares = await allocate(allocation, runner, options.sequences, target.sparsity, isTarget, options.signal);
      targetOf = (tensor) => ({ kind: "sparsity", sparsity: shares.get(tensor) ?? target.sparsity });
    }
    const blockBytes = Math.min(ACTIVATION_DEFAULTS.blockBytes, (memoryBytes * ROWS_SHARE) / side);
    yield* operateLayers(runner, options.sequences, {
      method: activationFlow({ blockBytes, ...options.settings }),
      target: targetOf,
      engine,
      blocks,
      isTarget,
      signal: options.signal,
      gramOf: (cols) => gramModeFor(cols, gram, memoryBytes),
      ...(options.isDone === undefined ? {} : { isDone: options.isDone, stored: options.stored }),
    });
  } finally {
    await blocks?.close();
    await engine.release();
    await runner.close();
  }
}

/** Throws `USAGE_TARGET` for targets that the forward pass does not know. */
export function checkTargets(runner: LayerRunner, targets: ReadonlySet<string> | undefined): void {
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
