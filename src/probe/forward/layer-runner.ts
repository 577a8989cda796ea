import type { Donor, Model } from "../../checkpoint/donor.js";
import { OnnxGraph } from "../../engine/onnx-graph.js";
import { Engine, type Feeds, floats, type Tensor } from "../../engine/session.js";
import { PhysariumError } from "../../errors.js";
import type { Architecture } from "../../model/architecture.js";
import { projectionsOf, type Site, sitesOf } from "../../model/sites.js";
import { inputWidth, type Projection, STEPS, type Step, storedShape, suppliedName } from "../../model/steps.js";
import type { Activations, KvCache, LayerState, SuppliedWeights } from "./activations.js";
import { carriedFeeds, carriedOutputs, withCarried } from "./carried.js";
import { POSITION_INPUTS } from "./graph-parts.js";
import { embeddingGraph, finalNormGraph, logitsGraph, vocabularyChunks } from "./head-graph.js";
import { inspectModel } from "./inspect-model.js";
import { blockGraph, listeningGraph, stepGraph } from "./layer-graph.js";
import { Places, placesOf } from "./places.js";
import { keepsKeysAlone, runAnew } from "./run-anew.js";
import { type Keeping, type RunnerOptions, whatToKeep } from "./runner-options.js";
import { SessionShelf } from "./session-shelf.js";
import { tokenRows } from "./token-rows.js";
import { type StoredTensor, storedValue, type Weights } from "./weights.js";

export type { Activations, KvCache, LayerState, SuppliedWeights } from "./activations.js";
export type { RunnerOptions, Workload } from "./runner-options.js";

/**
 * A model that runs straight from its checkpoint, whole or layer by layer.
 *
 * ```ts
 * const runner = await LayerRunner.open("path/of/model");
 * let residual = await runner.embed([[1, 2, 3]]);
 * for (let layer = 0; layer < runner.layerCount; layer++) {
 *   let state = await runner.begin(layer, residual);            // state.input: what q, k, v multiply
 *   for (const step of STEPS) {                                 // qkv → o → gate_up → down
 *     collect(runner.projections(layer, step), state.input!);   // (batch, tokens, cols): the inputs of this step's
 *     projections
 *     const operated = new Map([[tensorName, newWeights]]);     // optional: f32 (rows, cols), instead of the file's
 *     state = await runner.advance(layer, step, state, operated);
 *   }
 *   residual = state.residual;
 *   await runner.closeLayer(layer);                             // sessions of steps are kept until then
 * }
 * const logits = await runner.logits(residual);
 * await runner.close();
 * ```
 *
 * So every step can see the inputs that the already operated part produces. `forward` takes all layers at once and is
 * faster where nobody looks in between. Sequences of a batch have one length; a shorter one is padded on the right,
 * where causal attention never looks.
 *
 * Weights stay in their files. Either they are mapped and each run casts what it uses, one matrix at a time, or (see
 * `RunnerOptions`) an f32 copy is kept that multiplies a fifth faster.
 *
 * Throws `DONOR_ARCHITECTURE`, `DONOR_CONFIG`, `DONOR_ROPE`, `DONOR_QUANTISED`, `DONOR_TENSOR_*` or `DONOR_SHAPE` at
 * `open`, for everything that is wrong with the model; `USAGE_ENGINE_MISSING` without onnxruntime-node.
 */
export class LayerRunner {
  private readonly shelf: SessionShelf;
  private readonly places: Places;

  private constructor(
    readonly donor: Donor,
    readonly architecture: Architecture,
    readonly weights: Weights,
    readonly engine: Engine,
    readonly keeping: Keeping,
  ) {
    this.shelf = new SessionShelf(engine, keeping.copies, keeping.sessions);
    this.places = new Places(architecture, engine);
  }

  static async open(model: Model, options: RunnerOptions = {}): Promise<LayerRunner> {
    const { donor, architecture, weights } = await inspectModel(model);
    const engine = options.engine ?? (await Engine.open(options));
    return new LayerRunner(donor, architecture, weights, engine, whatToKeep(weights, engine, options));
  }

  /**
   * The same model on the same engine, with sessions of its own and as much memory for f32 copies of weights as is said
   * here.
   */
  withMemory(memoryBytes: number): LayerRunner {
    const { donor, architecture, weights, engine } = this;
    return new LayerRunner(donor, architecture, weights, engine, whatToKeep(weights, engine, { memoryBytes }));
  }

  get layerCount(): number {
    return this.architecture.layerCount;
  }

