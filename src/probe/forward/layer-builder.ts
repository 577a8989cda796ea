import type { OnnxGraph, Value } from "../../engine/onnx-graph.js";
import type { Architecture, QueryKeyNorm } from "../../model/architecture.js";
import { layerBase } from "../../model/names.js";
import type { Rope } from "../../model/rope.js";
import { type Projection, projectionsOf, type Step } from "../../model/steps.js";
import { headNormPaths } from "../../model/tensors.js";
import { fusedAttention, plainAttention } from "./attention.js";
import { activate, attendsPlainly, multiply, norm, POSITION_INPUTS, ropesOf, xielu } from "./graph-parts.js";
import { storedValue, type Weights } from "./weights.js";

export interface GraphOptions {
  /** Standard operators only: see `EngineOptions.portable`. */
  readonly portable: boolean;
  /** Take keys and values of earlier tokens (`past_key_<layer>`, `past_value_<layer>`) and give all of them (`present_…`). */
  readonly cache?: boolean;
  /** Tensors whose weights come with each run (graph inputs of the tensor's name) instead of from the file. */
  readonly supplied?: ReadonlySet<string>;
}

/** One decoder layer in a graph, part by part. What other files build of a layer (experts, other mixers) builds on its public parts. */
export class LayerBuilder {
  /** What stands before the layer's tensors. */
  readonly base: string;

  constructor(
    readonly graph: OnnxGraph,
    readonly architecture: Architecture,
    readonly weights: Weights,
    readonly index: number,
    readonly options: GraphOptions,
  ) {
    this.base = layerBase(architecture.names, weights.prefix, index);
  }

  /** residual → input of q, k, v. */
  begin(residual: Value): Value {
    return this.residualNorm(residual, this.architecture.block.attentionIn);
  }

  /** Input of o, residual → residual. */
  addAttention(x: Value, residual: Value): Value {
    const [o] = this.projections("o");
    return this.add(residual, this.residualNorm(this.linear(x, o), this.architecture.block.attentionOut));
  }

  /** The residual streams before and behind attention → input of gate, up. */
  enterMlp(before: Value, behind: Value): Value {
    const { mlpIn, parallel } = this.architecture.block;
    return this.residualNorm(parallel ? before : behind, mlpIn);
  }

  /** Input of down, residual → residual. */
  addMlp(x: Value, residual: Value): Value {
    const [down] = this.projections("down");
    return this.add(residual, this.residualNorm(this.linear(x, down), this.architecture.block.mlpOut));
  }

  /** Input of q, k, v → input of o. */
  attend(x: Value): Value {
    const { architecture, options } = this;
    const { headCount, kvHeadCount, qkNorm } = architecture;
    const { rope } = architecture.layers[this.index];
    let [query, key, value] = this.queryKeyValue(x);
    const normed = (): void => {
      if (qkNorm === undefined) return;
      query = this.headNorm(query, qkNorm, qkNorm.query, headCount);
      key = this.headNorm(key, qkNorm, qkNorm.key, kvHeadCount);
    };
    if (!qkNorm?.afterRope) normed();
    if (rope !== undefined) {
      query = this.turn(query, rope, headCount);
      key = this.turn(key, rope, kvHeadCount);
    }
    if (qkNorm?.afterRope) normed();
    if (rope?.queryScale !== undefined) query = this.scaleByPlace(query, rope);
    return attendsPlainly(architecture, options.portable)
      ? plainAttention(this, query, key, value)
      : fusedAttention(this, query, key, value);
  }

