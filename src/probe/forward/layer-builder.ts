import { ONNX_TYPE, type OnnxGraph, type Value } from "../../engine/onnx-graph.js";
import { type Architecture, type QueryKeyNorm, sizedFor } from "../../model/architecture.js";
import { layerBase } from "../../model/names.js";
import type { Rope } from "../../model/rope.js";
import { projectionsOf } from "../../model/sites.js";
import { type Projection, type Step, storedShape, suppliedName } from "../../model/steps.js";
import { headNormPaths } from "../../model/tensors.js";
import { AltUp } from "./alt-up.js";
import { fusedAttention, plainAttention } from "./attention.js";
import { CarriedValues } from "./carried.js";
import { attendByDeltaRule } from "./delta-rule.js";
import { mixExperts } from "./expert-mix.js";
import {
  activate,
  attendsPlainly,
  multiply,
  norm,
  POSITION_INPUTS,
  ropesOf,
  standingOut,
  xielu,
} from "./graph-parts.js";
import { attendThroughLatent } from "./latent-attention.js";
import type { LayerParts, MatrixShape } from "./layer-parts.js";
import { perLayerHidden } from "./per-layer-inputs.js";
import { shortConvolution } from "./short-conv.js";
import { storedValue, type Weights } from "./weights.js";

export interface GraphOptions {
  /** Standard operators only: see `EngineOptions.portable`. */
  readonly portable: boolean;
  /**
   * Take keys and values of earlier tokens (`past_key_<layer>`, `past_value_<layer>`) and give all of them
   * (`present_…`).
   */
  readonly cache?: boolean;
  /** What comes with each run instead of from the file: graph inputs called as `suppliedName` says, (rows, cols). */
  readonly supplied?: ReadonlySet<string>;
  /** Attention of operators that gradients pass through, whatever the device. */
  readonly differentiable?: boolean;
}

/**
 * One decoder layer in a graph, part by part. What other files build of a layer (experts, other mixers) builds on its
 * public parts.
 */
export class LayerBuilder implements LayerParts {
  /** What stands before the layer's tensors. */
  readonly base: string;

  readonly architecture: Architecture;
  private readonly altUp: AltUp | undefined;

  constructor(
    readonly graph: OnnxGraph,
    architecture: Architecture,
    readonly weights: Weights,
    readonly index: number,
    readonly options: GraphOptions,
    readonly carried = new CarriedValues(graph),
  ) {
    this.architecture = sizedFor(architecture, index);
    this.altUp = architecture.altUp === undefined ? undefined : new AltUp(this, { architecture, weights }, carried);
    this.base = layerBase(architecture.names, weights.prefix, index);
  }

  /** residual → input of q, k, v. */
  begin(residual: Value): Value {
    return this.residualNorm(this.altUp?.active(residual) ?? residual, this.architecture.block.attentionIn);
  }

  /** Input of o, residual → residual. */
  addAttention(x: Value, residual: Value): Value {
    const [o] = this.projections("o");
    const given = this.residualNorm(this.product(x, o), this.architecture.block.attentionOut);
    if (this.altUp === undefined) return this.add(residual, given);
    const attended = this.add(this.altUp.active(residual), given);
    return this.altUp.addDetour(residual, this.begin(residual), attended);
  }

  /** The residual streams before and behind attention → input of gate, up. */
  enterMlp(before: Value, behind: Value): Value {
    const { mlpIn, parallel } = this.architecture.block;
    return this.residualNorm(parallel ? before : behind, mlpIn);
  }

  /** Input of down (of the mixture, where there are experts), residual → residual. */
  addMlp(x: Value, residual: Value): Value {
    const { hiddenSize, block, layers } = this.architecture;
    const { experts } = layers[this.index];
    const [down] = this.projections("down");
    const out = experts === undefined ? this.product(x, down) : mixExperts(this, experts, hiddenSize, x);
    return this.leave(this.add(residual, this.residualNorm(out, block.mlpOut)));
  }

  /** What comes behind the MLP in a few families: a detour gated by what the layer is told, and a factor. */
  private leave(residual: Value): Value {
    const { graph, architecture, weights, base, index, carried } = this;
    const { names, perLayerInputs, hiddenSize } = architecture;
    const told = (stream: Value): Value => {
      const hidden = perLayerHidden(this, architecture, index, carried, stream);
      const product = this.linear(hidden, names.perLayer!.out, hiddenSize, perLayerInputs!.width);
      return this.residualNorm(product, names.perLayer!.outNorm);
    };
    if (this.altUp !== undefined) return this.altUp.leave(residual, index === architecture.layerCount - 1, told);
    const out = perLayerInputs === undefined ? residual : graph.op("Add", [residual, told(residual)]);
    const scalar = `${base}${names.layerScalar}`;
    return weights.has(scalar) ? graph.op("Mul", [out, storedValue(graph, weights.anyOf(scalar, 1))]) : out;
  }

