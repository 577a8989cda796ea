import type { OnnxGraph, Value } from "../onnx-graph.js";
import { above, type Backward, elementwise, ofOutput, type Rule, unspread } from "./backward.js";

/** Whether a value is one number: it is spread over the other operand, never the other way round. */
function isScalar(graph: OnnxGraph, value: Value): boolean {
  return graph.dims.get(value)?.length === 0;
}

/** Give an operand of a broadcasting operator its gradient, as computed in the shape of the result. */
function giveOperand(step: Backward, input: number, gradient: () => Value): void {
  if (!step.wants(input)) return;
  const { graph, node } = step;
  const others = node.inputs.filter((_, at) => at !== input && node.inputs[at] !== "");
  const isWhole = others.every((other) => isScalar(graph, other));
  step.give(input, isWhole ? gradient() : unspread(graph, gradient(), node.inputs[input]));
}

/** min and max of two: the gradient goes to the one that was taken, to the first where they are equal. */
function choice(order: (graph: OnnxGraph, first: Value, second: Value) => Value): Rule {
  return ofOutput((step, gradient) => {
    const { graph, node } = step;
    if (node.inputs.length !== 2) throw new Error("min and max of two only");
    const second = (): Value => order(graph, node.inputs[0], node.inputs[1]);
    giveOperand(step, 0, () => {
      const first = graph.op("Sub", [graph.scalar(1), second()]);
      return graph.op("Mul", [gradient, first]);
    });
    giveOperand(step, 1, () => graph.op("Mul", [gradient, second()]));
  });
}

export const ARITHMETIC_RULES: Readonly<Record<string, Rule>> = {
  Identity: ofOutput((step, gradient) => step.give(0, gradient)),
  // Between float types only: whole numbers have no gradient.
  Cast: ofOutput((step, gradient) => step.give(0, gradient)),
  Add: ofOutput((step, gradient) => {
    for (const input of [0, 1]) giveOperand(step, input, () => gradient);
  }),
  Sub: ofOutput((step, gradient) => {
    giveOperand(step, 0, () => gradient);
    giveOperand(step, 1, () => step.graph.op("Neg", [gradient]));
  }),
  Mul: ofOutput((step, gradient) => {
    const { graph, node } = step;
    for (const input of [0, 1]) {
      giveOperand(step, input, () => graph.op("Mul", [gradient, node.inputs[1 - input]]));
    }
  }),
  // d(a/b) = da/b − y/b db
  Div: ofOutput((step, gradient) => {
    const { graph, node } = step;
    const scaled = graph.op("Div", [gradient, node.inputs[1]]);
    giveOperand(step, 0, () => scaled);
    giveOperand(step, 1, () => graph.op("Neg", [graph.op("Mul", [scaled, node.outputs[0]])]));
  }),
  Neg: ofOutput((step, gradient) => step.give(0, step.graph.op("Neg", [gradient]))),
  Abs: elementwise(({ graph }, x) => graph.op("Sign", [x])),
  Min: choice((graph, first, second) => above(graph, first, second)),
  Max: choice((graph, first, second) => above(graph, second, first)),
  Clip: ofOutput((step, gradient) => {
    const { graph, node } = step;
    const [x, low, high] = node.inputs;
    // Strictly between: at a limit nothing moves one way.
    let inside = above(graph, x, low);
    if (high !== undefined && high !== "") inside = graph.op("Mul", [inside, above(graph, high, x)]);
    step.give(0, graph.op("Mul", [gradient, inside]));
  }),
  Where: ofOutput((step, gradient) => {
    const { graph, node } = step;
    const [condition] = node.inputs;
    const none = graph.scalar(0);
    for (const input of [1, 2]) {
      const [first, second] = input === 1 ? [gradient, none] : [none, gradient];
      if (step.wants(input)) {
        step.give(input, unspread(graph, graph.op("Where", [condition, first, second]), node.inputs[input]));
      }
    }
  }),
};
