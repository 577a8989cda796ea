import type { Architecture } from "./architecture.js";
import { multiply, rmsNorm } from "./layer-graph.js";
import { ONNX_TYPE, OnnxGraph, type Value } from "./onnx-graph.js";
import { storedValue, type Weights } from "./weights.js";

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

/** token ids (batch, tokens) int64 → residual (batch, tokens, hidden): the embedding's rows, read from where they lie. */
export function embeddingGraph({ architecture, weights }: HeadOf): OnnxGraph {
  const { vocabSize, hiddenSize, embeddingScale } = architecture;
  const graph = new OnnxGraph();
  const ids = graph.input("token_ids", "INT64", ["batch", "tokens"]);
  const stored = weights.get(weights.embedding, [vocabSize, hiddenSize]);
  // The rows are picked first and cast after: casting first would make an f32 copy of the whole table.
  const picked = graph.op("Gather", [storedValue(graph, stored, 0, vocabSize, false), ids], { axis: 0 });
  const rows = stored.dtype === "F32" ? picked : graph.op("Cast", [picked], { to: ONNX_TYPE.FLOAT });
  const scaled = embeddingScale === 1 ? rows : graph.op("Mul", [rows, graph.scalar(embeddingScale)]);
  graph.output("residual", scaled, "FLOAT", ["batch", "tokens", hiddenSize]);
  return graph;
}

/** residual (batch, tokens, hidden) → logits (batch, tokens, vocabulary). */
export function logitsGraph(head: HeadOf, device: string): OnnxGraph {
  const graph = new OnnxGraph();
  const normed = finalNorm(graph, head, "residual");
  const chunks = vocabularyChunks(head.architecture).map(([start, end]) =>
    chunkLogits(graph, head, normed, start, end, device),
  );
  const logits = chunks.length === 1 ? chunks[0] : graph.op("Concat", chunks, { axis: -1 });
  graph.output("logits", logits, "FLOAT", ["batch", "tokens", head.architecture.vocabSize]);
  return graph;
}

/**
 * The likelihood of given tokens, chunk by chunk of the vocabulary, so that logits never lie in memory whole.
 *
 * inputs   residual_<m> (1, places, hidden) for each model m; targets (1, places) int64
 * outputs  for each model m, all (1, places, chunks): max_<m>, sum_<m> = Σ exp(logit − max) over the chunk, top_<m> the chunk's first largest
 *          token counted from its start, target_<m> the target's logit where it lies in the chunk (else that of the chunk's nearest end);
 *          with two models cross = Σ exp(logit_0 − max_0)·(logit_0 − logit_1)
 */
export function scoreGraph(heads: readonly HeadOf[], device: string): OnnxGraph {
  const graph = new OnnxGraph();
  const targets = graph.input("targets", "INT64", [1, "places"]);
  const normed = heads.map((head, model) => finalNorm(graph, head, `residual_${model}`, [1, "places"]));
  const columns = new Map<string, Value[]>();
  const collect = (name: string, value: Value): void => {
    columns.set(name, [...(columns.get(name) ?? []), value]);
  };
  for (const [start, end] of vocabularyChunks(heads[0].architecture)) {
    const inChunk = graph.op("Clip", [
      graph.op("Sub", [targets, graph.constant(BigInt64Array.of(BigInt(start)), [])]),
      graph.constant(BigInt64Array.of(0n), []),
      graph.constant(BigInt64Array.of(BigInt(end - start - 1)), []),
    ]);
    const index = graph.op("Unsqueeze", [inChunk, graph.integers(2)]);
    const logits = heads.map((head, model) => chunkLogits(graph, head, normed[model], start, end, device));
    const exponentials = logits.map((values, model) => {
      const max = graph.op("ReduceMax", [values, graph.integers(2)], { keepdims: 1 });
      const exponential = graph.op("Exp", [graph.op("Sub", [values, max])]);
      collect(`max_${model}`, max);
      collect(`sum_${model}`, graph.op("ReduceSum", [exponential, graph.integers(2)], { keepdims: 1 }));
      collect(
        `top_${model}`,
        graph.op("Cast", [graph.op("ArgMax", [values], { axis: 2, keepdims: 1 })], { to: ONNX_TYPE.INT32 }),
      );
      collect(`target_${model}`, graph.op("GatherElements", [values, index], { axis: 2 }));
      return exponential;
    });
    if (heads.length === 2) {
      const change = graph.op("Mul", [exponentials[0], graph.op("Sub", [logits[0], logits[1]])]);
      collect("cross", graph.op("ReduceSum", [change, graph.integers(2)], { keepdims: 1 }));
    }
  }
  for (const [name, values] of columns) {
    const all = values.length === 1 ? values[0] : graph.op("Concat", values, { axis: -1 });
    graph.output(name, all, name.startsWith("top") ? "INT32" : "FLOAT", [1, "places", values.length]);
  }
  return graph;
}

/** `[start, end)` of each chunk. */
export function vocabularyChunks({ vocabSize }: Architecture): [number, number][] {
  return Array.from({ length: Math.ceil(vocabSize / VOCABULARY_CHUNK) }, (_, chunk) => [
    chunk * VOCABULARY_CHUNK,
    Math.min((chunk + 1) * VOCABULARY_CHUNK, vocabSize),
  ]);
}

function finalNorm(
  graph: OnnxGraph,
  { architecture, weights }: HeadOf,
  input: string,
  batch: readonly (number | string)[] = ["batch", "tokens"],
): Value {
  const residual = graph.input(input, "FLOAT", [...batch, architecture.hiddenSize]);
  return rmsNorm(graph, architecture, weights, residual, `${weights.prefix}norm.weight`, architecture.hiddenSize);
}

function chunkLogits(
  graph: OnnxGraph,
  { architecture, weights }: HeadOf,
  normed: Value,
  rowStart: number,
  rowEnd: number,
  device: string,
): Value {
  const { vocabSize, hiddenSize, logitSoftcap } = architecture;
  const stored = weights.get(weights.head(architecture), [vocabSize, hiddenSize]);
  const matrix = storedValue(graph, stored, rowStart, rowEnd);
  const logits = multiply(graph, normed, matrix, rowEnd - rowStart, hiddenSize, device);
  if (logitSoftcap === undefined) return logits;
  const cap = graph.scalar(logitSoftcap);
  return graph.op("Mul", [graph.op("Tanh", [graph.op("Div", [logits, cap])]), cap]);
}
