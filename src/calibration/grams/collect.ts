import { Engine } from "../../engine/session.js";
import { refuseStopped } from "../../errors.js";
import type { Site } from "../../model/sites.js";
import { STEPS } from "../../model/steps.js";
import { InnerInputs } from "../../probe/forward/inner-inputs.js";
import {
  type Activations,
  LayerRunner,
  type LayerState,
  type RunnerOptions,
} from "../../probe/forward/layer-runner.js";
import type { ScoredSequence } from "../../probe/text/protocols.js";
import { insideChunk } from "../inside-step.js";
import { GramAccumulator, type GramKind, GramProduct } from "./gram.js";
import { type GramEntry, GramFileWriter, type GramProvenance } from "./gram-file.js";

export interface CollectOptions extends RunnerOptions {
  readonly kind?: GramKind;
  /** The input of the output matrix, too, as a place `head` behind the last layer. */
  readonly head?: boolean;
  /** Tokens in one run of the engine; changes memory and speed, not the result. */
  readonly batchTokens?: number;
  /** Ends the collection soon, with `STOPPED`. */
  readonly signal?: AbortSignal;
  /** Files read besides the model, the text for one: `writeGrams` does not write over them. */
  readonly inputs?: readonly string[];
  readonly onProgress?: (layersDone: number, layers: number) => void;
}

/** What the inputs of one site's projections are like. */
export interface CollectedGram extends GramEntry {
  /** The site is that of an expert, which saw `tokenCount` tokens of its own. */
  readonly expert?: number;
  /** f32 (width, width), or (width) for norms: see `GramAccumulator.mean`. */
  readonly mean: Float32Array;
  readonly tokenCount: number;
}

/**
 * The Gram matrix E[x xᵀ] of every projection's input (q, k, v share one, gate and up share one, each expert has its
 * own tokens'), layer by layer.
 *
 * In memory lie the residual stream of all tokens (tokens × hidden × 4 bytes) and one step's sums (width² × 8 bytes):
 * each step of a layer runs over the whole text before the next, so that the next layer never waits for a matrix of
 * this one.
 */
export async function* collectGrams(
  runner: LayerRunner,
  sequences: readonly (readonly number[])[],
  options: CollectOptions = {},
): AsyncGenerator<CollectedGram> {
  const { kind = "gram" } = options;
  const product = kind === "gram" ? await GramProduct.open(runner.engine) : undefined;
  try {
    const batches = batchesOf(sequences, options.batchTokens ?? 2048, runner.architecture.bidirectional);
    const residuals: Activations[] = [];
    for (const { ids } of batches) {
      refuseStopped(options.signal);
      residuals.push(await runner.embed(ids));
    }
    for (let layer = 0; layer < runner.layerCount; layer++) {
      const inner = new InnerInputs(runner, layer);
      const states: LayerState[] = [];
      for (const residual of residuals) states.push(await runner.begin(layer, residual));
      for (const step of STEPS) {
        for (const site of runner.sites(layer, step)) {
          const accumulator = new GramAccumulator(site.width, kind, product);
          for (const [number, { lengths }] of batches.entries()) {
            refuseStopped(options.signal);
            const { input } = states[number];
            if (site.source === "step") await accumulator.add(input!, lengths);
            else await accumulator.add(await insideInputs(runner, inner, layer, site, input!, lengths));
          }
          await inner.close();
          const { width, tokenCount } = accumulator;
          const { name, expert } = site;
          const own = expert === undefined ? {} : { expert };
          yield { layer, step: name, width, mean: accumulator.mean(), tokenCount, ...own };
        }
        for (const [number, state] of states.entries()) {
          refuseStopped(options.signal);
          states[number] = await runner.advance(layer, step, state);
        }
      }
      states.forEach(({ residual }, number) => {
        residuals[number] = residual;
      });
      await runner.closeLayer(layer);
      options.onProgress?.(layer + 1, runner.layerCount);
    }
    if (options.head === true) {
      const accumulator = new GramAccumulator(runner.architecture.hiddenSize, kind, product);
      for (const [number, { lengths }] of batches.entries()) {
        refuseStopped(options.signal);
        await accumulator.add(await runner.headInput(residuals[number]), lengths);
      }
      const { width, tokenCount } = accumulator;
      yield { layer: runner.layerCount, step: HEAD, width, mean: accumulator.mean(), tokenCount };
    }
  } finally {
    await product?.close();
  }
}

/** The place of the output matrix, behind the last layer. */
export const HEAD = "head";

/** What a site inside a step sees of a batch, without its padding. */
async function insideInputs(
  runner: LayerRunner,
  inner: InnerInputs,
  layer: number,
  site: Site,
  input: Activations,
  lengths: readonly number[],
): Promise<Activations> {
  const counts = (token: number): boolean => token % input.tokens < lengths[Math.floor(token / input.tokens)];
  const seen = { operated: input, supplied: new Map(), weigh: false, counts };
  const { operated } = await insideChunk(inner, runner.architecture, layer, site, seen);
  return { data: operated, batch: 1, tokens: operated.length / site.width, width: site.width };
}

