import { PhysariumError } from "../errors.js";
import type { Adam } from "../matching/adam.js";
import { Distiller, type DistilOptions, type DistilProgress, type TrainedLayer } from "../matching/distil.js";
import { type Projection, suppliedName } from "../model/steps.js";
import { trainedBy } from "../probe/forward/layer-gradient.js";
import type { LayerRunner } from "../probe/forward/layer-runner.js";
import type { DistilRecord } from "../record/distilling.js";
import { type StoredWeights, suppliedFrom, TensorBytes } from "./operated-tensor.js";

/** A distillation between two steps: enough to go on from, and to end with. */
export interface DistilState extends DistilProgress {
  /** By the names that weights are supplied by: f32 masters, 0 where dead, and Adam's two means of the living. */
  readonly tensors: ReadonlyMap<string, Pick<Adam, "weights" | "first" | "second" | "size">>;
}

export interface DistilHooks {
  /** What an earlier run left. */
  load(): Promise<DistilState | undefined>;
  save(state: DistilState): Promise<void>;
  onStep?(step: { made: number; steps: number; divergence: number; secondsLeft: number }): void;
  /** The stored bytes of an operated tensor. */
  stored(tensor: string): Promise<Uint8Array>;
}

export interface DistilledTensor extends StoredWeights {
  readonly name: string;
  readonly distil: DistilRecord;
}

/** Between two saves: a stopped run loses no more than this of its time, and saving costs a hundredth of it. */
const SAVE_SECONDS = 120;

/**
 * Bytes a weight takes while a model is distilled: its master, its place, two means, what it was at the best look, and
 * a gradient a layer at a time.
 */
export const BYTES_PER_WEIGHT = 4 + 4 + 8 + 4;

/**
 * Distil an operated model and give the new bytes of every tensor that moved; nothing where the held-out part of the
 * calibration says that it did not help. Throws `USAGE_MEMORY` where the masters do not fit, `STOPPED`, having saved.
 */
export async function* distilModel(
  runner: LayerRunner,
  sequences: readonly (readonly number[])[],
  isTarget: (tensor: string) => boolean,
  options: DistilOptions,
  memoryBytes: number,
  hooks: DistilHooks,
  signal?: AbortSignal,
): AsyncGenerator<DistilledTensor> {
  const places = placesOf(runner, isTarget);
  checkMasters(places.flat(), memoryBytes);
  const state = await hooks.load();
  const weights = new Map<string, Float32Array>();
  for (const place of places.flat()) {
    const name = suppliedName(place);
    const own = state?.tensors.get(name)?.weights;
    if (own !== undefined) weights.set(name, own);
    else weights.set(...suppliedFrom(await hooks.stored(place.tensor), runner.stored(place).dtype, place));
  }
  const distiller = await Distiller.open(runner, trainedOf(places), weights, sequences, options, signal);
  try {
    if (state !== undefined) {
      for (const [name, adam] of distiller.adams) adam.restore(state.tensors.get(name)!);
      distiller.resumeAt(state);
    }
    await runSteps(distiller, hooks);
    const distil = recordOf(distiller);
    if (distil === undefined) return;
    yield* tensorsOf(runner, places.flat(), weights, distil);
  } finally {
    await distiller.close();
    await runner.close();
  }
}

/**
 * Distil weights held in memory, all of a model's: `weights` are changed in place, to what their files would hold; they
 * stay where the held-out part says that it did not help.
 */