  /** The projections of a layer, or of one step of it: names, shapes, in the order of the forward pass. */
  projections(layer: number, step?: Step): Projection[] {
    const all = projectionsOf(this.architecture, this.weights.prefix, layer);
    return step === undefined ? all : all.filter((projection) => projection.step === step);
  }

  /** Where inputs meet weights in a layer, or in one step of it. */
  sites(layer: number, step?: Step): Site[] {
    const all = sitesOf(this.architecture, this.weights.prefix, layer);
    return step === undefined ? all : all.filter((site) => site.step === step);
  }

  /** The tensor of a projection, as the checkpoint stores it. */
  stored(projection: Projection): StoredTensor {
    return this.weights.get(projection.tensor, storedShape(projection));
  }

  /**
   * The checkpoint's own weight of a projection: f32, row-major (rows, cols). It comes through the engine's mapping of
   * the file, out of the pages that the forward pass uses beside: nothing is read twice.
   */
  async weight(projection: Projection): Promise<Float32Array> {
    const graph = new OnnxGraph();
    const { rows, cols, transposed, stack } = projection;
    let value = storedValue(graph, this.stored(projection), stack?.index, stack && stack.index + 1);
    if (stack !== undefined)
      value = graph.op("Reshape", [value, graph.integers(...(transposed ? [cols, rows] : [rows, cols]))]);
    if (transposed) value = graph.op("Transpose", [value], { perm: [1n, 0n] });
    graph.output("weight", value, "FLOAT", [rows, cols]);
    const session = await this.engine.session(graph, false);
    try {
      return floats((await session.run({})).weight);
    } finally {
      await session.close();
    }
  }

  /**
   * Look up sequences of one length, `past` tokens behind the start → residual (batch, tokens, hidden). Throws
   * `DONOR_TOKEN` for an id outside the vocabulary.
   */
  async embed(sequences: readonly ArrayLike<number>[], past = 0): Promise<Activations> {
    const batch = sequences.length;
    const tokens = sequences[0].length;
    const ids = new BigInt64Array(batch * tokens);
    sequences.forEach((sequence, row) => {
      if (sequence.length !== tokens) throw new PhysariumError("INTERNAL", "sequences of a batch differ in length");
      for (let place = 0; place < tokens; place++) {
        const id = sequence[place];
        if (!(Number.isInteger(id) && id >= 0 && id < this.architecture.vocabSize)) {
          throw new PhysariumError(
            "DONOR_TOKEN",
            `token ${id} is none of the model's vocabulary of ${this.architecture.vocabSize}; tokenizer and model ` +
              "do not belong together",
            { token: id },
          );
        }
        ids[row * tokens + place] = BigInt(id);
      }
    });
    const { hiddenSize } = this.architecture;
    const feeds: Feeds = { token_ids: this.engine.i64(ids, [batch, tokens]) };
    if (!this.weights.isMapped) {
      const table = this.weights.get(this.weights.embedding, [this.architecture.vocabSize, hiddenSize]);
      feeds.token_rows = this.engine.f32(await tokenRows(table, ids), [batch, tokens, hiddenSize]);
    }
    if (this.architecture.learnedPositions !== undefined) {
      feeds[POSITION_INPUTS.ids] = this.engine.i64(placesOf(batch, tokens, past), [batch, tokens]);
    }
    const outputs = await this.shelf.run("embedding", () => embeddingGraph(this), feeds);
    return withCarried({ data: floats(outputs.residual), batch, tokens, width: hiddenSize }, outputs);
  }

  /** All layers, or layers `[layerStart, layerEnd)`: residual → residual. */
  async forward(residual: Activations, layerStart = 0, layerEnd = this.layerCount): Promise<Activations> {
    const feeds: Feeds = {
      residual_in: this.tensorOf(residual),
      ...this.places.feeds(residual.batch, residual.tokens, 0),
      ...carriedFeeds(residual, this.engine),
    };
    let left = residual;
    for (const [start, end] of this.blocks(layerStart, layerEnd)) {
      const build = () => blockGraph(this.architecture, this.weights, start, end, { portable: this.engine.portable });
      const outputs = await this.shelf.run(`layers ${start}-${end}`, build, feeds);
      Object.assign(feeds, carriedOutputs(outputs), { residual_in: outputs.residual });
      left = withCarried(left, outputs);
    }
    return { ...left, data: floats(feeds.residual_in) };
  }

  /** Enter a layer: its first norm. */
  async begin(layer: number, residual: Activations): Promise<LayerState> {
    const build = () => stepGraph(this.architecture, this.weights, layer, true, [], { portable: this.engine.portable });
    const feeds = { residual_in: this.tensorOf(residual), ...carriedFeeds(residual, this.engine) };
    const outputs = await this.shelf.run(`${layer}: begin`, build, feeds);
    return { residual, input: { ...residual, data: floats(outputs.input_qkv) } };
  }

