import { availableParallelism } from "node:os";
import { type Donor, openDonor } from "../checkpoint/donor.js";
import { type FileLayer, nodeFiles, readSmallFile } from "../checkpoint/file-layer.js";
import { LayerRunner } from "../probe/layer-runner.js";
import { decodeText, prepareText } from "../probe/protocols.js";
import { TextTokenizer } from "../probe/tokenizer.js";
import { type ActivationOptions, activationFlow } from "./activation.js";
import { takeSamples } from "./calibration-text.js";
import type { PruneTarget } from "./method.js";
import { openOnnxEngine } from "./onnx-engine.js";
import { type LayerResult, operateLayers, type PipelineOptions } from "./pipeline.js";
import { writeOwnCalibration } from "./self-calibration.js";

/** What v2 needs to know beside the donor. */
export interface ActivationSettings {
  readonly target: PruneTarget;
  /** UTF-8 text; without it the donor writes its own. */
  readonly calibration?: string;
  readonly samples: number;
  /** Tokens of a sample; default: what the model can see, at most 2048. */
  readonly window?: number;
  readonly seed: number;
  readonly options?: Partial<ActivationOptions>;
  readonly threads?: number;
}

/** What it was calibrated on, for the report. */
export interface CalibrationRecord {
  /** File name, or `self-written`. */
  readonly text: string;
  readonly samples: number;
  readonly tokens: number;
}

export interface ActivationRun {
  readonly calibration: CalibrationRecord;
  readonly layerCount: number;
  /** Layer by layer; `stored` gives what an earlier run finished. */
  layers(stored: Pick<PipelineOptions, "isTarget" | "isDone" | "stored">): AsyncGenerator<LayerResult>;
  close(): Promise<void>;
}

/** Name of calibration text that the donor wrote itself. */
export const SELF_WRITTEN = "self-written";

/** Open the donor's forward pass and calibration text for v2. Throws `DONOR_*` for models the forward pass does not know. */
export async function openActivationRun(
  donorPath: string,
  settings: ActivationSettings,
  files: FileLayer = nodeFiles,
): Promise<ActivationRun> {
  const donor: Donor = await openDonor(donorPath, files);
  const tokenizer = await TextTokenizer.open(donor.path);
  const threads = settings.threads ?? availableParallelism();
  const runner = await LayerRunner.open(donor, { threads });
  const engine = await openOnnxEngine(threads);
  const close = async () => {
    await engine.release();
    await runner.close();
  };
  try {
    const sequences = await calibrationSequences(runner, tokenizer, settings, files);
    return {
      calibration: {
        text: settings.calibration ?? SELF_WRITTEN,
        samples: sequences.length,
        tokens: sequences.reduce((sum, { length }) => sum + length, 0),
      },
      layerCount: runner.layerCount,
      layers: (stored) =>
        operateLayers(runner, sequences, {
          method: activationFlow(settings.options),
          target: settings.target,
          engine,
          ...stored,
        }),
      close,
    };
  } catch (error) {
    await close();
    throw error;
  }
}

async function calibrationSequences(
  runner: LayerRunner,
  tokenizer: TextTokenizer,
  settings: ActivationSettings,
  files: FileLayer,
): Promise<readonly (readonly number[])[]> {
  const { calibration, samples, seed, window } = settings;
  const { maxPositions } = runner.architecture;
  if (calibration === undefined) {
    return writeOwnCalibration(runner, tokenizer, samples, window ?? Math.min(maxPositions, 2048), seed);
  }
  const text = decodeText(await readSmallFile(calibration, files, 1 << 30), calibration);
  const prepared = prepareText(text, tokenizer, maxPositions, window === undefined ? {} : { window });
  return takeSamples(prepared, { samples, seed }).calibration.map(({ ids }) => ids);
}