  /** Input of q, k, v → input of o. */
  attend(x: Value): Value {
    const { architecture } = this;
    const { hiddenSize, headCount, kvHeadCount, headDim, qkNorm } = architecture;
    const { rope, mixer, unitHeads, queryGrowth } = architecture.layers[this.index];
    if (mixer?.kind === "convolution") return shortConvolution(this, hiddenSize, mixer.kernelSize, x);
    if (mixer?.kind === "delta rule") return attendByDeltaRule(this, mixer, hiddenSize, architecture.norm.eps, x);
    if (mixer?.kind === "latent") {
      const attention = {
        turn: (heads: Value, count: number, dim: number): Value => this.turn(heads, rope!, count, dim),
        mix: (query: Value, key: Value, value: Value): Value => this.mix(query, key, value),
      };
      return attendThroughLatent(this, attention, mixer, headCount, hiddenSize, x);
    }
    let { query, key, value, gate } = this.queryKeyValue(x);
    const { takesKeys, keepsKeys, unitValues } = architecture.layers[this.index];
    const ownsKeys = takesKeys === undefined;
    if (unitValues && ownsKeys) value = this.unitHeads(value, kvHeadCount);
    const normed = (): void => {
      if (qkNorm === undefined) return;
      query = this.headNorm(query, qkNorm, qkNorm.query, headCount);
      if (ownsKeys) key = this.headNorm(key, qkNorm, qkNorm.key, kvHeadCount);
    };
    if (!qkNorm?.afterRope) normed();
    if (rope !== undefined) {
      query = this.turn(query, rope, headCount);
      if (ownsKeys) key = this.turn(key, rope, kvHeadCount);
    }
    if (qkNorm?.afterRope) normed();
    if (unitHeads) {
      query = this.unitHeads(query, headCount);
      key = this.unitHeads(key, kvHeadCount);
    }
    const keyWidth = kvHeadCount * headDim;
    if (takesKeys !== undefined) {
      key = this.carried.get(`key_${takesKeys}`, keyWidth);
      value = this.carried.get(`value_${takesKeys}`, keyWidth);
    }
    if (keepsKeys !== undefined) {
      this.carried.keep(`key_${keepsKeys}`, key, keyWidth);
      this.carried.keep(`value_${keepsKeys}`, value, keyWidth);
    }
    if (rope?.queryScale !== undefined) query = this.scaleByPlace(query, rope);
    if (queryGrowth !== undefined) query = this.growWithPlace(query, queryGrowth);
    const mixed = this.mix(query, key, value);
    return gate === undefined ? mixed : this.graph.op("Mul", [mixed, this.graph.op("Sigmoid", [gate])]);
  }

  /** Softmax attention of (batch, tokens, heads × head_dim). */
  private mix(query: Value, key: Value, value: Value): Value {
    const { portable, differentiable = false } = this.options;
    return attendsPlainly(this.architecture, portable || differentiable)
      ? plainAttention(this, query, key, value)
      : fusedAttention(this, query, key, value);
  }

  /** Each (batch, tokens, heads × head_dim); a gate on what attention gives where the queries' product has one. */
  private queryKeyValue(x: Value): { query: Value; key: Value; value: Value; gate?: Value } {
    const { graph } = this;
    const { headCount, kvHeadCount, headDim, qkvLayout, gatedQueries } = this.architecture;
    const parts = this.projections("qkv").map((projection) => this.product(x, projection));
    const queryRows = headCount * headDim;
    const keyRows = kvHeadCount * headDim;
    if (qkvLayout === "separate") {
      // Where values are keys there is no third product; where another layer's are taken, no second.
      const [query, key, value = key] = parts;
      if (!gatedQueries) return { query, key, value };
      const twice = graph.op("Reshape", [query, graph.integers(0, 0, headCount, 2 * headDim)]);
      const halves = graph.ops("Split", [twice, graph.integers(headDim, headDim)], 2, { axis: -1 });
      const [own, gate] = halves.map((half) => graph.op("Reshape", [half, graph.integers(0, 0, queryRows)]));
      return { query: own, key, value, gate };
    }
    if (qkvLayout === "rows") {
      const sizes = graph.integers(queryRows, keyRows, keyRows);
      const [query, key, value] = graph.ops("Split", [parts[0], sizes], 3, { axis: -1 });
      return { query, key, value };
    }
    const group = headCount / kvHeadCount;
    const heads = graph.op("Reshape", [parts[0], graph.integers(0, 0, kvHeadCount, group + 2, headDim)]);
    const split = graph.ops("Split", [heads, graph.integers(group, 1, 1)], 3, { axis: 3 });
    const flat = (value: Value, width: number) => graph.op("Reshape", [value, graph.integers(0, 0, width)]);
    return { query: flat(split[0], queryRows), key: flat(split[1], keyRows), value: flat(split[2], keyRows) };
  }

