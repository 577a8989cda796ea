import type { OnnxGraph, Value } from "../../engine/onnx-graph.js";
import type { Experts, Routing, SharedExpert, StackedExperts } from "../../model/experts.js";
import type { LayerParts } from "./layer-parts.js";

/**
 * A mixture of experts in a graph: each expert sees the tokens that were sent to it and no others.
 *
 * x        (batch, tokens, hidden)
 * returns  (batch, tokens, hidden)
 */
export function mixExperts(parts: LayerParts, experts: Experts, hiddenSize: number, x: Value): Value {
  const { graph } = parts;
  const flat = graph.op("Reshape", [x, graph.integers(-1, hiddenSize)]);
  const weights = route(parts, experts, hiddenSize, flat);
  // Nothing yet, in the shape of the tokens.
  let sum = graph.op("ConstantOfShape", [graph.op("Shape", [flat])]);
  for (let expert = 0; expert < experts.count; expert++) {
    const column = graph.op("Gather", [weights, graph.integers(expert)], { axis: 1 });
    const places = graph.op("Transpose", [graph.op("NonZero", [graph.op("Squeeze", [column, graph.integers(1)])])], {
      perm: [1n, 0n],
    });
    const share = graph.op("GatherND", [column, places]);
    const seen = graph.op("GatherND", [flat, places]);
    const { scalesInput = false } = experts.routing;
    const input = scalesInput ? graph.op("Mul", [seen, share]) : seen;
    const mlp = new ExpertParts(parts, experts, hiddenSize, expert);
    const output = mlp.down(mlp.bend(...mlp.gateAndUp(input)));
    sum = graph.op("ScatterND", [sum, places, scalesInput ? output : graph.op("Mul", [output, share])], {
      reduction: "add",
    });
  }
  const shaped = graph.op("Reshape", [sum, graph.op("Shape", [x])]);
  const { shared } = experts;
  if (shared === undefined) return shaped;
  const [gate, up] = sharedGateAndUp(parts, shared, hiddenSize, x);
  const hidden = graph.op("Mul", [parts.activate(gate), up]);
  const common = parts.linear(hidden, `${shared.path}.down_proj`, hiddenSize, shared.width);
  const share = sharedShare(parts, shared, hiddenSize, x);
  return graph.op("Add", [shaped, share === undefined ? common : graph.op("Mul", [common, share])]);
}

/** hidden → gate and up of the MLP that every token passes. */
export function sharedGateAndUp(parts: LayerParts, shared: SharedExpert, hiddenSize: number, x: Value): [Value, Value] {
  return [
    parts.linear(x, `${shared.path}.gate_proj`, shared.width, hiddenSize),
    parts.linear(x, `${shared.path}.up_proj`, shared.width, hiddenSize),
  ];
}

/** What its output is multiplied by, (…, 1), if by anything. */
export function sharedShare(parts: LayerParts, shared: SharedExpert, hiddenSize: number, x: Value): Value | undefined {
  return shared.gate === undefined
    ? undefined
    : parts.graph.op("Sigmoid", [parts.linear(x, shared.gate, 1, hiddenSize)]);
}

