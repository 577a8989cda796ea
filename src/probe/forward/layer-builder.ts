import type { OnnxGraph, Value } from "../../engine/onnx-graph.js";
import type { Architecture } from "../../model/architecture.js";
import type { Rope } from "../../model/rope.js";
import { inputWidth } from "../../model/steps.js";
import { storedValue, type Weights } from "./weights.js";

export interface GraphOptions {
  /** Standard operators only: see `EngineOptions.portable`. */
  readonly portable: boolean;
  /** Take keys and values of earlier tokens (`past_key_<layer>`, `past_value_<layer>`) and give all of them (`present_…`). */
  readonly cache?: boolean;
  /** Tensors whose weights come with each run (graph inputs of the tensor's name) instead of from the file. */
  readonly supplied?: ReadonlySet<string>;
}

/** What a run of a graph with attention must feed besides the activations. */
export const POSITION_INPUTS = {
  /** (batch, tokens) int64: the place of each token, for the rope. */
  ids: "position_ids",
  /** (batch) int32: the last place that counts, the same for every row. */
  last: "last_position",
  /** Scalar int32: tokens so far, these included. */
  total: "total",
} as const;

/** The mask (tokens, total) that portable graphs add to attention scores, one for each window of a model. */
export function maskInput(slidingWindow: number | undefined): string {
  return `mask_${slidingWindow ?? "all"}`;
}

/** The different ropes of a model; a graph's tables `cos_<i>`, `sin_<i>` (positions, rotary / 2) count in this order. */
export function ropesOf(architecture: Architecture): Rope[] {
  return [...new Set(architecture.layers.flatMap(({ rope }) => (rope === undefined ? [] : [rope])))];
}

/** One decoder layer in a graph, part by part. */
export class LayerBuilder {
  private readonly base: string;

  constructor(
    private readonly graph: OnnxGraph,
    private readonly architecture: Architecture,
    private readonly weights: Weights,
    private readonly index: number,
    private readonly options: GraphOptions,
  ) {
    this.base = `${weights.prefix}layers.${index}.`;
  }

  /** residual → input of q, k, v. */
  begin(residual: Value): Value {
    return this.norm(residual, "input_layernorm", this.architecture.hiddenSize);
  }

  /** Input of o, residual → residual. */
  addAttention(x: Value, residual: Value): Value {
    const { hiddenSize, sandwichNorms } = this.architecture;
    const out = this.linear(x, "self_attn.o_proj", hiddenSize, inputWidth(this.architecture, "o"));
    return this.graph.op("Add", [
      residual,
      sandwichNorms ? this.norm(out, "post_attention_layernorm", hiddenSize) : out,
    ]);
  }

  /** residual → input of gate, up. */
  enterMlp(residual: Value): Value {
    const { hiddenSize, sandwichNorms } = this.architecture;
    return this.norm(residual, sandwichNorms ? "pre_feedforward_layernorm" : "post_attention_layernorm", hiddenSize);
  }

  /** Input of down, residual → residual. */
  addMlp(x: Value, residual: Value): Value {
    const { hiddenSize, intermediateSize, sandwichNorms } = this.architecture;
    const out = this.linear(x, "mlp.down_proj", hiddenSize, intermediateSize);
    return this.graph.op("Add", [
      residual,
      sandwichNorms ? this.norm(out, "post_feedforward_layernorm", hiddenSize) : out,
    ]);
  }

  /** Input of q, k, v → input of o. */
  attend(x: Value): Value {
    const { graph } = this;
    const { hiddenSize, headCount, kvHeadCount, headDim, fused } = this.architecture;
    const traits = this.architecture.layers[this.index];
    const queryRows = headCount * headDim;
    const keyRows = kvHeadCount * headDim;
    let [query, key, value] = fused
      ? graph.ops(
          "Split",
          [
            this.linear(x, "self_attn.qkv_proj", queryRows + 2 * keyRows, hiddenSize),
            graph.integers(queryRows, keyRows, keyRows),
          ],
          3,
          { axis: -1 },
        )
      : [
          this.linear(x, "self_attn.q_proj", queryRows, hiddenSize),
          this.linear(x, "self_attn.k_proj", keyRows, hiddenSize),
          this.linear(x, "self_attn.v_proj", keyRows, hiddenSize),
        ];
    query = this.headNorm(query, "self_attn.q_norm", headCount);
    key = this.headNorm(key, "self_attn.k_norm", kvHeadCount);
    if (traits.rope !== undefined) {
      const pairs = traits.rope.inverseFrequencies.length;
      const number = ropesOf(this.architecture).indexOf(traits.rope);
      const tables = [
        graph.input(`cos_${number}`, "FLOAT", ["positions", pairs]),
        graph.input(`sin_${number}`, "FLOAT", ["positions", pairs]),
        graph.input(POSITION_INPUTS.ids, "INT64", ["batch", "tokens"]),
      ];
      const turn = (heads: Value, count: number): Value =>
        graph.op("RotaryEmbedding", [heads, ...tables], {
          num_heads: count,
          rotary_embedding_dim: 2 * pairs === headDim ? 0 : 2 * pairs,
        });
      query = turn(query, headCount);
      key = turn(key, kvHeadCount);
    }
    return this.options.portable ? this.plainAttention(query, key, value) : this.fusedAttention(query, key, value);
  }

