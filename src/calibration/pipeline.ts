import type { MatrixEngine } from "../engine/products.js";
import { PhysariumError, refuseStopped } from "../errors.js";
import { holdOut } from "../matching/lessons.js";
import { type MatchOptions, matchLayer } from "../matching/match-layer.js";
import { meanEnergyOf } from "../methods/algebra/damped.js";
import type { PruneMethod, PruneResult, PruneTarget } from "../methods/method.js";
import type { BlockRunner } from "../methods/rows/runner.js";
import type { Site } from "../model/sites.js";
import { type Projection, STEPS, suppliedName } from "../model/steps.js";
import { trainedBy } from "../probe/forward/layer-gradient.js";
import type { LayerRunner } from "../probe/forward/layer-runner.js";
import { batchesOf } from "../probe/text/batches.js";
import type { MatchRecord } from "../record/matching.js";
import { tempered } from "./few-tokens.js";
import { type SiteStatistics, StoredGrams } from "./grams/stored-grams.js";
import { type OperatedTensor, suppliedFrom, TensorBytes, TensorUnderWork } from "./operated-tensor.js";
import { StatisticsCollector, tiledStatistics } from "./statistics.js";
import { type Chunk, LayerStreams, weighed } from "./streams.js";

export interface LayerResult {
  readonly layer: number;
  readonly tensors: readonly OperatedTensor[];
  /** What matching the layer as a whole gained, where it was asked for. */
  readonly match?: MatchRecord;
  /** Where the layer's time went. */
  readonly seconds: {
    readonly forward: number;
    readonly gram: number;
    readonly methods: number;
    readonly match: number;
  };
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
  /**
   * Whether the Gram of a place with so many inputs is held whole or used in tiles; default whole. Only methods in
   * four steps know tiles.
   */
  readonly gramOf?: (cols: number) => "full" | "tile";
  /** Whether tokens count relative to the size of their residual stream where something is added to it; default so. */
  readonly weighTokens?: boolean;
  /** Tokens run through a step at once. */
  readonly chunkTokens?: number;
  /** v3: once a layer was operated on, its survivors move together until its output is the donor's. */
  readonly match?: MatchOptions;
  /**
   * Tensors an interrupted run has operated on, and their stored bytes: they are run through, not operated on again.
   */
  readonly isDone?: (tensor: string) => boolean;
  readonly stored?: (tensor: string) => Promise<Uint8Array>;
  /** v3: the rate that the layer of such a tensor took: the search in the next one begins there, interrupted or not. */
  readonly matchRate?: (tensor: string) => number | undefined;
  /** Stops the work, throwing `STOPPED`: what was yielded before stays good. */
  readonly signal?: AbortSignal | undefined;
}

const CHUNK_TOKENS = 4096;

/**
 * Operate on a model layer by layer, each on the inputs that the already operated part produces; yields a layer's
 * tensors when it is done.
 *
 * calibration  token ids of the calibration text (those of one length are run together), or Grams collected before:
 *              then nothing is run, and
 *              every layer is operated on the donor's own inputs
 * Layers behind the last one with a target are not run.
 * Two streams (the donor's and the operated model's activations) run side by side where the method asks for both. The
 * same
 * sequences, options and engine give the same bytes.
 */