/** E[x²] of every site's input, in memory: a row a site. */
export function collectNorms(
  modelPath: string,
  sequences: readonly (readonly number[])[],
  options: Omit<CollectOptions, "kind"> = {},
): Promise<CollectedGram[]> {
  return withRunner(modelPath, sequences, options, async (runner) => {
    const norms: CollectedGram[] = [];
    for await (const each of collectGrams(runner, sequences, { ...options, kind: "norms" })) norms.push(each);
    return norms;
  });
}

async function withRunner<T>(
  modelPath: string,
  sequences: readonly (readonly number[])[],
  options: CollectOptions,
  body: (runner: LayerRunner, tokens: number) => Promise<T>,
): Promise<T> {
  const engine = options.engine ?? (await Engine.open(options));
  const tokens = sequences.reduce((sum, ids) => sum + ids.length, 0);
  const workload = { runs: sequences.length, tokens };
  const runner = await LayerRunner.open(modelPath, { workload, ...options, engine });
  try {
    return await body(runner, tokens);
  } finally {
    await runner.close();
  }
}

/** Collect into a safetensors file that says where its numbers come from. */
export async function writeGrams(
  modelPath: string,
  sequences: readonly (readonly number[])[],
  path: string,
  provenance: Omit<GramProvenance, "kind" | "sequences" | "tokens">,
  options: CollectOptions = {},
): Promise<void> {
  await withRunner(modelPath, sequences, options, async (runner, tokens) => {
    const sites = Array.from({ length: runner.layerCount }, (_, layer) =>
      runner.sites(layer).map((site) => ({ layer, ...site })),
    ).flat();
    const entries = sites.map(({ layer, name, width }) => ({ layer, step: name, width }));
    if (options.head === true) {
      entries.push({ layer: runner.layerCount, step: HEAD, width: runner.architecture.hiddenSize });
    }
    const experts = sites.flatMap(({ layer, step, expert }) =>
      expert !== undefined && step === "gate_up" ? [{ layer, expert }] : [],
    );
    const kind = options.kind ?? "gram";
    const writer = await GramFileWriter.create(
      path,
      entries,
      { kind, sequences: sequences.length, tokens, ...provenance },
      [modelPath, ...(options.inputs ?? [])],
      experts,
    );
    const isFirst = new Set(experts.map(({ layer, expert }) => `${layer} ${expert}`));
    try {
      for await (const gram of collectGrams(runner, sequences, options)) {
        await writer.write(gram, gram.mean);
        const { layer, expert, tokenCount } = gram;
        // Gate and up, then down: the same tokens.
        if (expert !== undefined && isFirst.delete(`${layer} ${expert}`)) {
          await writer.writeExpertTokens({ layer, expert }, tokenCount);
        }
      }
      await writer.finish();
    } catch (error) {
      await writer.abandon();
      throw error;
    }
  });
}

/** Choose `count` of the sequences by `seed`, in the order of the text; all of them where there are no more. */
export function chooseSequences(
  sequences: readonly ScoredSequence[],
  count: number,
  seed: number,
): (readonly number[])[] {
  const order = sequences.map((_, index) => index);
  const random = xorshift32(seed);
  // Fisher–Yates from the front: the first `count` are a sample without repetition.
  for (let at = 0; at < Math.min(count, order.length - 1); at++) {
    const other = at + Math.floor(random() * (order.length - at));
    [order[at], order[other]] = [order[other], order[at]];
  }
  return order
    .slice(0, count)
    .sort((a, b) => a - b)
    .map((index) => sequences[index].ids);
}

/** source: Marsaglia, "Xorshift RNGs", 2003; uniform in [0, 1). */
function xorshift32(seed: number): () => number {
  // Zero would stay zero for ever; the golden ratio's bits spread small seeds.
  let state = (Math.imul(seed, 0x9e3779b1) ^ 0x5bd1e995) >>> 0 || 1;
  return () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state = (state ^ (state << 5)) >>> 0;
    return state / 2 ** 32;
  };
}

/** Sequences alike in length, padded on the right to the longest of their batch; of one length where it is seen. */
function batchesOf(sequences: readonly (readonly number[])[], batchTokens: number, seesPadding: boolean) {
  const sorted = [...sequences].sort((a, b) => b.length - a.length);
  const batches: { ids: number[][]; lengths: number[] }[] = [];
  for (const sequence of sorted) {
    const last = batches.at(-1);
    const isFull = last !== undefined && (last.ids.length + 1) * last.ids[0].length > batchTokens;
    if (last === undefined || isFull || (seesPadding && last.ids[0].length !== sequence.length)) {
      batches.push({ ids: [[...sequence]], lengths: [sequence.length] });
    } else {
      last.ids.push([...sequence, ...new Array<number>(last.ids[0].length - sequence.length).fill(0)]);
      last.lengths.push(sequence.length);
    }
  }
  return batches;
}