  /** Softmax attention of (batch, tokens, heads × head_dim) in one operator that never holds a whole matrix of scores. */
  private fusedAttention(query: Value, key: Value, value: Value): Value {
    const { graph, options, index } = this;
    const { headCount, kvHeadCount, attentionScale, attentionSoftcap, layers } = this.architecture;
    const { slidingWindow } = layers[index];
    const past = options.cache ? [this.cacheInput("past_key"), this.cacheInput("past_value")] : ["", ""];
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
      this.cacheOutput("present_key", presentKey);
      this.cacheOutput("present_value", presentValue);
    }
    return out;
  }

  /** The same in standard operators: heads that share keys lie one behind the other as rows of one product. */
  private plainAttention(query: Value, key: Value, value: Value): Value {
    const { graph, options, index } = this;
    const { headCount, kvHeadCount, headDim, attentionScale, attentionSoftcap, layers } = this.architecture;
    const group = headCount / kvHeadCount;
    const split = graph.op("Reshape", [query, graph.integers(0, 0, kvHeadCount, group, headDim)]);
    const byHead = graph.op("Transpose", [split], { perm: [0n, 2n, 3n, 1n, 4n] });
    // (batch, key heads, group × tokens, head_dim)
    const rows = graph.op("Reshape", [byHead, graph.integers(0, 0, -1, headDim)]);
    const withPast = (name: "key" | "value", now: Value): Value => {
      const heads = graph.op("Reshape", [now, graph.integers(0, 0, kvHeadCount, headDim)]);
      const turned = graph.op("Transpose", [heads], { perm: [0n, 2n, 1n, 3n] });
      if (!options.cache) return turned;
      const all = graph.op("Concat", [this.cacheInput(`past_${name}`), turned], { axis: 2 });
      this.cacheOutput(`present_${name}`, all);
      return all;
    };
    const keys = graph.op("Transpose", [withPast("key", key)], { perm: [0n, 1n, 3n, 2n] });
    const values = withPast("value", value);
    let scores = graph.op("Mul", [graph.op("MatMul", [rows, keys]), graph.scalar(attentionScale)]);
    if (attentionSoftcap !== undefined) {
      const cap = graph.scalar(attentionSoftcap);
      scores = graph.op("Mul", [graph.op("Tanh", [graph.op("Div", [scores, cap])]), cap]);
    }
    const mask = graph.input(maskInput(layers[index].slidingWindow), "FLOAT", ["tokens", "total_tokens"]);
    const masked = graph.op("Add", [scores, graph.op("Tile", [mask, graph.integers(group, 1)])]);
    const mixed = graph.op("MatMul", [graph.op("Softmax", [masked], { axis: -1 }), values]);
    const heads = graph.op("Reshape", [mixed, graph.integers(0, 0, group, -1, headDim)]);
    const byToken = graph.op("Transpose", [heads], { perm: [0n, 3n, 1n, 2n, 4n] });
    return graph.op("Reshape", [byToken, graph.integers(0, 0, headCount * headDim)]);
  }

  private cacheInput(name: string): Value {
    const { kvHeadCount, headDim } = this.architecture;
    return this.graph.input(`${name}_${this.index}`, "FLOAT", ["batch", kvHeadCount, "past", headDim]);
  }

  private cacheOutput(name: string, value: Value): void {
    const { kvHeadCount, headDim } = this.architecture;
    this.graph.output(`${name}_${this.index}`, value, "FLOAT", ["batch", kvHeadCount, "present", headDim]);
  }

  /** Input of gate, up → input of down. */
  gate(x: Value): Value {
    const [gate, up] = this.gateAndUp(x);
    return this.graph.op("Mul", [this.activate(gate), up]);
  }

  /**
   * Input of gate, up → (batch, tokens, 1): how much of an error in gate or up reaches the output of down, Σ_i |down_i|² (f(g_i)² + (u_i f′(g_i))²) over the
   * neurons i of gate g, up u and the column down_i, for errors of one size and independent.
   */
  listen(x: Value): Value {
    const { graph } = this;
    const { hiddenSize, intermediateSize } = this.architecture;
    const [gate, up] = this.gateAndUp(x);
    const active = this.activate(gate);
    // The slope of any activation function as a central difference: a weight of tokens need not be exact.
    const step = 1 / 64;
    const above = this.activate(graph.op("Add", [gate, graph.scalar(step)]));
    const below = this.activate(graph.op("Sub", [gate, graph.scalar(step)]));
    const slope = graph.op("Mul", [graph.op("Sub", [above, below]), graph.scalar(1 / (2 * step))]);
    const turned = graph.op("Mul", [up, slope]);
    const heard = graph.op("Add", [graph.op("Mul", [active, active]), graph.op("Mul", [turned, turned])]);
    const name = `${this.base}mlp.down_proj.weight`;
    const down = storedValue(graph, this.weights.get(name, [hiddenSize, intermediateSize]));
    const energies = graph.op("ReduceSumSquare", [down, graph.integers(0)], { keepdims: 0 });
    return graph.op("MatMul", [heard, graph.op("Reshape", [energies, graph.integers(-1, 1)])]);
  }

  private gateAndUp(x: Value): [gate: Value, up: Value] {
    const { graph } = this;
    const { hiddenSize, intermediateSize, fused } = this.architecture;
    if (!fused) {
      return [
        this.linear(x, "mlp.gate_proj", intermediateSize, hiddenSize),
        this.linear(x, "mlp.up_proj", intermediateSize, hiddenSize),
      ];
    }
    const both = this.linear(x, "mlp.gate_up_proj", 2 * intermediateSize, hiddenSize);
    const [gate, up] = graph.ops("Split", [both, graph.integers(intermediateSize, intermediateSize)], 2, { axis: -1 });
    return [gate, up];
  }

  private activate(gate: Value): Value {
    const { graph } = this;
    const { activation } = this.architecture;
    if (activation === "silu") return graph.op("Mul", [gate, graph.op("Sigmoid", [gate])]);
    return graph.op("Gelu", [gate], { approximate: activation === "gelu_tanh" ? "tanh" : "none" });
  }

  /** RMS norm of each head's channels, where the checkpoint has one (Qwen3, Gemma 3). */
  private headNorm(heads: Value, name: string, count: number): Value {
    const { graph, architecture } = this;
    if (!this.weights.has(`${this.base}${name}.weight`)) return heads;
    const split = graph.op("Reshape", [heads, graph.integers(0, 0, count, architecture.headDim)]);
    const normed = this.norm(split, name, architecture.headDim);
    return graph.op("Reshape", [normed, graph.integers(0, 0, count * architecture.headDim)]);
  }

  private norm(x: Value, name: string, width: number): Value {
    return rmsNorm(this.graph, this.architecture, this.weights, x, `${this.base}${name}.weight`, width);
  }

  /** x Wᵀ + b; the bias where the checkpoint has one. */
  private linear(x: Value, projection: string, rows: number, cols: number): Value {
    const { graph, weights, options } = this;
    const name = `${this.base}${projection}.weight`;
    const matrix = options.supplied?.has(name)
      ? graph.input(name, "FLOAT", [rows, cols])
      : storedValue(graph, weights.get(name, [rows, cols]));
    const product = multiply(graph, x, matrix, rows, cols, options.portable);
    const bias = `${this.base}${projection}.bias`;
    return weights.has(bias) ? graph.op("Add", [product, storedValue(graph, weights.get(bias, [rows]))]) : product;
  }
}

