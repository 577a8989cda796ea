import { readTensor } from "../checkpoint/tensor-reader.js";
import type { MatrixEngine } from "../engine/products.js";
import { PhysariumError, refuseStopped } from "../errors.js";
import { meanEnergyOf } from "../methods/algebra/damped.js";
import type { PruneMethod, PruneTarget, PruneTask, StageRecord } from "../methods/method.js";
import type { ProductWork } from "../methods/rows/row-block.js";
import type { BlockRunner } from "../methods/rows/runner.js";
import { type Projection, STEPS, type Step } from "../model/steps.js";
import type { Activations, LayerRunner, LayerState } from "../probe/forward/layer-runner.js";
import { batchesOf } from "../probe/text/batches.js";
import type { FloatDtype } from "../safetensors/dtypes.js";
import { decodeFloats, encodeFloats, MOVED_WEIGHTS } from "../safetensors/float-bits.js";
import { type InputChunk, StatisticsCollector, tiledStatistics } from "./statistics.js";

/** One operated matrix, as it will stand in the checkpoint. */
export interface OperatedTensor {
  readonly name: string;
  readonly layer: number;
  readonly projection: string;
  readonly step: Step;
  readonly dtype: FloatDtype;
  readonly rows: number;
  readonly cols: number;
  /** Little-endian, in the donor's dtype. */
  readonly bytes: Uint8Array;
  readonly zeros: number;
  /** Survivors whose bits differ from the donor's. */
  readonly survivorsChanged: number;
  readonly stages: readonly StageRecord[];
  readonly exchangedShare?: number;
  /** How the Gram of its inputs was used. */
  readonly gram: "whole" | "tiles";
  readonly products?: ProductWork;
  readonly seconds: number;
}

export interface LayerResult {
  readonly layer: number;
  readonly tensors: readonly OperatedTensor[];
  /** Where the layer's time went. */
  readonly seconds: { readonly forward: number; readonly gram: number; readonly methods: number };
}

export interface PipelineOptions {
  readonly method: PruneMethod;
  /** What a tensor should lose; the same for all, or as an allocation says. */
  readonly target: PruneTarget | ((tensor: string) => PruneTarget);
  readonly engine: MatrixEngine;
  /** As `PruneTask` has it. */
  readonly blocks?: BlockRunner | undefined;
  /** Tensors that are operated on; default all projections. */
  readonly isTarget?: (tensor: string) => boolean;
  /** Whether the Gram of a place with so many inputs is held whole or used in tiles; default whole. Only methods in four steps know tiles. */
  readonly gramOf?: (cols: number) => "full" | "tile";
  /** Whether tokens count relative to the size of their residual stream where something is added to it; default so. */
  readonly weighTokens?: boolean;
  /** Tokens run through a step at once. */
  readonly chunkTokens?: number;
  /** Tensors an interrupted run has operated on, and their stored bytes: they are run through, not operated on again. */
  readonly isDone?: (tensor: string) => boolean;
  readonly stored?: (tensor: string) => Promise<Uint8Array>;
  /** Stops the work, throwing `STOPPED`: what was yielded before stays good. */
  readonly signal?: AbortSignal | undefined;
}

/** Sequences of one length that go through the model together, in both streams. */
interface Chunk {
  donor: Activations | undefined;
  operated: Activations;
}

const CHUNK_TOKENS = 4096;

/**
 * Operate on a model layer by layer, each on the inputs that the already operated part produces; yields a layer's tensors when it is done.
 *
 * sequences  token ids of the calibration text; those of one length are run together
 * Layers behind the last one with a target are not run.
 * Two streams (the donor's and the operated model's activations) run side by side where the method asks for both. The same
 * sequences, options and engine give the same bytes.
 */
export async function* operateLayers(
  runner: LayerRunner,
  sequences: readonly ArrayLike<number>[],
  options: PipelineOptions,
): AsyncGenerator<LayerResult> {
  const chunks: Chunk[] = [];
  for (const batch of batchesOf(sequences, ({ length }) => length, options.chunkTokens ?? CHUNK_TOKENS)) {
    const residual = await runner.embed(batch);
    chunks.push({ operated: residual, donor: options.method.needs === "both" ? residual : undefined });
  }
  const { isTarget = () => true } = options;
  let last = runner.layerCount - 1;
  while (last >= 0 && !runner.projections(last).some(({ tensor }) => isTarget(tensor))) last--;
  for (let layer = 0; layer <= last; layer++) {
    const work = new LayerWork(runner, layer, options, chunks);
    yield await (options.method.steps === "four" ? work.runInFourSteps() : work.runAtOnce());
    await runner.closeLayer(layer);
  }
}

class LayerWork {
  private readonly tensors: OperatedTensor[] = [];
  private readonly supplied = new Map<string, Float32Array>();
  private readonly seconds = { forward: 0, gram: 0, methods: 0 };

  constructor(
    private readonly runner: LayerRunner,
    private readonly layer: number,
    private readonly options: PipelineOptions,
    private readonly chunks: Chunk[],
  ) {}