  private queryKeyValue(x: Value): [query: Value, key: Value, value: Value] {
    const { graph } = this;
    const { headCount, kvHeadCount, headDim, qkvLayout } = this.architecture;
    const parts = this.projections("qkv").map((projection) => this.linear(x, projection));
    if (qkvLayout === "separate") return parts as [Value, Value, Value];
    const queryRows = headCount * headDim;
    const keyRows = kvHeadCount * headDim;
    if (qkvLayout === "rows") {
      const sizes = graph.integers(queryRows, keyRows, keyRows);
      return graph.ops("Split", [parts[0], sizes], 3, { axis: -1 }) as [Value, Value, Value];
    }
    const group = headCount / kvHeadCount;
    const heads = graph.op("Reshape", [parts[0], graph.integers(0, 0, kvHeadCount, group + 2, headDim)]);
    const split = graph.ops("Split", [heads, graph.integers(group, 1, 1)], 3, { axis: 3 });
    const flat = (value: Value, width: number) => graph.op("Reshape", [value, graph.integers(0, 0, width)]);
    return [flat(split[0], queryRows), flat(split[1], keyRows), flat(split[2], keyRows)];
  }

  private turn(heads: Value, rope: Rope, count: number): Value {
    const { graph, architecture } = this;
    const pairs = rope.inverseFrequencies.length;
    const number = ropesOf(architecture).indexOf(rope);
    const tables = [
      graph.input(`cos_${number}`, "FLOAT", ["positions", pairs]),
      graph.input(`sin_${number}`, "FLOAT", ["positions", pairs]),
      graph.input(POSITION_INPUTS.ids, "INT64", ["batch", "tokens"]),
    ];
    return graph.op("RotaryEmbedding", [heads, ...tables], {
      num_heads: count,
      rotary_embedding_dim: 2 * pairs === architecture.headDim ? 0 : 2 * pairs,
      ...(rope.interleaved ? { interleaved: 1 } : {}),
    });
  }

  private scaleByPlace(query: Value, rope: Rope): Value {
    const { graph } = this;
    const scales = graph.input(`query_scale_${ropesOf(this.architecture).indexOf(rope)}`, "FLOAT", ["positions"]);
    const ids = graph.input(POSITION_INPUTS.ids, "INT64", ["batch", "tokens"]);
    const picked = graph.op("Gather", [scales, ids], { axis: 0 });
    return graph.op("Mul", [query, graph.op("Unsqueeze", [picked, graph.integers(-1)])]);
  }

  /** Input of gate, up → input of down. */
  gate(x: Value): Value {
    const [inner, up] = this.gateAndUp(x);
    const active = this.activate(inner);
    return up === undefined ? active : this.graph.op("Mul", [active, up]);
  }

  /**
   * Input of gate, up → (batch, tokens, 1): how much of an error in gate or up reaches the output of down, Σ_i |down_i|² (f(g_i)² + (u_i f′(g_i))²) over the
   * neurons i of gate g, up u and the column down_i, for errors of one size and independent. Without a gate Σ_i |down_i|² f′(u_i)².
   */
  listen(x: Value): Value {
    const { graph } = this;
    const [inner, up] = this.gateAndUp(x);
    // The slope of any activation function as a central difference: a weight of tokens need not be exact.
    const step = 1 / 64;
    const above = this.activate(graph.op("Add", [inner, graph.scalar(step)]));
    const below = this.activate(graph.op("Sub", [inner, graph.scalar(step)]));
    const slope = graph.op("Mul", [graph.op("Sub", [above, below]), graph.scalar(1 / (2 * step))]);
    let heard: Value;
    if (up === undefined) heard = graph.op("Mul", [slope, slope]);
    else {
      const active = this.activate(inner);
      const turned = graph.op("Mul", [up, slope]);
      heard = graph.op("Add", [graph.op("Mul", [active, active]), graph.op("Mul", [turned, turned])]);
    }
    const [{ tensor, rows, cols, transposed }] = this.projections("down");
    const down = storedValue(graph, this.weights.get(tensor, transposed ? [cols, rows] : [rows, cols]));
    const energies = graph.op("ReduceSumSquare", [down, graph.integers(transposed ? 1 : 0)], { keepdims: 0 });
    return graph.op("MatMul", [heard, graph.op("Reshape", [energies, graph.integers(-1, 1)])]);
  }

  /** What the activation function takes, and what its result is multiplied by, if anything. */
  private gateAndUp(x: Value): [inner: Value, up: Value | undefined] {
    const { graph } = this;
    const { intermediateSize, mlp } = this.architecture;
    const parts = this.projections("gate_up").map((projection) => this.linear(x, projection));
    if (mlp !== "gated_rows") return [parts[0], parts[1]];
    const sizes = graph.integers(intermediateSize, intermediateSize);
    const [gate, up] = graph.ops("Split", [parts[0], sizes], 2, { axis: -1 });
    return [gate, up];
  }

