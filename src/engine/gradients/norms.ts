import type { OnnxGraph, Value } from "../onnx-graph.js";
import { type Backward, flat, floatAttribute, integerAttribute, ofOutput, type Rule } from "./backward.js";

function mean(graph: OnnxGraph, values: Value): Value {
  return graph.op("ReduceMean", [values, graph.integers(-1)], { keepdims: 1 });
}

/** Summed over all axes but the last, the only one that our norms go over: (…, width) → (width). */
function overTokens(graph: OnnxGraph, values: Value): Value {
  return graph.op("ReduceSum", [flat(graph, values), graph.integers(0)], { keepdims: 0 });
}

/**
 * Both norms: x̂ = (x − m) r, y = x̂ w (+ b) with r = 1/√(mean (x − m)² + ε), and m = 0 in an RMS norm.
 * d x = r (g w − [mean g w] − x̂ mean(g w x̂)), d w = Σ g x̂, d b = Σ g.
 */
function norm(isCentred: boolean): Rule {
  return ofOutput((step: Backward, gradient) => {
    const { graph, node } = step;
    const [x, weight] = node.inputs;
    const centred = isCentred ? graph.op("Sub", [x, mean(graph, x)]) : x;
    const energy = mean(graph, graph.op("Mul", [centred, centred]));
    const size = graph.op("Sqrt", [graph.op("Add", [energy, graph.scalar(floatAttribute(step, "epsilon", 1e-5))])]);
    const normed = graph.op("Div", [centred, size]);
    if (step.wants(0)) {
      const scaled = graph.op("Mul", [gradient, weight]);
      const along = graph.op("Mul", [normed, mean(graph, graph.op("Mul", [scaled, normed]))]);
      const across = isCentred ? graph.op("Sub", [scaled, mean(graph, scaled)]) : scaled;
      step.give(0, graph.op("Div", [graph.op("Sub", [across, along]), size]));
    }
    if (step.wants(1)) step.give(1, overTokens(graph, graph.op("Mul", [gradient, normed])));
    if (step.wants(2)) step.give(2, overTokens(graph, gradient));
  });
}

export const NORM_RULES: Readonly<Record<string, Rule>> = {
  RMSNormalization: norm(false),
  LayerNormalization: norm(true),
  // A rotation: the gradient is turned back.
  RotaryEmbedding: ofOutput((step, gradient) => {
    const { graph, node } = step;
    const [, cos, sin, ids] = node.inputs;
    const back = graph.op("RotaryEmbedding", [gradient, cos, graph.op("Neg", [sin]), ids], {
      num_heads: integerAttribute(step, "num_heads", 0),
      rotary_embedding_dim: integerAttribute(step, "rotary_embedding_dim", 0),
      interleaved: integerAttribute(step, "interleaved", 0),
    });
    step.give(0, back);
  }),
};
