import { refuseStopped } from "../errors.js";
import { InnerInputs } from "../probe/forward/inner-inputs.js";
import type { LayerRunner } from "../probe/forward/layer-runner.js";
import { batchesOf } from "../probe/text/batches.js";
import { insideChunk } from "./inside-step.js";

/**
 * How a sparsity for the whole model is shared between its tensors.
 *
 * `uniform`: every tensor the same. `owl`: layers with more outliers lose less (Yin et al. 2024,
 * https://arxiv.org/abs/2310.05175). `emergent`: one load λ for all tubes of the model, in units of their row's output
 * energy; where more tubes are weak, more starve.
 */
export type Allocation = "uniform" | "owl" | "emergent";

/** OWL: a weight's score above this many times the layer's mean is an outlier; the authors' M. */
const OUTLIER_FACTOR = 5;
/** Layers' sparsities span twice this; the authors' λ. */
const OWL_SPREAD = 0.08;
/**
 * The same for tensors under `emergent`: further away the relative error of a tensor says too little about the model's.
 */
const EMERGENT_SPREAD = 0.08;

/** log2 of relative drives: 2^-32 … 2^8 in bins of a 64th of a doubling. */
const BINS_PER_DOUBLING = 64;
const LOWEST = -32;
const BINS = 40 * BINS_PER_DOUBLING;

interface TensorProfile {
  readonly name: string;
  readonly layer: number;
  readonly weights: number;
  /** Tubes by relative drive. */
  readonly histogram: Float64Array;
  readonly outliers: number;
}

/**
 * Sparsity of each tensor so that together they reach `sparsity`; one pass of the donor over the calibration sequences.
 * `isTarget` says which tensors are operated on.
 */
export async function allocate(
  kind: Allocation,
  runner: LayerRunner,
  sequences: readonly ArrayLike<number>[],
  sparsity: number,
  isTarget: (tensor: string) => boolean = () => true,
  signal: AbortSignal | undefined = undefined,
  chunkTokens = 4096,
): Promise<ReadonlyMap<string, number>> {
  const profiles: TensorProfile[] = [];
  if (kind === "uniform") {
    const names = Array.from({ length: runner.layerCount }, (_, layer) => runner.projections(layer)).flat();
    return new Map(names.filter(({ tensor }) => isTarget(tensor)).map(({ tensor }) => [tensor, sparsity]));
  }
  let residuals = [];
  for (const batch of batchesOf(sequences, ({ length }) => length, chunkTokens))
    residuals.push(await runner.embed(batch));
  for (let layer = 0; layer < runner.layerCount; layer++) {
    const energies = new Map<string, Float64Array>();
    const inner = new InnerInputs(runner, layer);
    const next = [];
    for (const residual of residuals) {
      refuseStopped(signal);
      const out = await runner.forwardLayer(layer, residual, {
        onInput: async (step, input) => {
          for (const site of runner.sites(layer, step)) {
            const { name, width, source } = site;
            const seen = { operated: input, supplied: new Map(), weigh: false };
            const data =
              source === "step"
                ? input.data
                : (await insideChunk(inner, runner.architecture, layer, site, seen)).operated;
            const sums = energies.get(name) ?? new Float64Array(width);
            energies.set(name, sums);
            for (let at = 0; at < data.length; at++) sums[at % width] += data[at] ** 2;
          }
        },
      });
      await inner.close();
      next.push(out);
    }
    residuals = next;
    await runner.closeLayer(layer);
    profiles.push(...(await profileLayer(runner, layer, energies, isTarget)));
  }
  return kind === "owl" ? shareByOutliers(profiles, sparsity) : shareByLoad(profiles, sparsity);
}

async function profileLayer(
  runner: LayerRunner,
  layer: number,
  energies: ReadonlyMap<string, Float64Array>,
  isTarget: (tensor: string) => boolean,
): Promise<TensorProfile[]> {
  const drives: { name: string; cols: number; sizes: Float32Array }[] = [];
  let sum = 0;
  let count = 0;
  for (const { name: site, projections } of runner.sites(layer)) {
    for (const projection of projections) {
      const { tensor, cols } = projection;
      if (!isTarget(tensor)) continue;
      const norms = energies.get(site)!.map(Math.sqrt);
      const values = await runner.weight(projection);
      for (let at = 0; at < values.length; at++) {
        values[at] = Math.abs(values[at]) * norms[at % cols];
        sum += values[at];
      }
      count += values.length;
      drives.push({ name: tensor, cols, sizes: values });
    }
  }
  const limit = (OUTLIER_FACTOR * sum) / count;
  const profiles = new Map<string, TensorProfile>();
  for (const { name, cols, sizes } of drives) {
    const own = {
      name,
      layer,
      weights: sizes.length,
      outliers: sizes.reduce((outliers, size) => outliers + Number(size > limit), 0),
      histogram: relativeDrives(sizes, cols),
    };
    // The matrices of a stack are one tensor.
    const known = profiles.get(name);
    profiles.set(name, known === undefined ? own : together(known, own));
  }
  return [...profiles.values()];
}

