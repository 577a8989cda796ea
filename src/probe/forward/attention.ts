import type { OnnxGraph, Value } from "../../engine/onnx-graph.js";
import type { Architecture } from "../../model/architecture.js";
import { alibiSlopes, maskInput, POSITION_INPUTS } from "./graph-parts.js";
import type { GraphOptions } from "./layer-builder.js";
import { storedValue, type Weights } from "./weights.js";

/** The layer that attends. */
export interface AttentionOf {
  readonly graph: OnnxGraph;
  readonly architecture: Architecture;
  readonly weights: Weights;
  readonly base: string;
  readonly index: number;
  readonly options: GraphOptions;
}

/** Softmax attention of (batch, tokens, heads × head_dim) in one operator that never holds a whole matrix of scores. */
export function fusedAttention(layer: AttentionOf, query: Value, key: Value, value: Value): Value {
  const { graph, options, index } = layer;
  const { headCount, kvHeadCount, attentionScale, attentionSoftcap, layers } = layer.architecture;
  const { slidingWindow } = layers[index];
  const past = options.cache ? [cacheInput(layer, "past_key"), cacheInput(layer, "past_value")] : ["", ""];
  const [out, presentKey, presentValue] = graph.ops(
    "GroupQueryAttention",
    [
      query,
      key,
      value,
      ...past,
      graph.input(POSITION_INPUTS.last, "INT32", ["batch"]),
      graph.input(POSITION_INPUTS.total, "INT32", []),
    ],
    3,
    {
      num_heads: headCount,
      kv_num_heads: kvHeadCount,
      scale: { float: attentionScale },
      ...(attentionSoftcap === undefined ? {} : { softcap: { float: attentionSoftcap } }),
      ...(slidingWindow === undefined ? {} : { local_window_size: slidingWindow }),
    },
    "com.microsoft",
  );
  if (options.cache) {
    cacheOutput(layer, "present_key", presentKey);
    cacheOutput(layer, "present_value", presentValue);
  }
  return out;
}

/** The same in standard operators: heads that share keys lie one behind the other as rows of one product. */
export function plainAttention(layer: AttentionOf, query: Value, key: Value, value: Value): Value {
  const { graph, options, index } = layer;
  const { headCount, kvHeadCount, headDim, attentionScale, attentionSoftcap, alibiScale, layers } = layer.architecture;
  const group = headCount / kvHeadCount;
  const split = graph.op("Reshape", [query, graph.integers(0, 0, kvHeadCount, group, headDim)]);
  const byHead = graph.op("Transpose", [split], { perm: [0n, 2n, 3n, 1n, 4n] });
  // (batch, key heads, group × tokens, head_dim)
  const rows = graph.op("Reshape", [byHead, graph.integers(0, 0, -1, headDim)]);
  const withPast = (name: "key" | "value", now: Value): Value => {
    const heads = graph.op("Reshape", [now, graph.integers(0, 0, kvHeadCount, headDim)]);
    const turned = graph.op("Transpose", [heads], { perm: [0n, 2n, 1n, 3n] });
    if (!options.cache) return turned;
    const all = graph.op("Concat", [cacheInput(layer, `past_${name}`), turned], { axis: 2 });
    cacheOutput(layer, `present_${name}`, all);
    return all;
  };
  const keys = graph.op("Transpose", [withPast("key", key)], { perm: [0n, 1n, 3n, 2n] });
  const values = withPast("value", value);
  let scores = graph.op("Mul", [graph.op("MatMul", [rows, keys]), graph.scalar(attentionScale)]);
  if (attentionSoftcap !== undefined) {
    const cap = graph.scalar(attentionSoftcap);
    scores = graph.op("Mul", [graph.op("Tanh", [graph.op("Div", [scores, cap])]), cap]);
  }
  if (alibiScale !== undefined) scores = byHeads(layer, scores, (each) => graph.op("Add", [each, alibi(layer)]));
  const mask = graph.input(maskInput(layers[index].slidingWindow), "FLOAT", ["tokens", "total_tokens"]);
  const masked = graph.op("Add", [scores, graph.op("Tile", [mask, graph.integers(group, 1)])]);
  const mixed = graph.op("MatMul", [shares(layer, masked), values]);
  const heads = graph.op("Reshape", [mixed, graph.integers(0, 0, group, -1, headDim)]);
  const byToken = graph.op("Transpose", [heads], { perm: [0n, 3n, 1n, 2n, 4n] });
  return graph.op("Reshape", [byToken, graph.integers(0, 0, headCount * headDim)]);
}

/** Something done to scores (batch, key heads, group × tokens, total) as (batch, key heads, group, tokens, total). */
function byHeads({ graph, architecture }: AttentionOf, scores: Value, work: (each: Value) => Value): Value {
  const group = architecture.headCount / architecture.kvHeadCount;
  const total = graph.op("Shape", [scores], { start: 3, end: 4 });
  const shape = graph.op("Concat", [graph.integers(0, 0, group, -1), total], { axis: 0 });
  const worked = work(graph.op("Reshape", [scores, shape]));
  return graph.op("Reshape", [worked, graph.op("Concat", [graph.integers(0, 0, -1), total], { axis: 0 })]);
}

/**
 * What ALiBi adds, (key heads, group, 1, total): the slope of each head times the place of the key. Softmax does not
 * see what is the same for all keys, so the place of the query is left out.
 */
function alibi({ graph, architecture }: AttentionOf): Value {
  const { headCount, kvHeadCount, alibiScale } = architecture;
  const slopes = alibiSlopes(headCount).map((slope) => slope * alibiScale!);
  const places = graph.input(POSITION_INPUTS.places, "FLOAT", ["total_tokens"]);
  return graph.op("Mul", [graph.constant(slopes, [kvHeadCount, headCount / kvHeadCount, 1, 1]), places]);
}

/** Softmax over the keys, where there are sinks with one more column, whose share is then dropped. */
function shares(layer: AttentionOf, masked: Value): Value {
  const { graph, architecture, weights, base } = layer;
  if (!architecture.attentionSinks) return graph.op("Softmax", [masked], { axis: -1 });
  const { headCount, kvHeadCount } = architecture;
  const stored = storedValue(graph, weights.get(`${base}${architecture.names.extra!.sinks}`, [headCount]));
  return byHeads(layer, masked, (each) => {
    const sinks = graph.op("Reshape", [stored, graph.integers(kvHeadCount, headCount / kvHeadCount, 1, 1)]);
    const rows = graph.op("Shape", [each], { start: 0, end: 4 });
    const column = graph.op("Expand", [sinks, graph.op("Concat", [rows, graph.integers(1)], { axis: 0 })]);
    const all = graph.op("Softmax", [graph.op("Concat", [each, column], { axis: -1 })], { axis: -1 });
    return graph.op("Slice", [all, graph.integers(0), graph.integers(-1), graph.integers(-1)]);
  });
}

function cacheInput({ graph, architecture, index }: AttentionOf, name: string): Value {
  const { kvHeadCount, headDim } = architecture;
  return graph.input(`${name}_${index}`, "FLOAT", ["batch", kvHeadCount, "past", headDim]);
}

function cacheOutput({ graph, architecture, index }: AttentionOf, name: string, value: Value): void {
  const { kvHeadCount, headDim } = architecture;
  graph.output(`${name}_${index}`, value, "FLOAT", ["batch", kvHeadCount, "present", headDim]);
}
