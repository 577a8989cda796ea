import { openDonor } from "../checkpoint/donor.js";
import { type FileLayer, nodeFiles } from "../checkpoint/file-layer.js";
import type { ActivationOptions } from "./activation.js";
import { type GramMode, operateWithActivations, type StoredTensors } from "./activation-surgery.js";
import type { Allocation } from "./allocation.js";
import { type CalibrationRecord, openCalibration } from "./calibration-source.js";
import type { PruneTarget } from "./method.js";
import type { LayerResult } from "./pipeline.js";

/** What v2 is told beside the donor, as plain data: the fingerprint of an operation is made of it. */
export interface ActivationSettings {
  readonly target: PruneTarget;
  /** UTF-8 text; without it the donor writes its own. */
  readonly calibration?: string;
  readonly samples: number;
  /** Tokens of a sample; default: what the model can see, at most 2048. */
  readonly window?: number;
  readonly seed: number;
  readonly allocation: Allocation;
  readonly gram: GramMode;
  /** Budget in bytes; default half of the machine's memory. */
  readonly memoryBytes?: number;
  readonly options?: Partial<ActivationOptions>;
  readonly threads?: number;
}

export interface ActivationRun {
  readonly calibration: CalibrationRecord;
  /** Layer by layer; `stored` gives what an earlier run finished. */
  layers(targets: ReadonlySet<string>, stored: StoredTensors): AsyncGenerator<LayerResult>;
}

/** Open the donor and its calibration for v2. Throws `DONOR_*` for models the forward pass does not know. */
export async function openActivationRun(
  donorPath: string,
  settings: ActivationSettings,
  files: FileLayer = nodeFiles,
): Promise<ActivationRun> {
  const donor = await openDonor(donorPath, files);
  const {
    calibration: path,
    samples,
    window,
    seed,
    threads,
    memoryBytes,
    target,
    allocation,
    gram,
    options,
  } = settings;
  const onThreads = threads === undefined ? {} : { threads };
  const calibration = await openCalibration(donor, {
    ...(path === undefined ? {} : { path }),
    ...(window === undefined ? {} : { window }),
    ...onThreads,
    samples,
    seed,
  });
  return {
    calibration: calibration.record,
    layers: (targets, stored) =>
      operateWithActivations(donor, {
        sequences: calibration.sequences,
        ...(memoryBytes === undefined ? {} : { memoryBytes }),
        ...(options === undefined ? {} : { settings: options }),
        ...onThreads,
        ...stored,
        target,
        allocation,
        gram,
        targets,
      }),
  };
}