  activate(x: Value): Value {
    const { graph, architecture, weights, base } = this;
    if (architecture.activation !== "xielu") return activate(graph, architecture.activation, x);
    const learned = (role: string, usual: number): Value => {
      const name = `${base}${architecture.names.extra![role]}`;
      return weights.has(name) ? storedValue(graph, weights.anyOf(name, 1)) : graph.scalar(usual);
    };
    return xielu(graph, x, {
      alphaPositive: learned("alphaPositive", Number.NaN),
      alphaNegative: learned("alphaNegative", Number.NaN),
      beta: learned("beta", 0.5),
      eps: learned("eps", -1e-6),
    });
  }

  private add(residual: Value, value: Value): Value {
    const { residualScale } = this.architecture;
    const scaled = residualScale === 1 ? value : this.graph.op("Mul", [value, this.graph.scalar(residualScale)]);
    return this.graph.op("Add", [residual, scaled]);
  }

  /** A norm of hidden_size channels by its name in the layer, or nothing. */
  residualNorm(x: Value, name: string | undefined): Value {
    const { graph, architecture, weights, base } = this;
    return name === undefined
      ? x
      : norm(graph, architecture.norm, weights, x, `${base}${name}`, architecture.hiddenSize);
  }

  /** Norm of queries or keys (batch, tokens, heads × head_dim). */
  private headNorm(heads: Value, qkNorm: QueryKeyNorm, path: string, count: number): Value {
    const { graph, architecture, weights, base } = this;
    const { headDim } = architecture;
    const traits = { ...architecture.norm, kind: qkNorm.kind, affine: true };
    if (qkNorm.over === "width") return norm(graph, traits, weights, heads, `${base}${path}`, count * headDim);
    const split = graph.op("Reshape", [heads, graph.integers(0, 0, count, headDim)]);
    const flat = (value: Value) => graph.op("Reshape", [value, graph.integers(0, 0, count * headDim)]);
    if (qkNorm.over === "head") return flat(norm(graph, traits, weights, split, `${base}${path}`, headDim));
    // A weight of its own a head: the norm itself has none, and all weights are multiplied at once.
    const bare = graph.op("LayerNormalization", [split, graph.constant(new Float32Array(headDim).fill(1))], {
      axis: -1,
      epsilon: { float: traits.eps },
    });
    const stored = (name: string, shape: number[]) => storedValue(graph, weights.get(`${base}${name}.weight`, shape));
    const weight =
      qkNorm.over === "each_head"
        ? stored(path, [count, headDim])
        : graph.op(
            "Concat",
            headNormPaths(qkNorm, path, count).map((name) =>
              graph.op("Reshape", [stored(name, [headDim]), graph.integers(1, headDim)]),
            ),
            { axis: 0 },
          );
    return flat(graph.op("Mul", [bare, weight]));
  }

  projections(step: Step): Projection[] {
    return projectionsOf(this.architecture, this.weights.prefix, this.index).filter(
      (projection) => projection.step === step,
    );
  }

  /** x Wᵀ + b; the bias where the checkpoint has one. Supplied weights come as (rows, cols) whatever the file's order. */
  linear(x: Value, { tensor, rows, cols, transposed }: Projection): Value {
    const { graph, weights, options } = this;
    const isSupplied = options.supplied?.has(tensor) ?? false;
    const matrix = isSupplied
      ? graph.input(tensor, "FLOAT", [rows, cols])
      : storedValue(graph, weights.get(tensor, transposed ? [cols, rows] : [rows, cols]));
    const product = multiply(graph, x, matrix, rows, cols, options.portable, transposed && !isSupplied);
    const bias = tensor.replace(/weight$/, "bias");
    return weights.has(bias) ? graph.op("Add", [product, storedValue(graph, weights.get(bias, [rows]))]) : product;
  }
}
