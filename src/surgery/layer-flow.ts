import { join } from "node:path";
import type { Calibration } from "../calibration/calibration-source.js";
import type { DistilHooks } from "../calibration/distil.js";
import { type LayerSettings, type LayerSurgery, openLayerSurgery } from "../calibration/layer-surgery.js";
import type { OperatedTensor } from "../calibration/operated-tensor.js";
import type { LayerResult } from "../calibration/pipeline.js";
import { attempt, closeWritten, type FileLayer, FileSource, nodeFiles, writeFully } from "../checkpoint/file-layer.js";
import { PhysariumError, refuseStopped } from "../errors.js";
import type { FlowParams } from "../flow/params.js";
import type { StageRecord } from "../methods/method.js";
import type { DistilRecord } from "../record/distilling.js";
import type { ActivationRecord, CalibrationRecord } from "../record/ledger.js";
import type { MatchRecord } from "../record/matching.js";
import { runJobs } from "../threads/run-jobs.js";
import { hasDistilState, loadDistilState, removeDistilState, saveDistilState } from "./distil-state.js";
import { scanTargets } from "./finite-scan.js";
import type { FlowContext, FlowRun } from "./flow-run.js";
import { directShards } from "./passages.js";
import { copyingPool } from "./piece-copier.js";
import { pieceWork } from "./piece-work.js";
import type { Plan, PlannedTensor } from "./plan.js";
import { TensorProgress } from "./tensor-progress.js";
import { countPieces } from "./tile-tally.js";

/** Code of the warnings about a calibration that says little. */
const SHORT_CALIBRATION = "CALIBRATION_SHORT";

/**
 * v2: layer by layer, each on what the layers before it now compute.
 *
 * What is carried over is copied first, in this thread and without kernels; then nothing is alive but what `--memory`
 * counts. Tensors that an earlier run finished
 * are run through as they stand in the output.
 */
export class LayerFlow implements FlowRun {
  readonly warns: readonly string[] = [SHORT_CALIBRATION];
  private readonly targets: ReadonlyMap<string, PlannedTensor>;
  /** By shard, as they were before anything was calibrated. */
  private targetDigests: Record<string, string> | undefined;

  private constructor(
    private readonly plan: Plan,
    private readonly surgery: LayerSurgery,
    private readonly files: FileLayer,
  ) {
    this.targets = targetsOf(plan);
  }

  /**
   * Everything v2 could refuse without reading weights, refused before the first byte is written. Throws `DONOR_*`,
   * `USAGE_*`.
   */
  static async open(
    plan: Plan,
    settings: LayerSettings,
    files: FileLayer = nodeFiles,
    signal?: AbortSignal,
  ): Promise<LayerFlow> {
    const surgery = await openLayerSurgery(plan.model, settings, new Set(targetsOf(plan).keys()), signal);
    return new LayerFlow(plan, surgery, files);
  }

  /** What would calibrate. */
  get calibration(): { readonly samples: number; readonly tokens: number } {
    const { samples, tokens } = this.surgery;
    return { samples, tokens };
  }

  async check(
    tensors: Iterable<PlannedTensor>,
    context: FlowContext,
    checked: (progress: TensorProgress) => void,
  ): Promise<void> {
    await this.copyPieces(pieceWork(this.plan, tensors, "check", context, checked), context);
  }

  /** See that every target weight is a number. */
  async prepare({ stopped, progress, digester, signal }: FlowContext): Promise<FlowParams> {
    // Calibration comes behind the scan: a run that was calibrated had looked.
    if (stopped?.calibration === undefined) {
      progress.start("scanning", [...this.targets.values()]);
      const onBytes = (bytes: number) => progress.addBytes(bytes);
      this.targetDigests = await scanTargets(this.plan, this.files, digester, onBytes, signal);
    }
    return this.plan.options.params;
  }

