import { OnnxGraph, type Value } from "../../engine/onnx-graph.js";
import type { DeltaRule } from "../../model/mixers.js";
import type { LayerParts } from "./layer-parts.js";
import { causalConvolution } from "./short-conv.js";

/** Added under the root of a key's length. source: `l2norm` of transformers 5.24 */
const LENGTH_EPS = 1e-6;

/**
 * Linear attention by the gated delta rule: input of the layer → input of out_proj (batch, tokens, value heads × value
 * dim). The state of a head forgets by a gate, then takes in what its key does not say of the value yet, token by
 * token.
 * source: arXiv:2412.06464; `Qwen3NextGatedDeltaNet` of transformers 5.24
 */
export function attendByDeltaRule(
  parts: LayerParts,
  rule: DeltaRule,
  hiddenSize: number,
  normEps: number,
  x: Value,
): Value {
  const { graph } = parts;
  const { keyHeadCount, valueHeadCount, keyDim, valueDim } = rule;
  const keyWidth = keyHeadCount * keyDim;
  const valueWidth = valueHeadCount * valueDim;
  const { mixed, gate, write, decay } = rule.layout === "grouped" ? grouped(parts, rule, hiddenSize, x) : apart();

  function apart(): Projected {
    return {
      mixed: parts.linear(x, "linear_attn.in_proj_qkv", 2 * keyWidth + valueWidth, hiddenSize),
      gate: parts.linear(x, "linear_attn.in_proj_z", valueWidth, hiddenSize),
      write: parts.linear(x, "linear_attn.in_proj_b", valueHeadCount, hiddenSize),
      decay: parts.linear(x, "linear_attn.in_proj_a", valueHeadCount, hiddenSize),
    };
  }

  const width = 2 * keyWidth + valueWidth;
  const looked = causalConvolution(parts, "linear_attn.conv1d", width, rule.kernelSize, mixed);
  const active = graph.op("Mul", [looked, graph.op("Sigmoid", [looked])]);
  const [query, key, value] = graph.ops("Split", [active, graph.integers(keyWidth, keyWidth, valueWidth)], 3, {
    axis: -1,
  });
  const unit = (each: Value): Value => {
    const heads = graph.op("Reshape", [each, graph.integers(0, 0, keyHeadCount, keyDim)]);
    const length = graph.op("ReduceSumSquare", [heads, graph.integers(-1)], { keepdims: 1 });
    const root = graph.op("Sqrt", [graph.op("Add", [length, graph.scalar(LENGTH_EPS)])]);
    return perValueHead(graph, graph.op("Div", [heads, root]), rule);
  };
  const beta = graph.op("Sigmoid", [write]);
  const rate = graph.op("Exp", [parts.stored("linear_attn.A_log", [valueHeadCount])]);
  const bias = parts.stored("linear_attn.dt_bias", [valueHeadCount]);
  const forgetting = graph.op("Mul", [graph.op("Softplus", [graph.op("Add", [decay, bias])]), rate]);
  const kept = graph.op("Exp", [graph.op("Neg", [forgetting])]);
  const out = scanTokens(graph, rule, {
    query: graph.op("Mul", [unit(query), graph.scalar(keyDim ** -0.5)]),
    key: unit(key),
    value: graph.op("Reshape", [value, graph.integers(0, 0, valueHeadCount, valueDim)]),
    beta,
    kept,
  });
  // The norm has its own weight, without the family's offset.
  const weight = parts.stored("linear_attn.norm.weight", [valueDim]);
  const normed = graph.op("RMSNormalization", [out, weight], { axis: -1, epsilon: { float: normEps } });
  const gates = graph.op("Reshape", [gate, graph.integers(0, 0, valueHeadCount, valueDim)]);
  const gated = graph.op("Mul", [normed, graph.op("Mul", [gates, graph.op("Sigmoid", [gates])])]);
  return graph.op("Reshape", [gated, graph.integers(0, 0, valueWidth)]);
}

interface Projected {
  /** (batch, tokens, q, k and v one behind the other). */
  readonly mixed: Value;
  /** (batch, tokens, value heads × value dim). */
  readonly gate: Value;
  /** (batch, tokens, value heads), both. */
  readonly write: Value;
  readonly decay: Value;
}

