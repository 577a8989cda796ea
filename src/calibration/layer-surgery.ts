import { availableParallelism } from "node:os";
import { ownNames, unwrapped } from "../checkpoint/adapter-names.js";
import type { Donor } from "../checkpoint/donor.js";
import { openOnnxEngine } from "../engine/onnx-products.js";
import { PhysariumError } from "../errors.js";
import { type DistilOptions, sequencesThatDistil, sequencesToDistil } from "../matching/distil.js";
import type { MatchOptions } from "../matching/match-layer.js";
import { ACTIVATION_DEFAULTS, type ActivationOptions, activationFlow } from "../methods/activation.js";
import type { PruneTarget } from "../methods/method.js";
import { type BlockRunner, openBlocks } from "../methods/rows/runner.js";
import { refuseWithoutGradients } from "../probe/forward/layer-gradients.js";
import { LayerRunner } from "../probe/forward/layer-runner.js";
import type { ProtocolOptions } from "../probe/text/protocols.js";
import { type Allocation, allocate } from "./allocation.js";
import { type Calibration, openCalibration } from "./calibration-source.js";
import { type DistilHooks, type DistilledTensor, distilModel } from "./distil.js";
import type { StoredGrams } from "./grams/stored-grams.js";
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

/** What v2 is told beside the donor, as plain data: the fingerprint of an operation is made of it. */
export interface LayerSettings {
  readonly target: PruneTarget;
  /** UTF-8 text, or a file of Grams (`.safetensors`); without it the donor writes its own text. */
  readonly calibration?: string;
  readonly samples: number;
  /** Tokens of a sample; default: what the model can see, at most 2048. */
  readonly window?: number;
  /** How the text becomes samples; default one stream, windows side by side. */
  readonly protocol?: ProtocolOptions;
  readonly seed: number;
  readonly allocation: Allocation;
  readonly gram: GramMode;
  /** Budget in bytes; default half of the machine's memory. */
  readonly memoryBytes?: number;
  readonly options?: Partial<ActivationOptions>;
  /** v3: each layer is matched as a whole behind v2. */
  readonly match?: MatchOptions;
  /** v3: the whole model is distilled behind its layers. */
  readonly distil?: DistilOptions;
  readonly threads?: number;
  /** Where the products are computed; default `cpu`. */
  readonly device?: string;
}

/** v2 on one donor, opened: everything refusable was refused, nothing took long yet. */
export interface LayerSurgery {
  /** What calibrates: a text may give fewer samples than were asked for. */
  readonly samples: number;
  readonly tokens: number;
  /** The samples; takes long where the donor writes them itself. */
  calibrate(signal?: AbortSignal): Promise<Calibration>;
  /** Layer by layer; `stored` gives what an earlier run finished. */
  layers(calibration: Calibration, stored: StoredTensors, signal?: AbortSignal): AsyncGenerator<LayerResult>;
  /** Distil the model whose tensors `hooks.stored` gives; where `settings.distil` asks for it. */
  distil(calibration: Calibration, hooks: DistilHooks, signal?: AbortSignal): AsyncGenerator<DistilledTensor>;
  close(): Promise<void>;
}

/** Tensors that an interrupted run finished, and their stored bytes. */
export interface StoredTensors {
  readonly isDone?: (tensor: string) => boolean;
  readonly stored?: (tensor: string) => Promise<Uint8Array>;
  /** v3: the rate that a finished tensor's layer took. */
  readonly matchRate?: (tensor: string) => number | undefined;
}

/**
 * Look at everything v2 needs before anything is written or takes long: the engine, the forward pass of the donor, its
 * tokenizer, the calibration text, the
 * targets, memory. The forward pass is opened here once; calibration and the run use it with the memory that each may
 * take.
 *
 * given  names of the tensors to operate on, as the file has them
 * Throws `DONOR_*`, `USAGE_*`.
 */