export async function* operateLayers(
  runner: LayerRunner,
  calibration: readonly ArrayLike<number>[] | StoredGrams,
  options: PipelineOptions,
): AsyncGenerator<LayerResult> {
  const chunks: Chunk[] = [];
  const grams = calibration instanceof StoredGrams ? calibration : undefined;
  const sequences = calibration instanceof StoredGrams ? [] : calibration;
  const needsDonor = options.method.needs === "both" || options.match !== undefined;
  const { taught, heldOut } = options.match === undefined ? { taught: sequences, heldOut: [] } : holdOut(sequences);
  for (const [part, isHeldOut] of [
    [taught, false],
    [heldOut, true],
  ] as const) {
    for (const batch of batchesOf(part, ({ length }) => length, options.chunkTokens ?? CHUNK_TOKENS)) {
      const residual = await runner.embed(batch);
      chunks.push({ operated: residual, donor: needsDonor ? residual : undefined, isHeldOut });
    }
  }
  const { isTarget = () => true } = options;
  let last = runner.layerCount - 1;
  while (last >= 0 && !runner.projections(last).some(({ tensor }) => isTarget(tensor))) last--;
  let { match } = options;
  for (let layer = 0; layer <= last; layer++) {
    const work = new LayerWork(runner, layer, { ...options, ...(match === undefined ? {} : { match }) }, chunks);
    const result = await (grams === undefined ? work.run() : work.runOnGrams(grams));
    await runner.closeLayer(layer);
    yield result;
    // Layers are alike: the search begins where the last one ended.
    const rate = result.match?.rate ?? work.earlierRate;
    if (rate !== undefined && match !== undefined) match = { ...match, firstRate: rate };
  }
}

class LayerWork {
  private readonly tensors: OperatedTensor[] = [];
  private readonly supplied = new Map<string, Float32Array>();
  /** Stacks whose matrices are not all done, and stacks that an earlier run did. */
  private readonly under = new Map<string, TensorUnderWork>();
  private readonly stored = new Map<string, Uint8Array>();
  private readonly seconds = { forward: 0, gram: 0, methods: 0, match: 0 };
  private matched: MatchRecord | undefined;

  constructor(
    private readonly runner: LayerRunner,
    private readonly layer: number,
    private readonly options: PipelineOptions,
    private readonly chunks: Chunk[],
  ) {}

  /** Operate on the layer, and match it where that is asked for; `chunks` leave it as it is then. */
  async run(): Promise<LayerResult> {
    const { options, chunks } = this;
    const entered = [...chunks];
    const isWhole = !this.runner.sites(this.layer).some((site) => this.isAnyMissing(site));
    if (options.method.steps === "four") await this.runInFourSteps();
    else await this.runAtOnce();
    if (options.match !== undefined && !isWhole) await this.match(options.match, entered);
    return this.result();
  }

  /** The rate of a layer that an earlier run matched. */
  get earlierRate(): number | undefined {
    const { runner, layer, options } = this;
    const [place] = runner.sites(layer).flatMap((site) => this.targets(site));
    return place === undefined ? undefined : options.matchRate?.(place.tensor);
  }

  /** Each site's statistics come from the sites before it, operated on. */
  private async runInFourSteps(): Promise<void> {
    const { runner, layer, chunks } = this;
    const streams = await LayerStreams.enter(runner, layer, chunks, (work) => this.timed("forward", work));
    for (const step of STEPS) {
      for (const site of runner.sites(layer, step)) {
        if (this.isAnyMissing(site)) await this.operate(site, await this.gather(site, streams));
        else await this.takeStored(site);
      }
      await streams.advance(step, this.supplied);
    }
    chunks.splice(0, chunks.length, ...streams.leave());
  }

  /** All statistics of the layer from one pass with the donor's weights, then a second pass with the new ones. */
  private async runAtOnce(): Promise<void> {
    const { runner, layer, chunks, options } = this;
    const sites = runner.sites(layer);
    const collected = new Map<string, SiteStatistics>();
    if (options.method.needs !== "weights" && sites.some((site) => this.isAnyMissing(site))) {
      const streams = await LayerStreams.enter(
        runner,
        layer,
        chunks.map((chunk) => ({ ...chunk, donor: undefined })),
        (work) => this.timed("forward", work),
      );
      for (const step of STEPS) {
        for (const site of runner.sites(layer, step)) collected.set(site.name, await this.gather(site, streams, false));
        await streams.advance(step, new Map());
      }
    }
    for (const site of sites) {
      if (this.isAnyMissing(site)) await this.operate(site, collected.get(site.name) ?? {});
      else await this.takeStored(site);
    }
    if (options.method.needs === "weights" && options.match === undefined) return;
    for (const [at, chunk] of chunks.entries()) {
      const { operated, donor } = chunk;
      const supplied = this.supplied;
      const out = await this.timed("forward", () => runner.forwardLayer(layer, operated, { supplied }));
      const own = donor && (await this.timed("forward", () => runner.forwardLayer(layer, donor)));
      chunks[at] = { ...chunk, operated: out, donor: own };
    }
  }