/** (tokens, hidden) → (tokens, experts): what each expert's output counts for each token; 0 where it was not chosen. */
export function route(
  parts: LayerParts,
  { count, perToken, routing }: Experts,
  hiddenSize: number,
  flat: Value,
): Value {
  const { graph } = parts;
  const logits = parts.linear(flat, routing.path, count, hiddenSize);
  if (routing.kind === "sparse mixer") return sparseMixer(graph, logits, perToken, routing.jitter ?? 0);
  const scores =
    routing.kind === "softmax"
      ? graph.op("Softmax", [logits], { axis: -1 })
      : routing.kind === "sigmoid" || routing.scalesInput
        ? graph.op("Sigmoid", [logits])
        : logits;
  const [best, chosen] = largest(graph, eligible(parts, routing, count, scores, logits), perToken);
  // What was chosen by may differ from what counts.
  const isChosenByScore = routing.correction === undefined && !routing.scalesInput;
  let weights = isChosenByScore ? best : graph.op("GatherElements", [scores, chosen], { axis: 1 });
  if (routing.kind === "softmax of chosen") weights = graph.op("Softmax", [weights], { axis: -1 });
  if (routing.normalised) {
    const total = graph.op("ReduceSum", [weights, graph.integers(-1)], { keepdims: 1 });
    weights = graph.op("Div", [weights, graph.op("Add", [total, graph.scalar(1e-20)])]);
  }
  if (routing.scale !== undefined) weights = graph.op("Mul", [weights, graph.scalar(routing.scale)]);
  const none = graph.op("ConstantOfShape", [graph.op("Shape", [logits])]);
  return graph.op("ScatterElements", [none, chosen, weights], { axis: 1 });
}

function largest(graph: OnnxGraph, values: Value, count: number): Value[] {
  return graph.ops("TopK", [values, graph.integers(count)], 2, { axis: -1, largest: 1, sorted: 1 });
}

/**
 * What experts are chosen by: scores with their correction, those of groups out of the running far below all others.
 */
function eligible(parts: LayerParts, routing: Routing, count: number, scores: Value, logits: Value): Value {
  const { graph } = parts;
  // A sigmoid that is only a factor keeps the order of the logits, and large ones apart.
  let choice = routing.scalesInput ? logits : scores;
  if (routing.correction !== undefined) {
    choice = graph.op("Add", [choice, parts.stored(routing.correction, [count])]);
  }
  const { groups } = routing;
  if (groups === undefined || groups.chosen === groups.count) return choice;
  const inGroups = graph.op("Reshape", [choice, graph.integers(-1, groups.count, count / groups.count)]);
  const [two] = largest(graph, inGroups, 2);
  const strength = graph.op("ReduceSum", [two, graph.integers(-1)], { keepdims: 0 });
  const [, winners] = largest(graph, strength, groups.chosen);
  const out = graph.op("Sub", [graph.op("ConstantOfShape", [graph.op("Shape", [strength])]), graph.scalar(1e30)]);
  const back = graph.op("ConstantOfShape", [graph.op("Shape", [winners])]);
  const offset = graph.op("ScatterElements", [out, winners, back], { axis: 1 });
  const moved = graph.op("Add", [inGroups, graph.op("Unsqueeze", [offset, graph.integers(-1)])]);
  return graph.op("Reshape", [moved, graph.integers(-1, count)]);
}

/**
 * One expert after the other: the largest logit, weighed by a softmax over the logits close to it. source:
 * arXiv:2409.12136
 */
function sparseMixer(graph: OnnxGraph, logits: Value, perToken: number, jitter: number): Value {
  const far = graph.scalar(-1e30);
  let left = logits;
  let weights: Value | undefined;
  for (let round = 0; round < perToken; round++) {
    const [top, chosen] = largest(graph, left, 1);
    const size = graph.op("Max", [graph.op("Abs", [logits]), top]);
    const distance = graph.op("Div", [graph.op("Sub", [top, logits]), size]);
    const isFar = graph.op("Greater", [distance, graph.scalar(2 * jitter)]);
    const shares = graph.op("Softmax", [graph.op("Where", [isFar, far, left])], { axis: -1 });
    const share = graph.op("GatherElements", [shares, chosen], { axis: 1 });
    const none = weights ?? graph.op("ConstantOfShape", [graph.op("Shape", [logits])]);
    weights = graph.op("ScatterElements", [none, chosen, share], { axis: 1 });
    const gone = graph.op("Add", [graph.op("Mul", [share, graph.scalar(0)]), far]);
    left = graph.op("ScatterElements", [left, chosen, gone], { axis: 1 });
  }
  return weights!;
}