  /**
   * Take one step of a layer, with `supplied` weights where given, and the checkpoint's elsewhere. Steps come in the
   * order of `STEPS`.
   */
  async advance(layer: number, step: Step, state: LayerState, supplied?: SuppliedWeights): Promise<LayerState> {
    const { input, residual } = state;
    if (input === undefined || input.width !== inputWidth(this.architecture, step, layer)) {
      throw new PhysariumError("INTERNAL", `step ${step} was asked of a state that does not stand before it`);
    }
    // A mixture of experts takes place at down as a whole.
    const isMixture = this.architecture.layers[layer].experts !== undefined;
    const acting = this.projections(layer).filter(
      (each) => (isMixture && each.step === "gate_up" ? "down" : each.step) === step,
    );
    const here = acting.filter((projection) => supplied?.has(suppliedName(projection)));
    const names = new Set(here.map(suppliedName));
    const build = () =>
      stepGraph(this.architecture, this.weights, layer, false, [step], {
        portable: this.engine.portable,
        supplied: names,
      });
    const feeds: Feeds = { [`given_${step}`]: this.tensorOf(input) };
    this.feedSupplied(feeds, here, supplied);
    if (step === "qkv") Object.assign(feeds, this.places.feeds(input.batch, input.tokens, 0));
    if (step === "o" || step === "down") feeds.residual_in = this.tensorOf(residual);
    Object.assign(feeds, carriedFeeds(residual, this.engine));
    const outputs = await this.shelf.run(`${layer}: ${step} ${[...names].join()}`, build, feeds);
    const stream = withCarried(residual, outputs);
    const next = STEPS[STEPS.indexOf(step) + 1] as Step | undefined;
    return {
      residual: outputs.residual === undefined ? stream : { ...stream, data: floats(outputs.residual) },
      input:
        next === undefined
          ? undefined
          : { ...input, width: inputWidth(this.architecture, next, layer), data: floats(outputs[`input_${next}`]) },
    };
  }

  /**
   * How much of an error in gate and up each token passes on to the output of down, in the donor's own weights: Σ_i
   * |down_i|² (f(g_i)² + (u_i f′(g_i))²) over
   * the neurons i. `input` is that of the step gate_up; returns one number a token, ≥ 0.
   */
  async listening(layer: number, input: Activations): Promise<Float32Array> {
    const build = () => listeningGraph(this.architecture, this.weights, layer, { portable: this.engine.portable });
    const feeds = { given_gate_up: this.tensorOf(input) };
    return floats((await this.shelf.run(`${layer}: listening`, build, feeds)).listening);
  }

  /**
   * One layer, residual → residual, giving `onInput` the input of every step on the way; `supplied` weights take the
   * place of the checkpoint's.
   */
  async forwardLayer(
    layer: number,
    residual: Activations,
    options: { supplied?: SuppliedWeights; onInput?: (step: Step, input: Activations) => void | Promise<void> } = {},
  ): Promise<Activations> {
    let state = await this.begin(layer, residual);
    for (const step of STEPS) {
      await options.onInput?.(step, state.input!);
      state = await this.advance(layer, step, state, options.supplied);
    }
    return state.residual;
  }

  /**
   * Final norm and output matrix: residual → logits (batch, tokens, vocabulary). For few places; texts are scored by
   * `Scorer`.
   */
  async logits(residual: Activations): Promise<Activations> {
    const { vocabSize } = this.architecture;
    const places = residual.batch * residual.tokens;
    const data = new Float32Array(places * vocabSize);
    const normed = await this.finalNorm(residual);
    for (const chunk of vocabularyChunks(this.architecture)) {
      const build = () => logitsGraph(this, chunk, this.engine.portable);
      const logits = floats((await this.shelf.run(`logits ${chunk[0]}`, build, { normed_0: normed })).logits);
      const width = chunk[1] - chunk[0];
      for (let place = 0; place < places; place++) {
        data.set(logits.subarray(place * width, (place + 1) * width), place * vocabSize + chunk[0]);
      }
    }
    return { ...residual, width: vocabSize, data };
  }

  /** residual → what the output matrix multiplies. */
  async headInput(residual: Activations): Promise<Activations> {
    return { ...residual, data: floats(await this.finalNorm(residual)) };
  }

  /** residual → the normed activations that the output matrix multiplies, as the engine holds them. */
  async finalNorm(residual: Activations): Promise<Tensor> {
    const feeds = { residual: this.tensorOf(residual) };
    return (await this.shelf.run("final norm", () => finalNormGraph(this), feeds)).normed;
  }