function together(a: TensorProfile, b: TensorProfile): TensorProfile {
  const histogram = a.histogram.map((tubes, bin) => tubes + b.histogram[bin]);
  return { ...a, weights: a.weights + b.weights, outliers: a.outliers + b.outliers, histogram };
}

/** Tubes by their drive over the root of their row's energy. */
function relativeDrives(sizes: Float32Array, cols: number): Float64Array {
  const histogram = new Float64Array(BINS);
  for (let start = 0; start < sizes.length; start += cols) {
    let energy = 0;
    for (let at = start; at < start + cols; at++) energy += sizes[at] ** 2;
    const scale = energy > 0 ? 1 / Math.sqrt(energy) : 0;
    for (let at = start; at < start + cols; at++) {
      const bin = Math.floor((Math.log2(sizes[at] * scale) - LOWEST) * BINS_PER_DOUBLING);
      histogram[Math.min(Math.max(bin, 0), BINS - 1)]++;
    }
  }
  return histogram;
}

/** source: the authors' lib/prune_all.py, `prune_wanda_outlier` */
function shareByOutliers(profiles: readonly TensorProfile[], sparsity: number): Map<string, number> {
  const layers = [...new Set(profiles.map(({ layer }) => layer))];
  const ratios = layers.map((layer) => {
    const own = profiles.filter((profile) => profile.layer === layer);
    return own.reduce((sum, { outliers }) => sum + outliers, 0) / own.reduce((sum, { weights }) => sum + weights, 0);
  });
  const low = Math.min(...ratios);
  const width = Math.max(...ratios) - low;
  const dense = ratios.map((ratio) => (width > 0 ? ((ratio - low) / width) * 2 * OWL_SPREAD : 0));
  const wanted = new Map(profiles.map(({ name, layer }) => [name, -dense[layers.indexOf(layer)]]));
  return shiftTo(profiles, sparsity, (name) => wanted.get(name)!, 1);
}

/** One threshold on relative drives for all, within the spread. */
function shareByLoad(profiles: readonly TensorProfile[], sparsity: number): Map<string, number> {
  const target = sparsity * profiles.reduce((sum, { weights }) => sum + weights, 0);
  let below = 0;
  let bin = 0;
  while (bin < BINS && below < target) {
    for (const { histogram } of profiles) below += histogram[bin];
    bin++;
  }
  const starved = new Map(
    profiles.map(({ name, histogram, weights }) => {
      let dead = 0;
      for (let at = 0; at < bin; at++) dead += histogram[at];
      return [name, dead / weights - sparsity];
    }),
  );
  return shiftTo(profiles, sparsity, (name) => starved.get(name)!, EMERGENT_SPREAD);
}

/**
 * Sparsities `offset + wanted`, kept within the spread around the target, with the offset that meets the target over
 * all weights.
 */
function shiftTo(
  profiles: readonly TensorProfile[],
  sparsity: number,
  wanted: (name: string) => number,
  spread: number,
): Map<string, number> {
  const total = profiles.reduce((sum, { weights }) => sum + weights, 0);
  const low = Math.max(0, sparsity - spread);
  const high = Math.min(0.999, sparsity + spread);
  const shares = (offset: number) =>
    new Map(profiles.map(({ name }) => [name, Math.min(Math.max(sparsity + offset + wanted(name), low), high)]));
  const reached = (offset: number) => {
    const map = shares(offset);
    return profiles.reduce((sum, { name, weights }) => sum + weights * map.get(name)!, 0) / total;
  };
  let from = -2;
  let to = 2;
  for (let step = 0; step < 60; step++) {
    const middle = (from + to) / 2;
    if (reached(middle) < sparsity) from = middle;
    else to = middle;
  }
  return shares(to);
}