  async operate(tensors: AsyncIterable<PlannedTensor>, _params: FlowParams, context: FlowContext): Promise<void> {
    let isAnyOpen = false;
    async function* carried(): AsyncGenerator<PlannedTensor> {
      for await (const tensor of tensors) {
        if (tensor.role === "carried") yield tensor;
        else isAnyOpen = true;
      }
    }
    await this.copyPieces(
      pieceWork(this.plan, carried(), "operate", context, (progress) => context.finish(progress)),
      context,
    );
    const { folder, records, signal } = context;
    const { distil } = this.plan.options.activation ?? {};
    const isDistilling = distil !== undefined && (await hasDistilState(folder, this.files));
    const isTrained = [...this.targets.keys()].every((name) => records.get(name)?.trained);
    if ((isAnyOpen && !isDistilling) || (distil !== undefined && !isTrained)) {
      const calibration = await this.surgery.calibrate(signal);
      // A distillation that was begun holds all that the layers gave.
      if (isAnyOpen && !isDistilling) await this.operateLayers(calibration, context);
      if (distil !== undefined) await this.distil(calibration, context);
    }
    await removeDistilState(folder, this.files);
  }

  close(): Promise<void> {
    return this.surgery.close();
  }

  private async copyPieces(work: ReturnType<typeof pieceWork>, { folder, signal }: FlowContext): Promise<void> {
    const pool = await copyingPool(this.files, await directShards(this.plan, folder, this.files));
    try {
      await runJobs(work, pool, signal);
    } finally {
      await pool.close();
    }
  }

  /** Move the whole model's survivors, and write and record every target anew where that helped. */
  private async distil(calibration: Calibration, context: FlowContext): Promise<void> {
    const { surgery, targets, files } = this;
    const { folder, records, onEvent, signal } = context;
    const hooks: DistilHooks = {
      load: () => loadDistilState(folder, files),
      save: (state) => saveDistilState(folder, state, files),
      stored: (name) => readTensor(join(folder, targets.get(name)!.shard), targets.get(name)!, files),
      onStep: ({ made, steps, divergence, secondsLeft }) =>
        onEvent({ event: "distilled", step: made, steps, divergence, seconds_left: secondsLeft }),
    };
    let moved: DistilRecord | undefined;
    for await (const { name, distil, bytes, evidence, ...counts } of surgery.distil(calibration, hooks, signal)) {
      moved = distil;
      const record = records.get(name);
      const progress = await this.writeBytes({ name, bytes, zerosBefore: counts.zerosBefore }, context);
      const more: ActivationRecord = {
        survivors_changed: counts.survivorsChanged,
        revived: counts.revived,
        exchanged_share: record?.exchanged_share ?? 0,
        gram: record?.gram ?? "whole",
        ...(record?.match === undefined ? {} : { match: record.match }),
        ...(record?.expert_tokens === undefined ? {} : { expert_tokens: record.expert_tokens }),
        trained: true,
        distil,
        evidence,
        stages: record?.stages ?? [],
      };
      await (record === undefined ? context.finish(progress, more) : context.renew!(progress, more));
    }
    const words = (loss: number): string => loss.toPrecision(4);
    onEvent({
      event: "note",
      message:
        moved === undefined
          ? "distilling did not bring the held-out part of the calibration nearer to the donor; nothing of it is kept"
          : `distilled: KL from the donor on what was held out ${words(moved.held_out_before)} → ` +
            `${words(moved.held_out_after)} nats a token`,
    });
  }

