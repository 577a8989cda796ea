import { join } from "node:path";
import type { ActivationRun, ActivationSettings } from "../calibration/operate-donor.js";
import { attempt, closeWritten, type FileLayer, FileSource, writeFully } from "../checkpoint/file-layer.js";
import { PhysariumError, refuseStopped } from "../errors.js";
import { magnitudeFormat, weightPatterns } from "../flow/magnitudes.js";
import type { StageRecord } from "../methods/method.js";
import type { Digester } from "../record/digest.js";
import type { ActivationRecord, CalibrationRecord, TensorRecord } from "../record/ledger.js";
import { piecesOf } from "../record/pieces.js";
import type { OnEvent } from "./events.js";
import type { Plan, PlannedTensor } from "./plan.js";
import type { PieceResult } from "./protocol.js";
import { TensorProgress } from "./tensor-progress.js";

interface Warning {
  readonly code: string;
  readonly message: string;
}

export interface ActivationJob {
  readonly plan: Plan;
  readonly run: ActivationRun;
  readonly folder: string;
  readonly records: ReadonlyMap<string, TensorRecord>;
  readonly digester: Digester;
  readonly files: FileLayer;
  readonly onEvent: OnEvent;
  readonly signal: AbortSignal | undefined;
}

/**
 * Operate on a plan's targets with v2: layer by layer, each on what the layers before it now compute. Bytes go to the shards under
 * `folder` (which exist at full length); `calibrated` is told what was calibrated on,
 * `finish` is called for every tensor that is on disk.
 *
 * Tensors of `records` are done: they are run through as they stand in the output.
 */
export async function operateActivation(
  job: ActivationJob,
  calibrated: (calibration: CalibrationRecord, warnings: readonly Warning[]) => Promise<void>,
  finish: (progress: TensorProgress, more: ActivationRecord) => Promise<void>,
): Promise<void> {
  const { plan, run, folder, records, digester, files, onEvent, signal } = job;
  const targets = targetsOf(plan);
  const layers = 1 + [...targets.values()].reduce((last, tensor) => Math.max(last, tensor.layer), 0);
  const { sequences, record } = await run.calibrate(signal);
  const source = record.text ?? "text the donor wrote itself";
  onEvent({
    event: "note",
    message: `calibrating on ${record.samples} samples, ${record.tokens} tokens of ${source}`,
  });
  await calibrated(record, shortages(record, plan));
  let since = performance.now();
  /** Layers operated on, and the seconds they took: passing through what is done is quicker, and says nothing about the rest. */
  const pace = { layers: 0, seconds: 0 };
  const isDone = (name: string) => records.has(name);
  const stored = (name: string) => readTensor(join(folder, targets.get(name)!.shard), targets.get(name)!, files);
  for await (const { layer, tensors, seconds } of run.layers(sequences, { isDone, stored }, signal)) {
    for (const { name, bytes, stages, gram, exchangedShare = 0 } of tensors) {
      // A step with one tensor missing is done whole again, to the same bytes.
      if (records.has(name)) continue;
      const tensor = targets.get(name)!;
      const donorBytes = await readTensor(join(plan.donor.path, tensor.shard), tensor, files);
      const { progress, changed, revived } = count(tensor, donorBytes, bytes, plan.options.params.blockSize, digester);
      await writeTensor(join(folder, tensor.shard), tensor, bytes, files);
      await finish(progress, {
        survivors_changed: changed,
        revived,
        exchanged_share: exchangedShare,
        gram,
        stages: stages.map(({ stage, relativeError, seconds: spent }) => ({
          stage,
          ...(relativeError === undefined ? {} : { relative_error: relativeError }),
          seconds: spent,
        })),
      });
    }
    const now = performance.now();
    if (tensors.length > 0) {
      pace.layers++;
      pace.seconds += (now - since) / 1000;
    }
    since = now;
    onEvent({
      event: "layer",
      layer,
      layers,
      seconds,
      ...(pace.layers === 0 ? {} : { seconds_left: (pace.seconds / pace.layers) * (layers - layer - 1) }),
      ...(tensors.length > 0
        ? losses(tensors)
        : { is_done: [...targets.values()].some((tensor) => tensor.layer === layer) }),
    });
    refuseStopped(signal);
  }
}