export async function distilWeights(
  runner: LayerRunner,
  sequences: readonly (readonly number[])[],
  weights: Map<string, Float32Array>,
  options: DistilOptions,
  onStep?: (made: number) => void,
  signal?: AbortSignal,
): Promise<DistilRecord | undefined> {
  const places = placesOf(runner, () => true);
  const old = new Map([...weights].map(([name, values]) => [name, values.slice()]));
  const distiller = await Distiller.open(runner, trainedOf(places), weights, sequences, options, signal);
  try {
    while (!distiller.isDone) {
      const divergence = await distiller.advance();
      if (divergence !== undefined) onStep?.(distiller.progress!.made);
    }
    const record = recordOf(distiller);
    for (const place of places.flat()) {
      const name = suppliedName(place);
      const bytes = new TensorBytes({ ...place, stack: undefined }, runner.stored(place).dtype, true);
      const own = old.get(name)!;
      weights.set(
        name,
        record === undefined ? own : bytes.take({ ...place, stack: undefined }, own, weights.get(name)!),
      );
    }
    return record;
  } finally {
    await distiller.close();
  }
}

async function runSteps(distiller: Distiller, hooks: DistilHooks): Promise<void> {
  const { steps } = distiller.options;
  const started = performance.now();
  const first = distiller.progress?.made ?? 0;
  const save = (): Promise<void> => hooks.save({ ...distiller.progress!, tensors: distiller.adams });
  let saved = started;
  try {
    while (!distiller.isDone) {
      const divergence = await distiller.advance();
      if (divergence === undefined) continue;
      const { made } = distiller.progress!;
      const now = performance.now();
      const secondsLeft = ((now - started) / 1000 / (made - first)) * (steps - made);
      hooks.onStep?.({ made, steps, divergence, secondsLeft });
      if (now - saved < SAVE_SECONDS * 1000 && made < steps) continue;
      await save();
      saved = now;
    }
  } catch (error) {
    // What was learnt stays, whatever ended it; half a step is not kept, for it would not be done again.
    if (distiller.isWhole && (distiller.progress?.made ?? 0) > first) await save().catch(() => {});
    throw error;
  }
}

/** What all steps gave, its weights those of the best look; nothing where no look was better than the first. */
function recordOf(distiller: Distiller): DistilRecord | undefined {
  const { options, tokens } = distiller;
  const { best, rate, heldOutBefore } = distiller.progress!;
  if (best.step === 0) return undefined;
  distiller.goBack();
  return {
    steps: options.steps,
    tokens,
    kept: best.step,
    rate,
    held_out_before: heldOutBefore,
    held_out_after: best.loss,
  };
}

async function* tensorsOf(
  runner: LayerRunner,
  places: readonly Projection[],
  weights: ReadonlyMap<string, Float32Array>,
  distil: DistilRecord,
): AsyncGenerator<DistilledTensor> {
  for (const name of new Set(places.map(({ tensor }) => tensor))) {
    const own = places.filter(({ tensor }) => tensor === name);
    const stored = new TensorBytes(own[0], runner.stored(own[0]).dtype, true);
    for (const place of own) stored.take(place, await runner.weight(place), weights.get(suppliedName(place))!);
    yield { name, distil, ...stored.finish() };
  }
}

/** What moves in each layer. */
function placesOf(runner: LayerRunner, isTarget: (tensor: string) => boolean): Projection[][] {
  return Array.from({ length: runner.layerCount }, (_, layer) =>
    runner.sites(layer).flatMap(({ projections }) => projections.filter(({ tensor }) => isTarget(tensor))),
  );
}

function trainedOf(places: readonly (readonly Projection[])[]): TrainedLayer[] {
  return places.map((layer) => layer.map(trainedBy));
}

function checkMasters(places: readonly Projection[], memoryBytes: number): void {
  const needed = BYTES_PER_WEIGHT * places.reduce((sum, { rows, cols }) => sum + rows * cols, 0);
  if (needed <= memoryBytes) return;
  throw new PhysariumError(
    "USAGE_MEMORY",
    `--distil holds ${(needed / 2 ** 30).toFixed(1)} GiB of weights and what Adam knows of them, and --memory is ` +
      `${(memoryBytes / 2 ** 30).toFixed(1)} GiB; give more --memory, or leave --distil out`,
    { needed, memoryBytes },
  );
}
