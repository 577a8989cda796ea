import type { Attribute, Dimension, Value } from "../onnx-graph.js";
import { type Backward, flat, inShapeOf, integerAttribute, integersOf, ofOutput, type Rule } from "./backward.js";

/** a b, a bᵀ or aᵀ b over the last two axes, those before them side by side. */
function product({ graph, portable }: Backward, a: Value, b: Value, turn: "none" | "left" | "right"): Value {
  if (turn === "none") return graph.op("MatMul", [a, b]);
  if (portable) {
    const equation = turn === "left" ? "...ji,...jk->...ik" : "...ij,...kj->...ik";
    return graph.op("Einsum", [a, b], { equation });
  }
  const attributes: Record<string, Attribute> = turn === "left" ? { transA: 1 } : { transB: 1 };
  return graph.op("FusedMatMul", [a, b], attributes, "com.microsoft");
}

/** x Wᵀ or x W for x (…, cols) and one matrix W. */
const byMatrix: Rule = ofOutput((step, gradient) => {
  const [x, matrix] = step.node.inputs;
  const isTurned = integerAttribute(step, "transB", 0) === 1;
  if (step.wants(0)) {
    const isByHand = !isTurned && step.portable;
    const turned = isByHand ? step.graph.op("Transpose", [matrix], { perm: [1n, 0n] }) : matrix;
    step.give(0, product(step, gradient, turned, isTurned || isByHand ? "none" : "right"));
  }
  if (!step.wants(1)) return;
  const [inputs, outputs] = [flat(step.graph, x), flat(step.graph, gradient)];
  step.give(1, isTurned ? product(step, outputs, inputs, "left") : product(step, inputs, outputs, "left"));
});

/** Tokens of each channel as sums of their last `kernel` tokens: the weights are (channels, 1, kernel). */
const convolution: Rule = ofOutput((step, gradient) => {
  const { graph, node } = step;
  const [x, weights, bias] = node.inputs;
  const dims = graph.dims.get(weights) ?? sourceDims(step, weights);
  const kernel = Number(dims?.at(-1));
  if (!(kernel > 0)) throw new Error("a convolution whose kernel is not stored");
  const last = graph.integers(-1);
  const length = graph.op("Shape", [x], { start: -1 });
  const before = graph.op("Pad", [x, graph.integers(kernel - 1, 0), "", last]);
  const behind = graph.op("Pad", [gradient, graph.integers(0, kernel - 1), "", last]);
  const window = (values: Value, from: number): Value =>
    graph.op("Slice", [values, graph.integers(from), graph.op("Add", [length, graph.integers(from)]), last]);
  const perTap: Value[] = [];
  let back: Value | undefined;
  for (let tap = 0; tap < kernel; tap++) {
    // y_t = Σ_tap w_tap x_(t − kernel + 1 + tap)
    const seen = graph.op("Mul", [gradient, window(before, tap)]);
    if (step.wants(1)) perTap.push(graph.op("ReduceSum", [seen, graph.integers(0, 2)], { keepdims: 1 }));
    if (!step.wants(0)) continue;
    const weight = graph.op("Slice", [weights, graph.integers(tap), graph.integers(tap + 1), last]);
    const row = graph.op("Reshape", [weight, graph.integers(1, -1, 1)]);
    const part = graph.op("Mul", [window(behind, kernel - 1 - tap), row]);
    back = back === undefined ? part : graph.op("Add", [back, part]);
  }
  if (back !== undefined) step.give(0, back);
  if (step.wants(1)) step.give(1, inShapeOf(graph, graph.op("Concat", perTap, { axis: 2 }), weights));
  if (bias !== undefined && step.wants(2)) {
    step.give(2, graph.op("ReduceSum", [gradient, graph.integers(0, 2)], { keepdims: 0 }));
  }
});

/** Shape of what a cast was made of. */
function sourceDims({ graph }: Backward, value: Value): readonly Dimension[] | undefined {
  const cast = graph.tape.find(({ type, outputs }) => type === "Cast" && outputs[0] === value);
  return cast === undefined ? undefined : graph.dims.get(cast.inputs[0]);
}

export const PRODUCT_RULES: Readonly<Record<string, Rule>> = {
  // As many axes on either side: our graphs multiply heads by heads and tokens of an expert by its matrix.
  MatMul: ofOutput((step, gradient) => {
    const [a, b] = step.node.inputs;
    if (step.wants(0)) step.give(0, product(step, gradient, b, "right"));
    if (step.wants(1)) step.give(1, product(step, a, gradient, "left"));
  }),
  FusedMatMul: byMatrix,
  Gemm: byMatrix,
  Conv: convolution,
  ReduceSum: ofOutput((step, gradient) => {
    const { graph, node } = step;
    const [x, axes] = node.inputs;
    const kept = integerAttribute(step, "keepdims", 1) === 1 ? gradient : graph.op("Unsqueeze", [gradient, axes]);
    step.give(0, graph.op("Expand", [kept, graph.op("Shape", [x])]));
  }),
  // 2 x
  ReduceSumSquare: ofOutput((step, gradient) => {
    const { graph, node } = step;
    const [x, axes] = node.inputs;
    const kept = integerAttribute(step, "keepdims", 1) === 1 ? gradient : graph.op("Unsqueeze", [gradient, axes]);
    step.give(0, graph.op("Mul", [graph.op("Mul", [x, graph.scalar(2)]), kept]));
  }),
  // Each repetition adds up: (r₀ d₀, r₁ d₁, …) as (r₀, d₀, r₁, d₁, …), summed over all r.
  Tile: ofOutput((step, gradient) => {
    const { graph, node } = step;
    const [x, repeats] = node.inputs;
    const rank = integersOf(graph, repeats)!.length;
    const apart = (values: Value): Value => graph.op("Unsqueeze", [values, graph.integers(1)]);
    const pairs = graph.op("Concat", [apart(repeats), apart(graph.op("Shape", [x]))], { axis: 1 });
    const split = graph.op("Reshape", [gradient, graph.op("Reshape", [pairs, graph.integers(-1)])]);
    const axes = graph.integers(...Array.from({ length: rank }, (_, axis) => 2 * axis));
    step.give(0, graph.op("ReduceSum", [split, axes], { keepdims: 0 }));
  }),
};