  /** Each step's statistics come from the steps before it, operated on. */
  async runInFourSteps(): Promise<LayerResult> {
    const { runner, layer, chunks } = this;
    const states: { donor: LayerState | undefined; operated: LayerState }[] = [];
    for (const { donor, operated } of chunks) {
      const operatedState = await this.timed("forward", () => runner.begin(layer, operated));
      // In the first layer both streams are one.
      const isSame = donor === operated;
      const donorState =
        donor === undefined || isSame ? undefined : await this.timed("forward", () => runner.begin(layer, donor));
      states.push({ operated: operatedState, donor: donor === undefined ? undefined : (donorState ?? operatedState) });
    }
    for (const step of STEPS) {
      if (this.isAnyMissing(step)) {
        const statistics = await this.gather(step, states);
        this.checkFinite(step, statistics);
        await this.operate(step, statistics);
      } else await this.takeStored(step);
      for (const state of states) {
        const { donor, operated } = state;
        if (donor !== undefined) {
          state.donor = await this.timed("forward", () => runner.advance(layer, step, donor));
        }
        state.operated = await this.timed("forward", () => runner.advance(layer, step, operated, this.supplied));
      }
    }
    states.forEach(({ donor, operated }, at) => {
      chunks[at] = { operated: operated.residual, donor: donor?.residual };
    });
    return this.result();
  }

  /** All statistics of the layer from one pass with the donor's weights, then a second pass with the new ones. */
  async runAtOnce(): Promise<LayerResult> {
    const { runner, layer, chunks, options } = this;
    const collectors = new Map<Step, StatisticsCollector>();
    if (options.method.needs !== "weights" && STEPS.some((step) => this.isAnyMissing(step))) {
      for (const { operated } of chunks) {
        let state = await this.timed("forward", () => runner.begin(layer, operated));
        for (const step of STEPS) {
          const input = state.input!;
          const collector = collectors.get(step) ?? new StatisticsCollector(input.width, options.engine, false);
          collectors.set(step, collector);
          await this.timed("gram", () => collector.add(input.data));
          const current = state;
          state = await this.timed("forward", () => runner.advance(layer, step, current));
        }
      }
    }
    for (const step of STEPS) {
      const collector = collectors.get(step);
      if (this.isAnyMissing(step)) {
        const statistics = collector === undefined ? {} : { inputs: collector.finish() };
        this.checkFinite(step, statistics);
        await this.operate(step, statistics);
      } else await this.takeStored(step);
    }
    if (options.method.needs !== "weights") {
      for (const chunk of chunks) {
        chunk.operated = await this.timed("forward", () =>
          runner.forwardLayer(layer, chunk.operated, { supplied: this.supplied }),
        );
      }
    }
    return this.result();
  }

  private result(): LayerResult {
    return { layer: this.layer, tensors: this.tensors, seconds: this.seconds };
  }

  private targets(step: Step): Projection[] {
    const { isTarget } = this.options;
    return this.runner.projections(this.layer, step).filter(({ tensor }) => isTarget?.(tensor) ?? true);
  }

  private isAnyMissing(step: Step): boolean {
    return this.targets(step).some(({ tensor }) => !(this.options.isDone?.(tensor) ?? false));
  }

  private async takeStored(step: Step): Promise<void> {
    for (const { tensor } of this.targets(step)) {
      const { dtype } = await readTensor(this.runner.donor, tensor);
      this.supplied.set(tensor, decodeFloats(await this.options.stored!(tensor), dtype, "copy"));
    }
  }

  /** Throws `DONOR_NON_FINITE` where what a step's projections see is no number. */
  private checkFinite(step: Step, { inputs, tiled }: Pick<PruneTask, "inputs" | "tiled">): void {
    const size =
      tiled?.meanEnergy ?? (inputs === undefined ? 0 : meanEnergyOf(inputs.gram, Math.sqrt(inputs.gram.length)));
    if (Number.isFinite(size)) return;
    throw new PhysariumError(
      "DONOR_NON_FINITE",
      `layer ${this.layer}: the inputs of ${step} are NaN or infinite on the calibration tokens; a weight the forward pass reads before them is damaged (NaN, infinite), or the activations overflow`,
      { layer: this.layer, step },
    );
  }

  private async gather(
    step: Step,
    states: readonly { donor: LayerState | undefined; operated: LayerState }[],
  ): Promise<Pick<PruneTask, "inputs" | "tiled">> {
    const { engine, gramOf } = this.options;
    const cols = states[0].operated.input!.width;
    const chunks = await this.inputChunks(step, states);
    if (gramOf?.(cols) === "tile") {
      return { tiled: await this.timed("gram", async () => tiledStatistics(chunks, cols, engine)) };
    }
    const collector = new StatisticsCollector(
      cols,
      engine,
      chunks.some(({ donor }) => donor !== undefined),
    );
    for (const { operated, donor, drift, weights } of chunks) {
      const weigh = (values: Float32Array) => (weights === undefined ? values : weighTokens(values, weights));
      const input = weigh(operated);
      await this.timed("gram", () => collector.add(input, donor === undefined ? undefined : weigh(donor)));
      if (drift === undefined) continue;
      const width = states[0].operated.residual.width;
      await this.timed("gram", () => collector.addDrift(input, weigh(drift), width));
    }
    return { inputs: collector.finish() };
  }