  /**
   * Run more tokens behind `cache` (or from the start) → residual of these tokens and the cache with them; `supplied`
   * weights take the place of the checkpoint's.
   */
  async extend(
    sequences: readonly ArrayLike<number>[],
    cache?: KvCache,
    supplied?: SuppliedWeights,
  ): Promise<{ residual: Activations; cache: KvCache }> {
    this.refuseLookingAhead();
    if (!this.architecture.layers.every(keepsKeysAlone)) return runAnew(this, sequences, cache, supplied);
    const past = cache?.tokens ?? 0;
    const embedded = await this.embed(sequences, past);
    const { batch, tokens } = embedded;
    const { kvHeadCount, headDim } = this.architecture;
    const common = { ...this.places.feeds(batch, tokens, past), ...carriedFeeds(embedded, this.engine) };
    const none = this.engine.f32(new Float32Array(0), [batch, kvHeadCount, 0, headDim]);
    const keys: Tensor[] = [];
    const values: Tensor[] = [];
    let residual = this.tensorOf(embedded);
    for (const [start, end] of this.blocks(0, this.layerCount)) {
      const feeds: Feeds = { ...common, residual_in: residual };
      const names = new Set<string>();
      for (let layer = start; layer < end; layer++) {
        const here = this.projections(layer).filter((projection) => supplied?.has(suppliedName(projection)));
        for (const projection of here) names.add(suppliedName(projection));
        this.feedSupplied(feeds, here, supplied);
        feeds[`past_key_${layer}`] = cache?.keys[layer] ?? none;
        feeds[`past_value_${layer}`] = cache?.values[layer] ?? none;
      }
      const options = { portable: this.engine.portable, cache: true, supplied: names };
      const build = () => blockGraph(this.architecture, this.weights, start, end, options);
      const outputs = await this.shelf.run(`cached ${start}-${end} ${[...names].join()}`, build, feeds);
      residual = outputs.residual;
      for (let layer = start; layer < end; layer++) {
        keys.push(outputs[`present_key_${layer}`]);
        values.push(outputs[`present_value_${layer}`]);
      }
    }
    return {
      residual: { ...embedded, data: floats(residual) },
      cache: { keys, values, batch, tokens: past + tokens },
    };
  }

  /** Throws `DONOR_ARCHITECTURE` for a model that cannot write. */
  refuseLookingAhead(): void {
    if (!this.architecture.bidirectional) return;
    throw new PhysariumError(
      "DONOR_ARCHITECTURE",
      "config.json: use_bidirectional_attention is true: every token looks at those behind it, too, so this model " +
        "embeds texts and writes none; give a text (--calibration) where it would write its own",
    );
  }

  /** Let go of the sessions of one layer's steps, or of those whose keys go on as said. */
  async closeLayer(layer: number, key = ""): Promise<void> {
    await this.shelf.closeWhere((known) => known.startsWith(`${layer}: ${key}`));
  }

  async close(): Promise<void> {
    await this.shelf.closeWhere(() => true);
  }

  /** What graphs with attention are fed for whole sequences; `plain` for attention of standard operators. */
  placeFeeds(batch: number, tokens: number, plain: boolean): Feeds {
    return this.places.feeds(batch, tokens, 0, plain || this.engine.portable);
  }

  tensorOf({ data, batch, tokens, width }: Activations): Tensor {
    return this.engine.f32(data, [batch, tokens, width]);
  }

  /**
   * Layers that share a session: all of them, or one alone where casts happen in each run and the engine would do all
   * of a session's first, or where weights are read into it.
   */
  private blocks(layerStart: number, layerEnd: number): [number, number][] {
    if (this.keeping.copies && this.weights.isMapped) return layerStart < layerEnd ? [[layerStart, layerEnd]] : [];
    return Array.from({ length: layerEnd - layerStart }, (_, at) => [layerStart + at, layerStart + at + 1]);
  }

  /** Put supplied weights where a graph asks for them. */
  feedSupplied(feeds: Feeds, projections: readonly Projection[], supplied: SuppliedWeights | undefined): void {
    for (const projection of projections) {
      const name = suppliedName(projection);
      const weights = supplied?.get(name);
      if (weights !== undefined) feeds[name] = this.engine.f32(weights, [projection.rows, projection.cols]);
    }
  }

  /** Run a graph of this model by its key; those that begin with `<layer>: ` end with `closeLayer`. */
  run(key: string, build: () => OnnxGraph, feeds: Feeds): Promise<Feeds> {
    return this.shelf.run(key, build, feeds);
  }
}