  private async operateLayers(calibration: Calibration, context: FlowContext): Promise<void> {
    const { surgery, targets, files } = this;
    const { folder, records, onEvent, signal } = context;
    const layers = 1 + [...targets.values()].reduce((last, tensor) => Math.max(last, tensor.layer), 0);
    const { record } = calibration;
    const source = record.text ?? "text the donor wrote itself";
    const message = `calibrating on ${record.samples} samples, ${record.tokens} tokens of ${source}`;
    const more = record.grams === undefined ? "" : `, by the donor's own Grams in ${record.grams}: one stream, α = 0`;
    onEvent({ event: "note", message: `${message}${more}` });
    await this.recordCalibration(record, context);
    let since = performance.now();
    /**
     * Layers operated on, and the seconds they took: passing through what is done is quicker, and says nothing about
     * the rest.
     */
    const pace = { layers: 0, seconds: 0 };
    const isDone = (name: string) => records.has(name);
    const stored = (name: string) => readTensor(join(folder, targets.get(name)!.shard), targets.get(name)!, files);
    const matchRate = (name: string) => records.get(name)?.match?.rate;
    const earlier = { isDone, stored, matchRate };
    for await (const { layer, tensors, seconds, match } of surgery.layers(calibration, earlier, signal)) {
      // A step with one tensor missing is done whole again, to the same bytes.
      for (const tensor of tensors) if (!records.has(tensor.name)) await this.write(tensor, context, match);
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
          ? { ...losses(tensors), ...(match === undefined ? {} : { match }) }
          : { is_done: [...targets.values()].some((tensor) => tensor.layer === layer) }),
      });
      refuseStopped(signal);
    }
  }

  /** Write a tensor whole into its shard, and record it. */
  private async write(operated: OperatedTensor, context: FlowContext, match: MatchRecord | undefined): Promise<void> {
    const { stages, gram, exchangedShare = 0, survivorsChanged, revived, evidence, expertTokens } = operated;
    const progress = await this.writeBytes(operated, context);
    context.progress.addBytes(operated.bytes.byteLength);
    await context.finish(progress, {
      survivors_changed: survivorsChanged,
      revived,
      exchanged_share: exchangedShare,
      gram,
      ...(match === undefined ? {} : { match }),
      evidence,
      ...(expertTokens === undefined ? {} : { expert_tokens: expertTokens }),
      stages: stages.map(({ stage, relativeError, seconds }) => ({
        stage,
        ...(relativeError === undefined ? {} : { relative_error: relativeError }),
        seconds,
      })),
    });
  }

  /** Put a tensor's bytes in their place, and count them. */
  private async writeBytes(
    { name, bytes, zerosBefore }: Pick<OperatedTensor, "name" | "bytes" | "zerosBefore">,
    { folder, digester }: FlowContext,
  ): Promise<TensorProgress> {
    const tensor = this.targets.get(name)!;
    const { blockSize } = this.plan.options.params;
    const progress = new TensorProgress(tensor, blockSize);
    progress.addZeros(zerosBefore);
    let index = 0;
    for (const result of countPieces(tensor, bytes, blockSize, (piece) => digester.digest(piece))) {
      progress.add(index++, result);
    }
    await writeTensor(join(folder, tensor.shard), tensor, bytes, this.files);
    return progress;
  }

  private async recordCalibration(calibration: CalibrationRecord, context: FlowContext): Promise<void> {
    const { stopped, onEvent, append, outputPath } = context;
    checkSameCalibration(stopped?.calibration, calibration, outputPath);
    for (const message of this.shortages(calibration)) {
      onEvent({ event: "warning", code: SHORT_CALIBRATION, message });
      if (stopped?.warnings.some((earlier) => earlier.message === message)) continue;
      await append({ kind: "warning", at: new Date().toISOString(), code: SHORT_CALIBRATION, message });
    }
    if (stopped?.calibration !== undefined) return;
    const digests = this.targetDigests === undefined ? {} : { target_digests: this.targetDigests };
    await append({ kind: "calibration", at: new Date().toISOString(), ...calibration, ...digests });
  }

  /** What is to be said of a calibration that says little. */
  private shortages({ samples, tokens, grams }: CalibrationRecord): string[] {
    // A file holds what it holds; nobody asked it for samples.
    const asked = grams === undefined ? (this.plan.options.activation?.samples ?? samples) : samples;
    // Experts have a rule of their own, and see what they see.
    const whole = [...this.targets.values()].filter(({ kind }) => kind !== "expert");
    const inputs = ({ target }: PlannedTensor): number => (target!.storedByInput ? target!.rows : target!.cols);
    const widest = whole.reduce((most, tensor) => Math.max(most, inputs(tensor)), 0);
    const found: string[] = [];
    if (samples < asked) found.push(`the calibration text gives ${samples} of the ${asked} samples asked for`);
    if (tokens < widest) {
      found.push(
        `${tokens} calibration tokens cannot tell the ${widest} inputs of the widest projection apart; more ` +
          "samples make a better choice",
      );
    }
    return found;
  }
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
    `${outputPath}: the run that stands there was calibrated on other tokens (${stopped.tokens}, ` +
      `${stopped.ids_sha256.slice(0, 12)}…) than this one (${now.tokens}, ${now.ids_sha256.slice(0, 12)}…); resume ` +
      "on the machine and with the tokenizer it began with, or start over with --overwrite",
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
function losses(tensors: LayerResult["tensors"]): { loss_before: number; loss_after: number } {
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