/** x / √(mean x² + ε) · (weight + offset). source: arXiv:1910.07467 */
export function rmsNorm(
  graph: OnnxGraph,
  architecture: Architecture,
  weights: Weights,
  x: Value,
  name: string,
  width: number,
): Value {
  const stored = storedValue(graph, weights.get(name, [width]));
  const weight = architecture.normOffset === 0 ? stored : graph.op("Add", [stored, graph.scalar(1)]);
  return graph.op("RMSNormalization", [x, weight], { axis: -1, epsilon: { float: architecture.normEps } });
}

/**
 * x Wᵀ for x (batch, tokens, cols) and W (rows, cols). On the CPU FusedMatMul reads W as it is stored and packs it where it is constant;
 * Gemm is the standard's operator for the same.
 */
export function multiply(
  graph: OnnxGraph,
  x: Value,
  matrix: Value,
  rows: number,
  cols: number,
  portable: boolean,
): Value {
  if (!portable) return graph.op("FusedMatMul", [x, matrix], { transB: 1 }, "com.microsoft");
  const flat = graph.op("Gemm", [graph.op("Reshape", [x, graph.integers(-1, cols)]), matrix], { transB: 1 });
  const batch = graph.op("Shape", [x], { start: 0, end: 2 });
  return graph.op("Reshape", [flat, graph.op("Concat", [batch, graph.integers(rows)], { axis: 0 })]);
}
