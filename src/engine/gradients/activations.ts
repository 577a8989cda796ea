import { above, elementwise, ofOutput, type Rule } from "./backward.js";

/** √(2/π) and the cubic's factor of the tanh form. source: arXiv:1606.08415 */
const ROOT = Math.sqrt(2 / Math.PI);
const CUBIC = 0.044715;

export const ACTIVATION_RULES: Readonly<Record<string, Rule>> = {
  // y (1 − y)
  Sigmoid: elementwise(({ graph }, _, y) => graph.op("Mul", [y, graph.op("Sub", [graph.scalar(1), y])])),
  // 1 − y²
  Tanh: elementwise(({ graph }, _, y) => graph.op("Sub", [graph.scalar(1), graph.op("Mul", [y, y])])),
  Relu: elementwise(({ graph }, x) => above(graph, x, graph.scalar(0))),
  Softplus: elementwise(({ graph }, x) => graph.op("Sigmoid", [x])),
  Exp: elementwise((_, __, y) => y),
  Log: elementwise(({ graph }, x) => graph.op("Div", [graph.scalar(1), x])),
  Sqrt: elementwise(({ graph }, _, y) => graph.op("Div", [graph.scalar(0.5), y])),
  Gelu: elementwise(({ graph, node }, x) => {
    const square = graph.op("Mul", [x, x]);
    if (node.attributes.approximate === "tanh") {
      // t = tanh(√(2/π) (x + c x³)):  ½ (1 + t) + ½ x (1 − t²) √(2/π) (1 + 3 c x²)
      const one = graph.scalar(1);
      const bent = graph.op("Add", [one, graph.op("Mul", [square, graph.scalar(CUBIC)])]);
      const inner = graph.op("Mul", [graph.op("Mul", [x, bent]), graph.scalar(ROOT)]);
      const t = graph.op("Tanh", [inner]);
      const steep = graph.op("Sub", [one, graph.op("Mul", [t, t])]);
      const slope = graph.op("Add", [graph.scalar(ROOT), graph.op("Mul", [square, graph.scalar(3 * CUBIC * ROOT)])]);
      const second = graph.op("Mul", [graph.op("Mul", [x, steep]), slope]);
      return graph.op("Mul", [graph.op("Add", [graph.op("Add", [one, t]), second]), graph.scalar(0.5)]);
    }
    // Φ(x) + x φ(x)
    const error = graph.op("Erf", [graph.op("Mul", [x, graph.scalar(Math.SQRT1_2)])]);
    const cumulated = graph.op("Mul", [graph.op("Add", [error, graph.scalar(1)]), graph.scalar(0.5)]);
    const bell = graph.op("Exp", [graph.op("Mul", [square, graph.scalar(-0.5)])]);
    const density = graph.op("Mul", [bell, graph.scalar(1 / Math.sqrt(2 * Math.PI))]);
    return graph.op("Add", [cumulated, graph.op("Mul", [x, density])]);
  }),
  // y (g − Σ g y) along the last axis, the only one that our graphs take
  Softmax: ofOutput((step, gradient) => {
    const { graph, node } = step;
    const [y] = node.outputs;
    const weighed = graph.op("Mul", [gradient, y]);
    const total = graph.op("ReduceSum", [weighed, graph.integers(-1)], { keepdims: 1 });
    step.give(0, graph.op("Sub", [weighed, graph.op("Mul", [y, total])]));
  }),
};