  /** What a step's projections see; the donor's part only once the streams have parted. */
  private async inputChunks(
    step: Step,
    states: readonly { donor: LayerState | undefined; operated: LayerState }[],
  ): Promise<InputChunk[]> {
    const havePartedWays = states.some(({ donor, operated }) => donor !== undefined && donor !== operated);
    // Where a norm stands between projection and residual stream, its output is not what is added.
    const meetsResidual = (step === "o" || step === "down") && !this.runner.architecture.sandwichNorms;
    const chunks: InputChunk[] = [];
    for (const { operated, donor } of states) {
      const weights = await this.tokenWeights(step, donor ?? operated);
      chunks.push({
        operated: operated.input!.data,
        ...(weights === undefined ? {} : { weights }),
        ...(donor === undefined || !havePartedWays ? {} : { donor: donor.input!.data }),
        ...(donor === undefined || !havePartedWays || !meetsResidual
          ? {}
          : { drift: donor.residual.data.map((value, at) => value - operated.residual.data[at]) }),
      });
    }
    return chunks;
  }

  /**
   * How much each token counts. What is added to the residual stream h is divided by its size in the next norm, so an error there counts relative to rms(h);
   * errors in gate and up count as much as the neurons pass on of them. What enters attention counts alike everywhere.
   */
  private async tokenWeights(step: Step, { input, residual }: LayerState): Promise<Float64Array | undefined> {
    if (step === "qkv" || this.options.weighTokens === false) return undefined;
    const { sandwichNorms } = this.runner.architecture;
    if (step === "gate_up") {
      const heard = await this.timed("forward", () => this.runner.listening(this.layer, input!));
      const sizes = sandwichNorms ? undefined : inverseSizes(residual);
      return Float64Array.from(heard, (value, token) => Math.sqrt(value) * (sizes?.[token] ?? 1));
    }
    return sandwichNorms ? undefined : inverseSizes(residual);
  }

  private async operate(step: Step, statistics: Pick<PruneTask, "inputs" | "tiled">): Promise<void> {
    const { runner, layer, options } = this;
    for (const { tensor, projection, rows, cols } of this.targets(step)) {
      refuseStopped(options.signal);
      const started = performance.now();
      const { dtype, values } = await readTensor(runner.donor, tensor);
      const { target } = options;
      const result = await options.method.prune({
        name: tensor,
        rows,
        cols,
        weights: values,
        target: typeof target === "function" ? target(tensor) : target,
        ...statistics,
        engine: options.engine,
        ...(options.blocks === undefined ? {} : { blocks: options.blocks }),
        signal: options.signal,
      });
      const bytes = encodeFloats(result.weights, dtype, MOVED_WEIGHTS);
      const stored = decodeFloats(bytes, dtype, "copy");
      this.supplied.set(tensor, stored);
      let zeros = 0;
      let survivorsChanged = 0;
      for (let at = 0; at < stored.length; at++) {
        if (stored[at] === 0) zeros++;
        else if (stored[at] !== values[at]) survivorsChanged++;
      }
      const seconds = (performance.now() - started) / 1000;
      this.seconds.methods += seconds;
      this.tensors.push({
        name: tensor,
        layer,
        projection,
        step,
        dtype,
        rows,
        cols,
        bytes,
        zeros,
        survivorsChanged,
        stages: result.stages,
        gram: statistics.tiled === undefined ? "whole" : "tiles",
        ...(result.exchangedShare === undefined ? {} : { exchangedShare: result.exchangedShare }),
        ...(result.products === undefined ? {} : { products: result.products }),
        seconds,
      });
    }
  }

  private async timed<T>(part: "forward" | "gram", work: () => Promise<T>): Promise<T> {
    refuseStopped(this.options.signal);
    const started = performance.now();
    try {
      return await work();
    } finally {
      this.seconds[part] += (performance.now() - started) / 1000;
    }
  }
}

/** 1 / rms(h) of each token's residual stream h. */
function inverseSizes({ data, width }: Activations): Float64Array {
  const sizes = new Float64Array(data.length / width);
  for (let token = 0; token < sizes.length; token++) {
    let sum = 0;
    for (let at = token * width, end = at + width; at < end; at++) sum += data[at] ** 2;
    sizes[token] = sum > 0 ? 1 / Math.sqrt(sum / width) : 0;
  }
  return sizes;
}

/** Each token's row of `values` (tokens, width), times its weight. */
function weighTokens(values: Float32Array, weights: Float64Array): Float32Array {
  const width = values.length / weights.length;
  const out = new Float32Array(values.length);
  for (let token = 0; token < weights.length; token++) {
    for (let at = token * width, end = at + width; at < end; at++) out[at] = values[at] * weights[token];
  }
  return out;
}