/** Code of the warnings about a calibration that says little. */
export const SHORT_CALIBRATION = "CALIBRATION_SHORT";

/** What is to be said of a calibration that says little. */
function shortages({ samples, tokens }: CalibrationRecord, plan: Plan): Warning[] {
  const asked = plan.options.activation?.samples ?? samples;
  const widest = [...targetsOf(plan).values()].reduce((most, { target }) => Math.max(most, target!.cols), 0);
  const warnings: Warning[] = [];
  if (samples < asked) {
    warnings.push({
      code: SHORT_CALIBRATION,
      message: `the calibration text gives ${samples} of the ${asked} samples asked for`,
    });
  }
  if (tokens < widest) {
    warnings.push({
      code: SHORT_CALIBRATION,
      message: `${tokens} calibration tokens cannot tell the ${widest} inputs of the widest projection apart; more samples make a better choice`,
    });
  }
  return warnings;
}

/** Everything v2 could refuse without reading weights, refused before the first byte is written. Throws `DONOR_*`, `USAGE_*`. */
export async function openActivation(
  plan: Plan,
  settings: ActivationSettings,
  files: FileLayer,
): Promise<ActivationRun> {
  const { openActivationRun } = await import("../calibration/operate-donor.js");
  return openActivationRun(plan.donor.path, settings, new Set(targetsOf(plan).keys()), files);
}

/** Layers calibrated on one text must not stand beside layers calibrated on another. Throws `USAGE_RESUME_MISMATCH`. */
export function checkSameCalibration(
  stopped: CalibrationRecord | undefined,
  now: CalibrationRecord,
  outputPath: string,
): void {
  if (stopped === undefined || stopped.ids_sha256 === now.ids_sha256) return;
  throw new PhysariumError(
    "USAGE_RESUME_MISMATCH",
    `${outputPath}: the run that stands there was calibrated on other tokens (${stopped.tokens}, ${stopped.ids_sha256.slice(0, 12)}…) than this one (${now.tokens}, ${now.ids_sha256.slice(0, 12)}…); resume on the machine and with the tokenizer it began with, or start over with --overwrite`,
    { stopped: stopped.ids_sha256, now: now.ids_sha256 },
  );
}

function targetsOf(plan: Plan): Map<string, PlannedTensor> {
  const targets = new Map<string, PlannedTensor>();
  for (const { tensors } of plan.shards)
    for (const tensor of tensors) if (tensor.target !== undefined) targets.set(tensor.name, tensor);
  return targets;
}

/** A layer's relative output error as selection leaves it and after the last stage, averaged over its tensors. */
function losses(tensors: readonly { readonly stages: readonly StageRecord[] }[]): {
  loss_before: number;
  loss_after: number;
} {
  const mean = (pick: (stages: readonly StageRecord[]) => StageRecord | undefined) =>
    tensors.reduce((sum, { stages }) => sum + (pick(stages)?.relativeError ?? 0), 0) / Math.max(tensors.length, 1);
  return {
    loss_before: mean((stages) => stages.find(({ stage }) => stage === "flow") ?? stages[0]),
    loss_after: mean((stages) => stages.findLast(({ relativeError }) => relativeError !== undefined)),
  };
}

async function readTensor(path: string, tensor: PlannedTensor, files: FileLayer): Promise<Uint8Array> {
  const source = await FileSource.open(path, files);
  try {
    return await source.read(tensor.byteOffset, tensor.byteOffset + tensor.byteLength);
  } finally {
    await source.close();
  }
}

async function writeTensor(path: string, tensor: PlannedTensor, bytes: Uint8Array, files: FileLayer): Promise<void> {
  const file = await attempt("opening", path, () => files.open(path, "r+"));
  let written = false;
  try {
    await writeFully(file, bytes, tensor.byteOffset, path);
    written = true;
  } finally {
    if (written) await closeWritten(file, path);
    else await file.close().catch(() => {});
  }
}

