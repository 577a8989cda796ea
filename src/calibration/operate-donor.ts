import { openDonor } from "../checkpoint/donor.js";
import { type FileLayer, nodeFiles } from "../checkpoint/file-layer.js";
import type { ActivationOptions } from "../methods/activation.js";
import type { PruneTarget } from "../methods/method.js";
import { LayerRunner } from "../probe/forward/layer-runner.js";
import type { ProtocolOptions } from "../probe/text/protocols.js";
import type { Allocation } from "./allocation.js";
import { type Calibration, type CalibrationSource, openCalibration } from "./calibration-source.js";
import { checkTargets, operateWithActivations, type StoredTensors } from "./layer-surgery.js";
import { checkMemory, defaultMemoryBytes, type GramMode } from "./memory.js";
import type { LayerResult } from "./pipeline.js";

/** What v2 is told beside the donor, as plain data: the fingerprint of an operation is made of it. */
export interface ActivationSettings {
  readonly target: PruneTarget;
  /** UTF-8 text; without it the donor writes its own. */
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
  readonly threads?: number;
}

export interface ActivationRun {
  /** What calibrates: a text may give fewer samples than were asked for. */
  readonly samples: number;
  readonly tokens: number;
  /** The samples; takes long where the donor writes them itself. */
  calibrate(signal?: AbortSignal): Promise<Calibration>;
  /** Layer by layer; `stored` gives what an earlier run finished. */
  layers(sequences: Calibration["sequences"], stored: StoredTensors, signal?: AbortSignal): AsyncGenerator<LayerResult>;
}

/**
 * Look at everything v2 needs before anything is written or takes long: the engine, the forward pass of the donor, its tokenizer, the calibration text, the
 * targets, memory. Throws `DONOR_*`, `USAGE_*`.
 *
 * targets  names of the tensors to operate on
 */
export async function openActivationRun(
  donorPath: string,
  settings: ActivationSettings,
  targets: ReadonlySet<string>,
  files: FileLayer = nodeFiles,
): Promise<ActivationRun> {
  const donor = await openDonor(donorPath, files);
  const { calibration: path, samples, window, protocol, seed, threads, target, allocation, gram, options } = settings;
  const onThreads = threads === undefined ? {} : { threads };
  const memoryBytes = settings.memoryBytes ?? defaultMemoryBytes();
  const runner = await LayerRunner.open(donor, { ...onThreads, memoryBytes: 0 });
  let source: CalibrationSource;
  try {
    checkTargets(runner, targets);
    source = await openCalibration(donor, {
      ...(path === undefined ? {} : { path }),
      ...(window === undefined ? {} : { window }),
      ...(protocol === undefined ? {} : { protocol }),
      ...onThreads,
      samples,
      seed,
    });
    checkMemory(runner, source.tokens, memoryBytes);
  } finally {
    await runner.close();
  }
  return {
    samples: source.samples,
    tokens: source.tokens,
    calibrate: (signal) => source.take(signal),
    layers: (sequences, stored, signal) =>
      operateWithActivations(donor, {
        sequences,
        memoryBytes,
        ...(options === undefined ? {} : { settings: options }),
        ...onThreads,
        ...stored,
        target,
        allocation,
        gram,
        targets,
        signal,
      }),
  };
}