  private turn(heads: Value, rope: Rope, count: number, dim = this.architecture.headDim): Value {
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
      rotary_embedding_dim: 2 * pairs === dim ? 0 : 2 * pairs,
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

  /** Queries times 1 + scale · ln(1 + ⌊(position + 1) / floor⌋). */
  private growWithPlace(query: Value, { floor, scale }: { readonly floor: number; readonly scale: number }): Value {
    const { graph } = this;
    const ids = graph.input(POSITION_INPUTS.ids, "INT64", ["batch", "tokens"]);
    const places = graph.op("Add", [graph.op("Cast", [ids], { to: ONNX_TYPE.FLOAT }), graph.scalar(1)]);
    const steps = graph.op("Floor", [graph.op("Div", [places, graph.scalar(floor)])]);
    const log = graph.op("Log", [graph.op("Add", [steps, graph.scalar(1)])]);
    const factor = graph.op("Add", [graph.op("Mul", [log, graph.scalar(scale)]), graph.scalar(1)]);
    return graph.op("Mul", [query, graph.op("Unsqueeze", [factor, graph.integers(-1)])]);
  }

  /** Each head divided by its size, without a weight. */
  private unitHeads(heads: Value, count: number): Value {
    const { graph } = this;
    const { headDim, norm } = this.architecture;
    const split = graph.op("Reshape", [heads, graph.integers(0, 0, count, headDim)]);
    const ones = graph.constant(new Float32Array(headDim).fill(1));
    const normed = graph.op("RMSNormalization", [split, ones], { axis: -1, epsilon: { float: norm.eps } });
    return graph.op("Reshape", [normed, graph.integers(0, 0, count * headDim)]);
  }

  /** Input of gate, up → input of down. A mixture of experts is one whole: it takes place at down. */
  gate(x: Value): Value {
    if (this.architecture.layers[this.index].experts !== undefined) return x;
    const [inner, up] = this.gateAndUp(x);
    const active = this.activate(inner);
    return up === undefined ? active : this.graph.op("Mul", [active, up]);
  }

  /**
   * Input of gate, up → (batch, tokens, 1): how much of an error in gate or up reaches the output of down, Σ_i
   * |down_i|² (f(g_i)² + (u_i f′(g_i))²) over the
   * neurons i of gate g, up u and the column down_i, for errors of one size and independent. Without a gate Σ_i
   * |down_i|² f′(u_i)².
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
    const [down] = this.projections("down");
    const stored = storedValue(graph, this.weights.get(down.tensor, storedShape(down)));
    const energies = graph.op("ReduceSumSquare", [stored, graph.integers(down.transposed ? 1 : 0)], { keepdims: 0 });
    return graph.op("MatMul", [heard, graph.op("Reshape", [energies, graph.integers(-1, 1)])]);
  }

  /** What the activation function takes, and what its result is multiplied by, if anything. */
  private gateAndUp(x: Value): [inner: Value, up: Value | undefined] {
    const { graph } = this;
    const { intermediateSize, mlp } = this.architecture;
    const parts = this.projections("gate_up").map((projection) => this.product(x, projection));
    const { gateCutoff } = this.architecture.layers[this.index];
    if (gateCutoff !== undefined) parts[0] = standingOut(graph, parts[0], gateCutoff);
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

  /**
   * x Wᵀ + b; the bias where the checkpoint has one. Supplied weights come as (rows, cols) whatever the file's order.
   */
  private product(x: Value, { tensor, rows, cols, transposed }: Omit<Projection, "step" | "projection">): Value {
    const { graph, weights, options } = this;
    const isSupplied = options.supplied?.has(tensor) ?? false;
    const matrix = isSupplied
      ? graph.input(tensor, "FLOAT", [rows, cols])
      : storedValue(graph, weights.get(tensor, transposed ? [cols, rows] : [rows, cols]));
    const product = multiply(graph, x, matrix, rows, cols, options.portable, transposed && !isSupplied);
    const bias = tensor.replace(/weight$/, "bias");
    return weights.has(bias) ? graph.op("Add", [product, storedValue(graph, weights.get(bias, [rows]))]) : product;
  }

  linear(x: Value, path: string, rows: number, cols: number): Value {
    const tensor = `${this.base}${path}.weight`;
    return this.product(x, { tensor, rows, cols, transposed: false });
  }

  norm(x: Value, path: string, width: number): Value {
    const { graph, architecture, weights, base } = this;
    return norm(graph, architecture.norm, weights, x, `${base}${path}`, width);
  }

  stacked(path: string, stack: NonNullable<Projection["stack"]>, shape: MatrixShape): Value {
    const { graph, options } = this;
    const place = { ...shape, tensor: `${this.base}${path}`, stack };
    const name = suppliedName(place);
    const turn = (matrix: Value): Value => graph.op("Transpose", [matrix], { perm: [1n, 0n] });
    if (options.supplied?.has(name)) return turn(graph.input(name, "FLOAT", [shape.rows, shape.cols]));
    const whole = storedShape(place);
    const slice = this.stored(path, whole, stack.index, stack.index + 1);
    const matrix = graph.op("Reshape", [slice, graph.integers(...whole.slice(1))]);
    return shape.transposed ? matrix : turn(matrix);
  }

  stored(path: string, shape: readonly number[], rowStart?: number, rowEnd?: number): Value {
    return storedValue(this.graph, this.weights.get(`${this.base}${path}`, shape), rowStart, rowEnd);
  }

  has(path: string): boolean {
    return this.weights.has(`${this.base}${path}`);
  }
}