/** An expert in a graph: its parts, each (tokens, …) → (tokens, …). */
export class ExpertParts {
  constructor(
    private readonly parts: LayerParts,
    private readonly experts: Experts,
    private readonly hiddenSize: number,
    private readonly expert: number,
  ) {}

  /** hidden → gate and up, (tokens, width) both. */
  gateAndUp(x: Value): [gate: Value, up: Value] {
    const { parts, hiddenSize } = this;
    const { width, layout } = this.experts;
    if (layout.kind === "split") {
      return [
        parts.linear(x, this.path(layout.gate), width, hiddenSize),
        parts.linear(x, this.path(layout.up), width, hiddenSize),
      ];
    }
    const both = this.product(x, layout.gateUp, 2 * width, hiddenSize, layout);
    const { graph } = parts;
    const [gate, up] = layout.interleaved
      ? everySecond(graph, both, width)
      : graph.ops("Split", [both, graph.integers(width, width)], 2, { axis: -1 });
    return [gate, up];
  }

  /** What down takes: the gate, bent by its function, times up. */
  bend(gate: Value, up: Value): Value {
    const { graph } = this.parts;
    const { clampedGate } = this.experts;
    if (clampedGate === undefined) return graph.op("Mul", [this.parts.activate(gate), up]);
    const limit = graph.scalar(clampedGate.limit);
    const low = graph.op("Min", [gate, limit]);
    const raised = graph.op("Add", [graph.op("Clip", [up, graph.scalar(-clampedGate.limit), limit]), graph.scalar(1)]);
    const open = graph.op("Sigmoid", [graph.op("Mul", [low, graph.scalar(clampedGate.alpha)])]);
    return graph.op("Mul", [graph.op("Mul", [low, open]), raised]);
  }

  /** (tokens, width) → hidden. */
  down(x: Value): Value {
    const { parts, hiddenSize } = this;
    const { width, layout } = this.experts;
    return layout.kind === "split"
      ? parts.linear(x, this.path(layout.down), hiddenSize, width)
      : this.product(x, layout.down, hiddenSize, width, layout);
  }

  /** (width): the energy of each column of the donor's own down, how loudly a neuron is heard. */
  downEnergies(): Value {
    const { parts, hiddenSize } = this;
    const { count, width, layout } = this.experts;
    const { graph } = parts;
    const energies = (matrix: Value, axis: number): Value =>
      graph.op("ReduceSumSquare", [matrix, graph.integers(axis)], { keepdims: 0 });
    if (layout.kind === "split")
      return energies(parts.stored(`${this.path(layout.down)}.weight`, [hiddenSize, width]), 0);
    const stack = { index: this.expert, count };
    return energies(
      parts.stacked(layout.down, stack, { rows: hiddenSize, cols: width, transposed: layout.transposed }),
      1,
    );
  }

  private path(template: string): string {
    return template.replace("{e}", `${this.expert}`);
  }

  private product(x: Value, path: string, rows: number, cols: number, layout: StackedExperts): Value {
    const { parts, expert } = this;
    const { graph } = parts;
    const { count } = this.experts;
    const { transposed } = layout;
    const matrix = parts.stacked(path, { index: expert, count }, { rows, cols, transposed });
    const out = graph.op("MatMul", [x, matrix]);
    if (!layout.biased) return out;
    return graph.op("Add", [out, parts.stored(`${path}_bias`, [count, rows], expert, expert + 1)]);
  }
}

/** (tokens, 2 · width) → its even columns, its odd columns. */
function everySecond(graph: OnnxGraph, both: Value, width: number): Value[] {
  const pairs = graph.op("Reshape", [both, graph.integers(-1, width, 2)]);
  const [even, odd] = graph.ops("Split", [pairs, graph.integers(1, 1)], 2, { axis: -1 });
  return [even, odd].map((each) => graph.op("Squeeze", [each, graph.integers(-1)]));
}
