import { ONNX_TYPE, OnnxGraph, type Value } from "../../engine/onnx-graph.js";
import type { Architecture } from "../../model/architecture.js";
import { keepCopies } from "./alt-up.js";
import { CarriedValues } from "./carried.js";
import { multiply, norm, POSITION_INPUTS } from "./graph-parts.js";
import { keepPerLayerInputs } from "./per-layer-inputs.js";
import { type StoredTensor, storedValue, type Weights } from "./weights.js";

/** A model's end: what its head graphs need. */
export interface HeadOf {
  readonly architecture: Architecture;
  readonly weights: Weights;
}

/**
 * Vocabulary rows multiplied at once. 8192 columns of logits for 1024 places are 32 MiB, which the last level caches of
 * servers hold; the matrix product is as fast as with all rows at once.
 */
export const VOCABULARY_CHUNK = 8192;

/**
 * token ids (batch, tokens) int64 → residual (batch, tokens, hidden): the embedding's rows, read from where they lie;
 * with learned positions, position_ids (batch, tokens) int64 choose the rows that are added.
 *
 * Where no file can be mapped the rows come as the input token_rows (batch, tokens, hidden) f32 beside the ids: of a
 * vocabulary's table only what a text uses.
 */
export function embeddingGraph({ architecture, weights }: HeadOf): OnnxGraph {
  const { vocabSize, hiddenSize, embeddingScale, learnedPositions, maxPositions, names } = architecture;
  const graph = new OnnxGraph();
  // The rows are picked first and cast after: casting first would make an f32 copy of the whole table.
  const rowsOf = (stored: StoredTensor, ids: Value): Value => {
    const picked = graph.op("Gather", [storedValue(graph, stored, 0, stored.info.shape[0], false), ids], { axis: 0 });
    return stored.dtype === "F32" ? picked : graph.op("Cast", [picked], { to: ONNX_TYPE.FLOAT });
  };
  const ids = graph.input("token_ids", "INT64", ["batch", "tokens"]);
  let rows = weights.isMapped
    ? rowsOf(weights.get(weights.embedding, [vocabSize, hiddenSize]), ids)
    : graph.input("token_rows", "FLOAT", ["batch", "tokens", hiddenSize]);
  if (embeddingScale !== 1) rows = graph.op("Mul", [rows, graph.scalar(embeddingScale)]);
  if (learnedPositions !== undefined) {
    const positions = graph.input(POSITION_INPUTS.ids, "INT64", ["batch", "tokens"]);
    const places = graph.op("Add", [positions, graph.integers(learnedPositions)]);
    const name = `${weights.named(names.positions!)}.weight`;
    const positioned = weights.get(name, [maxPositions + learnedPositions, hiddenSize]);
    rows = graph.op("Add", [rows, rowsOf(positioned, places)]);
  }
  const carried = new CarriedValues(graph);
  const table = (name: string, shape: readonly number[], picked: Value): Value =>
    rowsOf(weights.get(name, shape), picked);
  keepCopies(graph, { architecture, weights }, rows, carried);
  keepPerLayerInputs(graph, { architecture, weights }, ids, rows, table, carried);
  carried.emit();
  if (names.embeddingNorm !== undefined) {
    rows = norm(graph, architecture.norm, weights, rows, weights.named(names.embeddingNorm), hiddenSize);
  }
  graph.output("residual", rows, "FLOAT", ["batch", "tokens", hiddenSize]);
  return graph;
}

/** The norm behind the last layer: residual (batch, tokens, hidden) → normed. */
export function finalNormGraph({ architecture, weights }: HeadOf): OnnxGraph {
  const graph = new OnnxGraph();
  const dims = ["batch", "tokens", architecture.hiddenSize];
  const residual = graph.input("residual", "FLOAT", dims);
  graph.output("normed", finalNormOf(graph, { architecture, weights }, residual), "FLOAT", dims);
  return graph;
}

export function finalNormOf(graph: OnnxGraph, { architecture, weights }: HeadOf, residual: Value): Value {
  const name = weights.named(architecture.names.finalNorm);
  return norm(graph, architecture.norm, weights, residual, name, architecture.hiddenSize);
}

/** normed_0 (batch, tokens, hidden) → logits of the vocabulary's rows `[start, end)`. */
export function logitsGraph(head: HeadOf, [start, end]: VocabularyChunk, portable: boolean): OnnxGraph {
  const graph = new OnnxGraph();
  const logits = chunkLogits(graph, head, 0, start, end, portable);
  graph.output("logits", logits, "FLOAT", ["batch", "tokens", end - start]);
  return graph;
}

