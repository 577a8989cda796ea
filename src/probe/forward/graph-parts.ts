import type { OnnxGraph, Value } from "../../engine/onnx-graph.js";
import type { Activation, Architecture, NormTraits } from "../../model/architecture.js";
import type { Rope } from "../../model/rope.js";
import { storedValue, type Weights } from "./weights.js";

/** What a run of a graph with attention must feed besides the activations. */
export const POSITION_INPUTS = {
  /** (batch, tokens) int64: the place of each token, for the rope. */
  ids: "position_ids",
  /** (batch) int32: the last place that counts, the same for every row. */
  last: "last_position",
  /** Scalar int32: tokens so far, these included. */
  total: "total",
  /** (total) f32: 0, 1, 2, …, for ALiBi. */
  places: "key_places",
} as const;

/** The mask (tokens, total) that is added to attention scores in standard operators, one for each window of a model. */
export function maskInput(slidingWindow: number | undefined): string {
  return `mask_${slidingWindow ?? "all"}`;
}

/**
 * Whether attention is made of standard operators: on other devices, and where scores need what the one operator does
 * not know.
 */
export function attendsPlainly(
  { alibiScale, attentionSinks, bidirectional }: Architecture,
  portable: boolean,
): boolean {
  return portable || alibiScale !== undefined || attentionSinks || bidirectional;
}

/**
 * The different ropes of a model; a graph's tables `cos_<i>`, `sin_<i>` (positions, rotary / 2) count in this order.
 */
export function ropesOf(architecture: Architecture): Rope[] {
  return [...new Set(architecture.layers.flatMap(({ rope }) => (rope === undefined ? [] : [rope])))];
}

/**
 * A norm over the last axis, of `width` channels: x / √(mean x² + ε) · (weight + offset), or a layer norm with its bias
 * where there is one. `name` goes without `.weight`. source: arXiv:1910.07467, arXiv:1607.06450
 */
export function norm(
  graph: OnnxGraph,
  { kind, eps, offset, affine }: NormTraits,
  weights: Weights,
  x: Value,
  name: string,
  width: number,
): Value {
  const attributes = { axis: -1, epsilon: { float: eps } };
  if (!affine) {
    return graph.op("LayerNormalization", [x, graph.constant(new Float32Array(width).fill(1))], attributes);
  }
  const stored = storedValue(graph, weights.get(`${name}.weight`, [width]));
  const weight = offset === 0 ? stored : graph.op("Add", [stored, graph.scalar(offset)]);
  if (kind === "rms") return graph.op("RMSNormalization", [x, weight], attributes);
  const bias = `${name}.bias`;
  const inputs = weights.has(bias) ? [x, weight, storedValue(graph, weights.get(bias, [width]))] : [x, weight];
  return graph.op("LayerNormalization", inputs, attributes);
}

/** What stands out of x by `cutoff` deviations over the last axis: relu(x − mean − cutoff · deviation). */
export function standingOut(graph: OnnxGraph, x: Value, cutoff: number): Value {
  const mean = (of: Value): Value => graph.op("ReduceMean", [of, graph.integers(-1)], { keepdims: 1 });
  const centred = graph.op("Sub", [x, mean(x)]);
  const deviation = graph.op("Sqrt", [mean(graph.op("Mul", [centred, centred]))]);
  return graph.op("Relu", [graph.op("Sub", [centred, graph.op("Mul", [deviation, graph.scalar(cutoff)])])]);
}

/** Activation functions without numbers of their own. */
export function activate(graph: OnnxGraph, activation: Exclude<Activation, "xielu">, x: Value): Value {
  switch (activation) {
    case "silu":
      return graph.op("Mul", [x, graph.op("Sigmoid", [x])]);
    case "quick_gelu":
      return graph.op("Mul", [x, graph.op("Sigmoid", [graph.op("Mul", [x, graph.scalar(1.702)])])]);
    case "relu":
      return graph.op("Relu", [x]);
    case "relu2": {
      const positive = graph.op("Relu", [x]);
      return graph.op("Mul", [positive, positive]);
    }
    default:
      return graph.op("Gelu", [x], { approximate: activation === "gelu_tanh" ? "tanh" : "none" });
  }
}

/**
 * xIELU: α₊x² + βx over zero, α₋(e^min(x, ε) − 1 − x) + βx under it, with α₊ = softplus(a₊), α₋ = β + softplus(a₋).
 * source: arXiv:2411.13010; `XIELUActivation` of transformers
 */
export function xielu(
  graph: OnnxGraph,
  x: Value,
  { alphaPositive, alphaNegative, beta, eps }: Record<"alphaPositive" | "alphaNegative" | "beta" | "eps", Value>,
): Value {
  const straight = graph.op("Mul", [x, beta]);
  const above = graph.op("Mul", [graph.op("Softplus", [alphaPositive]), graph.op("Mul", [x, x])]);
  const grown = graph.op("Sub", [graph.op("Exp", [graph.op("Min", [x, eps])]), graph.scalar(1)]);
  const slope = graph.op("Add", [graph.op("Softplus", [alphaNegative]), beta]);
  const below = graph.op("Mul", [graph.op("Sub", [grown, x]), slope]);
  const curved = graph.op("Where", [graph.op("Greater", [x, graph.scalar(0)]), above, below]);
  return graph.op("Add", [curved, straight]);
}

/**
 * x Wᵀ for x (batch, tokens, cols) and W (rows, cols), which a transposed matrix holds as (cols, rows). On the CPU
 * FusedMatMul reads W as it is stored and packs it where it is constant; Gemm is the standard's operator for the same.
 */
export function multiply(
  graph: OnnxGraph,
  x: Value,
  matrix: Value,
  rows: number,
  cols: number,
  portable: boolean,
  transposed = false,
): Value {
  const transB = transposed ? 0 : 1;
  if (!portable) return graph.op("FusedMatMul", [x, matrix], { transB }, "com.microsoft");
  const flat = graph.op("Gemm", [graph.op("Reshape", [x, graph.integers(-1, cols)]), matrix], { transB });
  const batch = graph.op("Shape", [x], { start: 0, end: 2 });
  return graph.op("Reshape", [flat, graph.op("Concat", [batch, graph.integers(rows)], { axis: 0 })]);
}

/**
 * The slopes of ALiBi, one a head: powers of 2^(−8/n), with every other power of the next finer row where n is no power
 * of two. source: arXiv:2108.12409
 */
export function alibiSlopes(heads: number): Float32Array {
  const whole = 2 ** Math.floor(Math.log2(heads));
  return Float32Array.from({ length: heads }, (_, head) =>
    head < whole ? 2 ** ((-8 * (head + 1)) / whole) : 2 ** ((-4 * (2 * (head - whole) + 1)) / whole),
  );
}