  /** Move the layer's survivors together; what leaves it is run anew with the weights as they will be stored. */
  private async match(options: MatchOptions, entered: readonly Chunk[]): Promise<void> {
    const { runner, layer, chunks, supplied } = this;
    const places = runner.sites(layer).flatMap((site) => this.targets(site));
    if (places.length === 0) return;
    const started = performance.now();
    this.matched = await matchLayer(
      runner,
      layer,
      chunks.map(({ donor, isHeldOut = false }, at) => ({
        residual: entered[at].operated,
        output: donor!,
        isHeldOut,
      })),
      places.map(trainedBy),
      supplied,
      options,
      this.options.signal,
    );
    for (const [at, operated] of this.tensors.entries()) {
      const own = places.filter(({ tensor }) => tensor === operated.name);
      const stored = new TensorBytes(own[0], operated.dtype, true);
      for (const place of own) {
        const name = suppliedName(place);
        // From here on the layer computes with what the file will hold.
        supplied.set(name, stored.take(place, await runner.weight(place), supplied.get(name)!));
      }
      this.tensors[at] = { ...operated, ...stored.finish() };
    }
    this.seconds.match += (performance.now() - started) / 1000;
    for (const [at, chunk] of chunks.entries()) {
      const { operated } = entered[at];
      const out = await this.timed("forward", () => runner.forwardLayer(layer, operated, { supplied }));
      chunks[at] = { ...chunk, operated: out };
    }
  }

  /** Statistics as they were collected; what an earlier run finished needs nothing more. */
  async runOnGrams(grams: StoredGrams): Promise<LayerResult> {
    const { runner, layer, options } = this;
    for (const site of runner.sites(layer)) {
      if (!this.isAnyMissing(site)) continue;
      const mode = options.gramOf?.(site.width) ?? "full";
      const statistics =
        options.method.needs === "weights" ? {} : await this.timed("gram", () => grams.statistics(layer, site, mode));
      await this.operate(site, statistics);
      this.supplied.clear();
    }
    return this.result();
  }

  private result(): LayerResult {
    const { layer, tensors, seconds, matched } = this;
    return { layer, tensors, seconds, ...(matched === undefined ? {} : { match: matched }) };
  }

  private targets({ projections }: Site): Projection[] {
    const { isTarget } = this.options;
    return projections.filter(({ tensor }) => isTarget?.(tensor) ?? true);
  }

  private isAnyMissing(site: Site): boolean {
    const { match, isDone = () => false } = this.options;
    // A layer that is matched is matched as a whole: one tensor missing makes all of it anew.
    const together = match === undefined ? [site] : this.runner.sites(this.layer);
    return (
      this.targets(site).length > 0 && together.some((each) => this.targets(each).some(({ tensor }) => !isDone(tensor)))
    );
  }

  private async takeStored(site: Site): Promise<void> {
    for (const place of this.targets(site)) {
      const { tensor } = place;
      const bytes = this.stored.get(tensor) ?? (await this.options.stored!(tensor));
      // A stack is read once for all its matrices.
      if (place.stack !== undefined) this.stored.set(tensor, bytes);
      this.supplied.set(...suppliedFrom(bytes, this.runner.stored(place).dtype, place));
    }
  }

  /** Throws `DONOR_NON_FINITE` where what a site's projections see is no number. */
  private checkFinite({ name }: Site, { inputs, tiled }: SiteStatistics): void {
    const size =
      tiled?.meanEnergy ?? (inputs === undefined ? 0 : meanEnergyOf(inputs.gram, Math.sqrt(inputs.gram.length)));
    if (Number.isFinite(size)) return;
    throw new PhysariumError(
      "DONOR_NON_FINITE",
      `layer ${this.layer}: the inputs of ${name} are NaN or infinite on the calibration tokens; a weight the ` +
        "forward pass reads before them is damaged (NaN, infinite), or the activations overflow",
      { layer: this.layer, step: name },
    );
  }