/**
 * What the likelihood of given tokens needs of one chunk of the vocabulary, so that logits never lie in memory whole.
 *
 * inputs   normed_<m> (1, places, hidden) for each model m; targets (1, places, 1) int64, counted from the chunk's
 *          start and clipped to it
 * outputs  for each model m, all (1, places, 1): max_<m>, sum_<m> = Σ exp(logit − max) over the chunk, top_<m> the
 *          first largest token
 *          counted from the chunk's start, target_<m> the target's logit (to be used where the target lies in the
 *          chunk);
 *          with two models cross = Σ exp(logit_0 − max_0)·(logit_0 − logit_1)
 */
export function scoreGraph(heads: readonly HeadOf[], [start, end]: VocabularyChunk, portable: boolean): OnnxGraph {
  const graph = new OnnxGraph();
  graph.mapsFiles = heads.every(({ weights }) => weights.isMapped);
  const targets = graph.input("targets", "INT64", [1, "places", 1]);
  const axis = graph.integers(2);
  const emit = (name: string, value: Value): void =>
    graph.output(name, value, name.startsWith("top") ? "INT32" : "FLOAT", [1, "places", 1]);
  const logits = heads.map((head, model) => chunkLogits(graph, head, model, start, end, portable));
  const exponentials = logits.map((values, model) => {
    const max = graph.op("ReduceMax", [values, axis], { keepdims: 1 });
    const exponential = graph.op("Exp", [graph.op("Sub", [values, max])]);
    emit(`max_${model}`, max);
    emit(`sum_${model}`, graph.op("ReduceSum", [exponential, axis], { keepdims: 1 }));
    const top = graph.op("ArgMax", [values], { axis: 2, keepdims: 1 });
    emit(`top_${model}`, graph.op("Cast", [top], { to: ONNX_TYPE.INT32 }));
    emit(`target_${model}`, graph.op("GatherElements", [values, targets], { axis: 2 }));
    return exponential;
  });
  if (heads.length === 2) {
    const change = graph.op("Mul", [exponentials[0], graph.op("Sub", [logits[0], logits[1]])]);
    emit("cross", graph.op("ReduceSum", [change, axis], { keepdims: 1 }));
  }
  return graph;
}

/** Rows `[start, end)` of the output matrix. */
export type VocabularyChunk = readonly [start: number, end: number];

export function vocabularyChunks({ vocabSize }: Architecture): VocabularyChunk[] {
  return Array.from(
    { length: Math.ceil(vocabSize / VOCABULARY_CHUNK) },
    (_, chunk): VocabularyChunk => [chunk * VOCABULARY_CHUNK, Math.min((chunk + 1) * VOCABULARY_CHUNK, vocabSize)],
  );
}

function chunkLogits(
  graph: OnnxGraph,
  head: HeadOf,
  model: number,
  rowStart: number,
  rowEnd: number,
  portable: boolean,
): Value {
  const dims = ["batch", "tokens", head.architecture.hiddenSize];
  return logitsOf(graph, head, graph.input(`normed_${model}`, "FLOAT", dims), [rowStart, rowEnd], portable);
}

/** normed (batch, tokens, hidden) → logits of the vocabulary's rows `[start, end)`. */
export function logitsOf(
  graph: OnnxGraph,
  { architecture, weights }: HeadOf,
  normed: Value,
  [rowStart, rowEnd]: VocabularyChunk,
  portable: boolean,
): Value {
  const { vocabSize, hiddenSize, logitScale, logitSoftcap } = architecture;
  const name = weights.head(architecture);
  const matrix = storedValue(graph, weights.get(name, [vocabSize, hiddenSize]), rowStart, rowEnd);
  let logits = multiply(graph, normed, matrix, rowEnd - rowStart, hiddenSize, portable);
  const bias = name.replace(/weight$/, "bias");
  if (weights.has(bias)) {
    const stored = storedValue(graph, weights.get(bias, [vocabSize]), rowStart, rowEnd);
    logits = graph.op("Add", [logits, stored]);
  }
  if (logitScale !== 1) logits = graph.op("Mul", [logits, graph.scalar(logitScale)]);
  if (logitSoftcap === undefined) return logits;
  const cap = graph.scalar(logitSoftcap);
  return graph.op("Mul", [graph.op("Tanh", [graph.op("Div", [logits, cap])]), cap]);
}
