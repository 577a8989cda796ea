import { OnnxGraph, type Value } from "../../engine/onnx-graph.js";
import type { Architecture } from "../../model/architecture.js";
import { ExpertParts, route, sharedGateAndUp, sharedShare } from "./expert-mix.js";
import { latentsOf } from "./latent-attention.js";
import { type GraphOptions, LayerBuilder } from "./layer-builder.js";
import type { Weights } from "./weights.js";

/** Graphs of what lies inside a step, where projections have inputs of their own. */
export class InnerGraphs {
  constructor(
    private readonly architecture: Architecture,
    private readonly weights: Weights,
    private readonly layer: number,
    private readonly options: GraphOptions,
  ) {}

  /** given (batch, tokens, hidden) → query (…, query rank), where there is one, and key (…, key and value rank). */
  latents(): OnnxGraph {
    const { graph, layer, given } = this.open();
    const { mixer } = this.traits;
    if (mixer?.kind !== "latent") throw new Error("a layer without latents was asked for them");
    const { query, key } = latentsOf(layer, mixer, this.architecture.hiddenSize, given);
    if (query !== undefined) graph.output("query", query, "FLOAT", ["batch", "tokens", mixer.queryRank!]);
    graph.output("key", key, "FLOAT", ["batch", "tokens", mixer.keyValueRank]);
    return graph;
  }

  /** given → routing (batch · tokens, experts): what each expert counts for each token, 0 where it was not chosen. */
  routing(): OnnxGraph {
    const { graph, layer, given } = this.open();
    const { hiddenSize } = this.architecture;
    const flat = graph.op("Reshape", [given, graph.integers(-1, hiddenSize)]);
    graph.output("routing", route(layer, this.experts, hiddenSize, flat), "FLOAT", ["all", this.experts.count]);
    return graph;
  }

  /** given (1, tokens, hidden), tokens of one expert → hidden (…, width): the input of its down. */
  expertHidden(expert: number): OnnxGraph {
    const { graph, layer, given } = this.open();
    const mlp = new ExpertParts(layer, this.experts, this.architecture.hiddenSize, expert);
    graph.output("hidden", mlp.bend(...mlp.gateAndUp(given)), "FLOAT", ["batch", "tokens", this.experts.width]);
    return graph;
  }

  /** given (1, tokens, hidden) → listening (…, 1), as `LayerBuilder.listen` has it, inside one expert. */
  expertListening(expert: number): OnnxGraph {
    const { graph, layer, given } = this.open();
    const mlp = new ExpertParts(layer, this.experts, this.architecture.hiddenSize, expert);
    const [gate, up] = mlp.gateAndUp(given);
    const heard = heardBy(graph, gate, up, (g, u) => mlp.bend(g, u), mlp.downEnergies());
    graph.output("listening", heard, "FLOAT", ["batch", "tokens", 1]);
    return graph;
  }

  /** given → hidden (…, width): the input of down in the MLP that every token passes. */
  sharedHidden(): OnnxGraph {
    const { graph, layer, given } = this.open();
    const { shared, gate, up } = this.sharedParts(layer, given);
    graph.output("hidden", graph.op("Mul", [layer.activate(gate), up]), "FLOAT", ["batch", "tokens", shared.width]);
    return graph;
  }

  /** given → listening (…, 1) inside the MLP that every token passes, and share (…, 1), what its output counts. */
  sharedListening(): OnnxGraph {
    const { graph, layer, given } = this.open();
    const { hiddenSize } = this.architecture;
    const { shared, gate, up } = this.sharedParts(layer, given);
    const down = layer.stored(`${shared.path}.down_proj.weight`, [hiddenSize, shared.width]);
    const energies = graph.op("ReduceSumSquare", [down, graph.integers(0)], { keepdims: 0 });
    const bend = (g: Value, u: Value): Value => graph.op("Mul", [layer.activate(g), u]);
    const heard = heardBy(graph, gate, up, bend, energies);
    const share =
      sharedShare(layer, shared, hiddenSize, given) ?? graph.op("ConstantOfShape", [graph.op("Shape", [heard])]);
    const counts = shared.gate === undefined ? graph.op("Add", [share, graph.scalar(1)]) : share;
    graph.output("listening", heard, "FLOAT", ["batch", "tokens", 1]);
    graph.output("share", counts, "FLOAT", ["batch", "tokens", 1]);
    return graph;
  }

  private sharedParts(layer: LayerBuilder, given: Value) {
    const { shared } = this.experts;
    if (shared === undefined) throw new Error("a mixture without a shared MLP was asked for it");
    const [gate, up] = sharedGateAndUp(layer, shared, this.architecture.hiddenSize, given);
    return { shared, gate, up };
  }

  private get traits() {
    return this.architecture.layers[this.layer];
  }

  private get experts() {
    const { experts } = this.traits;
    if (experts === undefined) throw new Error("a layer without experts was asked for them");
    return experts;
  }

  private open(): { graph: OnnxGraph; layer: LayerBuilder; given: Value } {
    const graph = new OnnxGraph();
    const layer = new LayerBuilder(graph, this.architecture, this.weights, this.layer, this.options);
    return { graph, layer, given: graph.input("given", "FLOAT", ["batch", "tokens", this.architecture.hiddenSize]) };
  }
}

/**
 * How much of an error in gate or up reaches the output of down: Σ_i |down_i|² ((∂f/∂g)² + (∂f/∂u)²) of f(gate, up),
 * (…, 1). Slopes are central differences: a weight of tokens need not be exact.
 */
function heardBy(
  graph: OnnxGraph,
  gate: Value,
  up: Value,
  bend: (gate: Value, up: Value) => Value,
  energies: Value,
): Value {
  const step = 1 / 64;
  const moved = (value: Value, by: number): Value => graph.op("Add", [value, graph.scalar(by)]);
  const slope = (above: Value, below: Value): Value =>
    graph.op("Mul", [graph.op("Sub", [above, below]), graph.scalar(1 / (2 * step))]);
  const byGate = slope(bend(moved(gate, step), up), bend(moved(gate, -step), up));
  const byUp = slope(bend(gate, moved(up, step)), bend(gate, moved(up, -step)));
  const heard = graph.op("Add", [graph.op("Mul", [byGate, byGate]), graph.op("Mul", [byUp, byUp])]);
  return graph.op("MatMul", [heard, graph.op("Reshape", [energies, graph.integers(-1, 1)])]);
}
