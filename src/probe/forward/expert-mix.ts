import type { OnnxGraph, Value } from "../../engine/onnx-graph.js";
import type { ClampedGate, Experts, Routing } from "../../model/experts.js";
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
    const output = expertMlp(parts, experts, hiddenSize, expert, input, experts.clampedGate);
    sum = graph.op("ScatterND", [sum, places, scalesInput ? output : graph.op("Mul", [output, share])], {
      reduction: "add",
    });
  }
  const shaped = graph.op("Reshape", [sum, graph.op("Shape", [x])]);
  const { shared } = experts;
  if (shared === undefined) return shaped;
  const gate = parts.activate(parts.linear(x, `${shared.path}.gate_proj`, shared.width, hiddenSize));
  const up = parts.linear(x, `${shared.path}.up_proj`, shared.width, hiddenSize);
  let common = parts.linear(graph.op("Mul", [gate, up]), `${shared.path}.down_proj`, hiddenSize, shared.width);
  if (shared.gate !== undefined) {
    common = graph.op("Mul", [common, graph.op("Sigmoid", [parts.linear(x, shared.gate, 1, hiddenSize)])]);
  }
  return graph.op("Add", [shaped, common]);
}

/** (tokens, hidden) → (tokens, experts): what each expert's output counts for each token; 0 where it was not chosen. */
function route(parts: LayerParts, { count, perToken, routing }: Experts, hiddenSize: number, flat: Value): Value {
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

/** (tokens, hidden) → (tokens, hidden) through one expert. */
function expertMlp(
  parts: LayerParts,
  { count, width, layout }: Experts,
  hiddenSize: number,
  expert: number,
  x: Value,
  clamped: ClampedGate | undefined,
): Value {
  const { graph } = parts;
  if (layout.kind === "split") {
    const at = (path: string): string => path.replace("{e}", `${expert}`);
    const gate = parts.activate(parts.linear(x, at(layout.gate), width, hiddenSize));
    const up = parts.linear(x, at(layout.up), width, hiddenSize);
    return parts.linear(graph.op("Mul", [gate, up]), at(layout.down), hiddenSize, width);
  }
  const { transposed, interleaved = false, biased = false } = layout;
  const product = (input: Value, path: string, rows: number, cols: number): Value => {
    const shape = transposed ? [count, cols, rows] : [count, rows, cols];
    const slice = parts.stored(path, shape, expert, expert + 1);
    const matrix = graph.op("Reshape", [slice, graph.integers(...shape.slice(1))]);
    const turned = transposed ? matrix : graph.op("Transpose", [matrix], { perm: [1n, 0n] });
    const out = graph.op("MatMul", [input, turned]);
    if (!biased) return out;
    const bias = parts.stored(`${path}_bias`, [count, rows], expert, expert + 1);
    return graph.op("Add", [out, bias]);
  };
  const both = product(x, layout.gateUp, 2 * width, hiddenSize);
  let [gate, up] = interleaved
    ? everySecond(graph, both, width)
    : graph.ops("Split", [both, graph.integers(width, width)], 2, { axis: -1 });
  if (clamped === undefined) gate = parts.activate(gate);
  else {
    const limit = graph.scalar(clamped.limit);
    gate = graph.op("Min", [gate, limit]);
    up = graph.op("Add", [graph.op("Clip", [up, graph.scalar(-clamped.limit), limit]), graph.scalar(1)]);
    gate = graph.op("Mul", [gate, graph.op("Sigmoid", [graph.op("Mul", [gate, graph.scalar(clamped.alpha)])])]);
  }
  return product(graph.op("Mul", [gate, up]), layout.down, hiddenSize, width);
}

/** (tokens, 2 · width) → its even columns, its odd columns. */
function everySecond(graph: OnnxGraph, both: Value, width: number): Value[] {
  const pairs = graph.op("Reshape", [both, graph.integers(-1, width, 2)]);
  const [even, odd] = graph.ops("Split", [pairs, graph.integers(1, 1)], 2, { axis: -1 });
  return [even, odd].map((each) => graph.op("Squeeze", [each, graph.integers(-1)]));
}