  private async gather(site: Site, streams: LayerStreams, isMine = true): Promise<SiteStatistics> {
    const { engine, gramOf, method, weighTokens = true } = this.options;
    const cols = site.width;
    const chunks = await streams.inputs(site, this.supplied, isMine && weighTokens);
    const seen =
      site.expert === undefined
        ? {}
        : { tokens: chunks.reduce((sum, { operated }) => sum + operated.length, 0) / cols };
    if (isMine && gramOf?.(cols) === "tile") {
      return { tiled: await this.timed("gram", async () => tiledStatistics(chunks, cols, engine)), ...seen };
    }
    const haveParted = chunks.some(({ donor }) => donor !== undefined);
    const collector = new StatisticsCollector(cols, engine, haveParted, method.needsMean);
    // Fresh memory costs a page fault a page: as much as what is computed in it.
    const rooms: Float32Array[] = [];
    for (const { operated, donor, drift, weights } of chunks) {
      const weigh = (values: Float32Array, room: number) => {
        if (weights === undefined) return values;
        if (!(rooms[room]?.length >= values.length)) rooms[room] = new Float32Array(values.length);
        return weighed(values, weights, rooms[room]);
      };
      const input = weigh(operated, 0);
      await this.timed("gram", () => collector.add(input, donor === undefined ? undefined : weigh(donor, 1)));
      if (drift === undefined) continue;
      await this.timed("gram", () => collector.addDrift(input, weigh(drift, 1), streams.residualWidth));
    }
    return { inputs: collector.finish(), ...seen };
  }

  private async operate(site: Site, { tokens, ...seen }: SiteStatistics): Promise<void> {
    const { runner, options } = this;
    const statistics = tokens === undefined ? seen : tempered(seen, tokens, site.width);
    this.checkFinite(site, statistics);
    for (const place of this.targets(site)) {
      refuseStopped(options.signal);
      const started = performance.now();
      const { tensor, rows, cols } = place;
      const values = await finiteWeight(runner, place);
      const { target } = options;
      const pruned = await options.method.prune({
        name: suppliedName(place),
        rows,
        cols,
        weights: values,
        target: typeof target === "function" ? target(tensor) : target,
        ...statistics,
        engine: options.engine,
        ...(options.blocks === undefined ? {} : { blocks: options.blocks }),
        signal: options.signal,
      });
      const result = tokens === 0 ? withDonorsBits(pruned, values) : pruned;
      const work = this.under.get(tensor) ?? new TensorUnderWork(this.layer, place, runner.stored(place).dtype);
      this.under.set(tensor, work);
      const seconds = (performance.now() - started) / 1000;
      const gram = statistics.tiled === undefined ? "whole" : "tiles";
      this.supplied.set(
        suppliedName(place),
        work.take(place, values, { result, gram, ...(tokens === undefined ? {} : { tokens }), seconds }),
      );
      this.seconds.methods += seconds;
      if (!work.isDone) continue;
      this.tensors.push(work.finish());
      this.under.delete(tensor);
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

/** The donor's weight of a projection. Throws `DONOR_NON_FINITE`: the flow has no answer to an infinite weight. */
async function finiteWeight(runner: LayerRunner, projection: Projection): Promise<Float32Array> {
  const values = await runner.weight(projection);
  const bad = values.findIndex((value) => !Number.isFinite(value));
  if (bad < 0) return values;
  const { shard } = runner.stored(projection);
  const { tensor, cols } = projection;
  throw new PhysariumError(
    "DONOR_NON_FINITE",
    `${shard}: tensor "${tensor}" holds ${values[bad]} at row ${Math.floor(bad / cols)}, column ${bad % cols}; the ` +
      "activation flow needs finite weights",
    { tensor, element: bad },
  );
}

/** Nothing was learnt that survivors could be moved by. */
function withDonorsBits(result: PruneResult, donor: Float32Array): PruneResult {
  return { ...result, weights: donor.map((weight, at) => (result.alive[at] === 1 ? weight : 0)) };
}