/** Qwen3-Next: rows of both matrices lie by key head, each with its q, k and the v, z (b, a) of its value heads. */
function grouped(parts: LayerParts, rule: DeltaRule, hiddenSize: number, x: Value): Projected {
  const { graph } = parts;
  const { keyHeadCount, valueHeadCount, keyDim, valueDim } = rule;
  const each = valueHeadCount / keyHeadCount;
  const wide = 2 * keyDim + 2 * each * valueDim;
  const both = parts.linear(x, "linear_attn.in_proj_qkvz", keyHeadCount * wide, hiddenSize);
  const sizes = graph.integers(keyDim, keyDim, each * valueDim, each * valueDim);
  const split = graph.ops("Split", [graph.op("Reshape", [both, graph.integers(0, 0, keyHeadCount, wide)]), sizes], 4, {
    axis: -1,
  });
  const flat = split.map((value) => graph.op("Reshape", [value, graph.integers(0, 0, -1)]));
  const gates = parts.linear(x, "linear_attn.in_proj_ba", 2 * valueHeadCount, hiddenSize);
  const [write, decay] = graph
    .ops(
      "Split",
      [graph.op("Reshape", [gates, graph.integers(0, 0, keyHeadCount, 2 * each)]), graph.integers(each, each)],
      2,
      { axis: -1 },
    )
    .map((value) => graph.op("Reshape", [value, graph.integers(0, 0, valueHeadCount)]));
  return { mixed: graph.op("Concat", flat.slice(0, 3), { axis: -1 }), gate: flat[3], write, decay };
}

/**
 * (batch, tokens, key heads, dim) → (batch, tokens, value heads, dim): each key head serves as many value heads side by
 * side.
 */
function perValueHead(graph: OnnxGraph, heads: Value, { keyHeadCount, valueHeadCount, keyDim }: DeltaRule): Value {
  const each = valueHeadCount / keyHeadCount;
  if (each === 1) return heads;
  const apart = graph.op("Unsqueeze", [heads, graph.integers(3)]);
  const tiled = graph.op("Tile", [apart, graph.integers(1, 1, 1, each, 1)]);
  return graph.op("Reshape", [tiled, graph.integers(0, 0, valueHeadCount, keyDim)]);
}

interface DeltaInputs {
  /** (batch, tokens, heads, key dim), both of unit length, the query scaled. */
  readonly query: Value;
  readonly key: Value;
  /** (batch, tokens, heads, value dim). */
  readonly value: Value;
  /** (batch, tokens, heads): the share of the correction that is written, and what is kept of the state. */
  readonly beta: Value;
  readonly kept: Value;
}

/** State (batch, heads, key dim, value dim), from zero: forget, correct, read; → (batch, tokens, heads, value dim). */
function scanTokens(graph: OnnxGraph, rule: DeltaRule, inputs: DeltaInputs): Value {
  const { valueHeadCount, keyDim, valueDim } = rule;
  const body = new OnnxGraph("token_");
  const state = body.input("token_state", "FLOAT", ["batch", valueHeadCount, keyDim, valueDim]);
  const query = body.input("token_query", "FLOAT", ["batch", valueHeadCount, keyDim]);
  const key = body.input("token_key", "FLOAT", ["batch", valueHeadCount, keyDim]);
  const value = body.input("token_value", "FLOAT", ["batch", valueHeadCount, valueDim]);
  const beta = body.input("token_beta", "FLOAT", ["batch", valueHeadCount]);
  const kept = body.input("token_kept", "FLOAT", ["batch", valueHeadCount]);
  const row = (each: Value): Value => body.op("Unsqueeze", [each, body.integers(2)]);
  const column = (each: Value): Value => body.op("Unsqueeze", [each, body.integers(3)]);
  const faded = body.op("Mul", [state, body.op("Unsqueeze", [kept, body.integers(2, 3)])]);
  const known = body.op("MatMul", [row(key), faded]);
  const correction = body.op("Mul", [
    body.op("Sub", [row(value), known]),
    body.op("Unsqueeze", [beta, body.integers(2, 3)]),
  ]);
  const next = body.op("Add", [faded, body.op("MatMul", [column(key), correction])]);
  body.output("token_next", next, "FLOAT", ["batch", valueHeadCount, keyDim, valueDim]);
  const read = body.op("Squeeze", [body.op("MatMul", [row(query), next]), body.integers(2)]);
  body.output("token_read", read, "FLOAT", ["batch", valueHeadCount, valueDim]);

  const batch = graph.op("Shape", [inputs.query], { start: 0, end: 1 });
  const shape = graph.op("Concat", [batch, graph.integers(valueHeadCount, keyDim, valueDim)], { axis: 0 });
  const empty = graph.op("ConstantOfShape", [shape]);
  const { query: queries, key: keys, value: values, beta: betas, kept: keeps } = inputs;
  const [, out] = graph.ops("Scan", [empty, queries, keys, values, betas, keeps], 2, {
    body: { graph: body },
    num_scan_inputs: 5,
    scan_input_axes: [1n, 1n, 1n, 1n, 1n],
    scan_output_axes: [1n],
  });
  return out;
}