/**
 * A NaN would go through the forward pass into everything behind it: all targets are read once before anything is calibrated. Throws `DONOR_NON_FINITE`.
 * `onBytes` is told how many more were read.
 */
export async function refuseNonFinite(
  plan: Plan,
  files: FileLayer,
  onBytes: (bytes: number) => void,
  signal: AbortSignal | undefined,
): Promise<void> {
  for (const { path, tensors } of plan.shards) {
    const source = await FileSource.open(path, files);
    try {
      for (const { name, shard, target, byteOffset, byteLength } of tensors) {
        if (target === undefined) continue;
        const { magnitudeMask, infinity, bytes } = magnitudeFormat(target.dtype);
        for (let start = 0; start < byteLength; start += SCAN_BYTES) {
          refuseStopped(signal);
          const end = Math.min(start + SCAN_BYTES, byteLength);
          const patterns = weightPatterns(await source.read(byteOffset + start, byteOffset + end), target.dtype);
          for (let at = 0; at < patterns.length; at++) {
            if ((patterns[at] & magnitudeMask) < infinity) continue;
            const position = start / bytes + at;
            throw new PhysariumError(
              "DONOR_NON_FINITE",
              `${shard}: tensor "${name}" is NaN or infinite at row ${Math.floor(position / target.cols)}, column ${position % target.cols}; the weights are damaged, and a forward pass would carry that into everything`,
              { shard, tensor: name },
            );
          }
          onBytes(end - start);
        }
      }
    } finally {
      await source.close();
    }
  }
}

const SCAN_BYTES = 16 << 20;

/** Count a tensor piece by piece as the kernels count theirs; −0 becomes +0 in place. */
function count(
  tensor: PlannedTensor,
  donorBytes: Uint8Array,
  bytes: Uint8Array,
  blockSize: number,
  digester: Digester,
) {
  const { target } = tensor;
  const { magnitudeMask, bytes: elementBytes } = magnitudeFormat(target!.dtype);
  const before = weightPatterns(donorBytes, target!.dtype);
  const after = weightPatterns(bytes, target!.dtype);
  const progress = new TensorProgress(tensor, blockSize);
  let changed = 0;
  let revived = 0;
  let index = 0;
  for (const piece of piecesOf(tensor.byteLength, target, blockSize)) {
    const result: PieceResult = {
      digest: "",
      weights: 0,
      dead: 0,
      zeros: 0,
      nonFinite: 0,
      tiles: 0,
      minTileSparsity: 1,
      maxTileSparsity: 0,
    };
    const { cols } = target!;
    const first = piece.byteOffset / elementBytes;
    for (let top = 0; top < piece.rows; top += blockSize) {
      const rows = Math.min(blockSize, piece.rows - top);
      for (let left = 0; left < cols; left += blockSize) {
        const width = Math.min(blockSize, cols - left);
        let dead = 0;
        for (let row = top; row < top + rows; row++) {
          for (let at = first + row * cols + left, end = at + width; at < end; at++) {
            const wasZero = (before[at] & magnitudeMask) === 0;
            if (wasZero) result.zeros++;
            if ((after[at] & magnitudeMask) === 0) {
              after[at] = 0;
              dead++;
            } else if (after[at] !== before[at]) {
              changed++;
              if (wasZero) revived++;
            }
          }
        }
        const sparsity = dead / (rows * width);
        result.dead += dead;
        result.weights += rows * width;
        result.tiles++;
        result.minTileSparsity = Math.min(result.minTileSparsity, sparsity);
        result.maxTileSparsity = Math.max(result.maxTileSparsity, sparsity);
      }
    }
    result.digest = digester.digest(bytes.subarray(piece.byteOffset, piece.byteOffset + piece.byteLength));
    progress.add(index++, result);
  }
  return { progress, changed, revived };
}