export async function openLayerSurgery(
  donor: Donor,
  settings: LayerSettings,
  given: ReadonlySet<string>,
  signal?: AbortSignal,
): Promise<LayerSurgery> {
  const { calibration: path, samples, window, protocol, seed, threads, target, allocation, gram, options } = settings;
  const memoryBytes = settings.memoryBytes ?? defaultMemoryBytes();
  // While the donor writes its own text nothing else of the budget is in use.
  const chosen = {
    ...(threads === undefined ? {} : { threads }),
    ...(settings.device === undefined ? {} : { device: settings.device }),
  };
  const runner = await LayerRunner.open(donor, { ...chosen, memoryBytes });
  // The forward pass has its own names for tensors that a wrapper renamed; whoever asked hears theirs.
  const own = ownNames(given);
  const targets = new Set([...given].map(unwrapped));
  checkTargets(runner, targets);
  const isTarget = (tensor: string): boolean => targets.has(tensor);
  if (settings.match !== undefined) refuseWithoutGradients(runner, isTarget, "match");
  if (settings.distil !== undefined) refuseWithoutGradients(runner, isTarget, "pull back");
  const { distil } = settings;
  const source = await openCalibration(runner, {
    ...(path === undefined ? {} : { path }),
    ...(window === undefined ? {} : { window }),
    ...(protocol === undefined ? {} : { protocol }),
    ...(distil === undefined ? {} : { fresh: (tokens: number) => sequencesToDistil(distil, tokens) }),
    samples,
    seed,
    signal,
  });
  try {
    checkMemory(runner, source.heldTokens ?? source.tokens, memoryBytes, settings.match);
  } catch (error) {
    await source.close?.();
    throw error;
  }
  return {
    samples: source.samples,
    tokens: source.tokens,
    calibrate: (stop) => source.take(stop),
    async *layers({ sequences, grams }, stored, stop) {
      const layers = operateOnLayers(runner, {
        sequences,
        ...(grams === undefined ? {} : { grams }),
        memoryBytes,
        ...(options === undefined ? {} : { settings: options }),
        ...(settings.match === undefined ? {} : { match: settings.match }),
        ...(threads === undefined ? {} : { threads }),
        ...byOwnNames(stored, own),
        target,
        allocation,
        gram,
        targets,
        signal: stop,
      });
      for await (const layer of layers) {
        yield { ...layer, tensors: layer.tensors.map((tensor) => ({ ...tensor, name: own(tensor.name) })) };
      }
    },
    async *distil({ sequences, fresh }, hooks, stop) {
      if (distil === undefined) return;
      const share = runner.withMemory(memoryBytes * COPIES_SHARE);
      const named = { ...hooks, stored: (tensor: string) => hooks.stored(own(tensor)) };
      const taught = sequencesThatDistil(sequences, fresh, distil);
      const moved = distilModel(share, taught, isTarget, distil, memoryBytes, named, stop);
      for await (const tensor of moved) yield { ...tensor, name: own(tensor.name) };
    },
    async close() {
      await source.close?.();
      await runner.close();
    },
  };
}

/** The same, asked by the names of the forward pass. */
function byOwnNames({ isDone, stored, matchRate }: StoredTensors, own: (name: string) => string): StoredTensors {
  return {
    ...(isDone === undefined ? {} : { isDone: (tensor) => isDone(own(tensor)) }),
    ...(stored === undefined ? {} : { stored: (tensor) => stored(own(tensor)) }),
    ...(matchRate === undefined ? {} : { matchRate: (tensor) => matchRate(own(tensor)) }),
  };
}

export interface LayerSurgeryOptions extends StoredTensors {
  /** Calibration token ids; see calibration-source.ts. */
  readonly sequences: readonly (readonly number[])[];
  /** In place of sequences; without a second stream, so with α = 0. */
  readonly grams?: StoredGrams;
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
  readonly match?: MatchOptions;
  readonly signal?: AbortSignal | undefined;
}

/**
 * v2 on an opened forward pass: yields layer by layer the new bytes of every target with their records, in the order
 * of the forward pass. Nothing is written.
 *
 * The same donor, sequences, options, engine and thread count give the same bytes, resumed or not.
 * Throws `DONOR_NON_FINITE`, `USAGE_ENGINE_MISSING`, `USAGE_MEMORY` where the calibration does not fit, `USAGE_TARGET`
 * for targets that the forward pass does not
 * know.
 */
export async function* operateOnLayers(opened: LayerRunner, options: LayerSurgeryOptions): AsyncGenerator<LayerResult> {
  const memoryBytes = options.memoryBytes ?? defaultMemoryBytes();
  const threads = options.threads ?? availableParallelism();
  const runner = opened.withMemory(memoryBytes * COPIES_SHARE);
  const engine = await openOnnxEngine({ threads, device: opened.engine.device });
  const { gram = "auto" } = options;
  const side = blockThreads(runner, gram, memoryBytes, threads);
  let blocks: BlockRunner | undefined;
  try {
    blocks = await openBlocks(side, threads, engine);
    checkTargets(runner, options.targets);
    const tokens = options.sequences.reduce((sum, { length }) => sum + length, 0);
    checkMemory(runner, tokens, memoryBytes, options.match);
    const isTarget = (tensor: string): boolean => options.targets?.has(tensor) ?? true;
    const { target, allocation = "uniform" } = options;
    let targetOf: (tensor: string) => PruneTarget = () => target;
    if (target.kind === "sparsity" && allocation !== "uniform") {
      const shares = await allocate(allocation, runner, options.sequences, target.sparsity, isTarget, options.signal);
      targetOf = (tensor) => ({ kind: "sparsity", sparsity: shares.get(tensor) ?? target.sparsity });
    }
    const blockBytes = Math.min(ACTIVATION_DEFAULTS.blockBytes, (memoryBytes * ROWS_SHARE) / side);
    const method = activationFlow({ blockBytes, ...options.settings });
    yield* operateLayers(runner, options.grams ?? options.sequences, {
      method: options.grams === undefined ? method : method.withOneStream!(),
      target: targetOf,
      engine,
      blocks,
      isTarget,
      signal: options.signal,
      ...(options.match === undefined ? {} : { match: options.match }),
      gramOf: (cols) => gramModeFor(cols, gram, memoryBytes),
      ...(options.isDone === undefined ? {} : { isDone: options.isDone, stored: options.stored }),
      ...(options.matchRate === undefined ? {} : { matchRate: options.matchRate }),
    });
  } finally {
    await blocks?.close();
    await engine.release();
    await runner.close();
  }
}

/** Throws `USAGE_TARGET` for targets that the forward pass does not know. */
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
    `the activation flow operates on the projections of the forward pass only, and ${unknown.length} targets are ` +
      `none: ${unknown.slice(0, 3).join(", ")}; change --include`,
    { unknown },
  );
}
