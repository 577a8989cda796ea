import type { GraphNode, OnnxGraph, Value } from "../onnx-graph.js";

/** One operator on the way back. */
export interface Backward {
  readonly graph: OnnxGraph;
  readonly node: GraphNode;
  /** Standard operators only. */
  readonly portable: boolean;
  /** d loss / d output for each output; undefined where the loss does not depend on it. */
  readonly gradients: readonly (Value | undefined)[];
  /** Whether the gradient of this input is of use to anybody. */
  wants(input: number): boolean;
  /** Add to the gradient of an input; of the input's shape. */
  give(input: number, gradient: Value): void;
}

/** Hands the gradients of an operator's outputs on to those of its inputs that want them. */
export type Rule = (step: Backward) => void;

/** A rule for operators with one output, whose gradient is there whenever the rule is asked. */
export function ofOutput(rule: (step: Backward, gradient: Value) => void): Rule {
  return (step) => rule(step, step.gradients[0]!);
}

/** A rule for functions of one number: d y / d x times the gradient. */
export function elementwise(slope: (step: Backward, x: Value, y: Value) => Value): Rule {
  return ofOutput((step, gradient) => {
    const { graph, node } = step;
    step.give(0, graph.op("Mul", [gradient, slope(step, node.inputs[0], node.outputs[0])]));
  });
}

/** 1 where `x > limit`, else 0, f32. */
export function above(graph: OnnxGraph, x: Value, limit: Value): Value {
  return graph.op("Cast", [graph.op("Greater", [x, limit])], { to: 1 });
}

export function shapeOf(graph: OnnxGraph, value: Value): Value {
  return graph.op("Shape", [value]);
}

/** A gradient in the shape of `like`, element for element. */
export function inShapeOf(graph: OnnxGraph, gradient: Value, like: Value): Value {
  return graph.op("Reshape", [gradient, shapeOf(graph, like)]);
}

/** (…, width) → (places, width) */
export function flat(graph: OnnxGraph, value: Value): Value {
  const width = graph.op("Shape", [value], { start: -1 });
  return graph.op("Reshape", [value, graph.op("Concat", [graph.integers(-1), width], { axis: 0 })]);
}

/** Zeros in the shape of `like`, f32. */
export function zerosLike(graph: OnnxGraph, like: Value): Value {
  return graph.op("ConstantOfShape", [shapeOf(graph, like)]);
}

/**
 * A gradient summed over what `operand` was repeated along to meet the other one: back to the operand's shape. Which
 * axes those are is found when the graph runs, for most dimensions are known only then.
 */
export function unspread(graph: OnnxGraph, gradient: Value, operand: Value): Value {
  const shape = shapeOf(graph, operand);
  const ranks = (value: Value): Value => graph.op("Shape", [shapeOf(graph, value)]);
  const missing = graph.op("Sub", [ranks(gradient), ranks(operand)]);
  const ones = graph.op("Expand", [graph.integers(1), missing]);
  const padded = graph.op("Concat", [ones, shape], { axis: 0 });
  const differs = graph.op("Sub", [shapeOf(graph, gradient), padded]);
  const axes = graph.op("Squeeze", [graph.op("NonZero", [differs]), graph.integers(0)]);
  const summed = graph.op("ReduceSum", [gradient, axes], { keepdims: 1, noop_with_empty_axes: 1 });
  return graph.op("Reshape", [summed, shape]);
}

/** Numbers of a constant; undefined for what is computed. */
export function integersOf(graph: OnnxGraph, value: Value | undefined): number[] | undefined {
  const data = value === undefined ? undefined : graph.constantData.get(value);
  return data === undefined ? undefined : Array.from(data as ArrayLike<number | bigint>, Number);
}

/** An integer attribute, or what ONNX takes where it is left out. */
export function integerAttribute({ node }: Backward, name: string, usual: number): number {
  const value = node.attributes[name];
  return typeof value === "number" || typeof value === "bigint" ? Number(value) : usual;
}

export function floatAttribute({ node }: Backward, name: string, usual: number): number {
  const value = node.attributes[name];
  return typeof value === "object" && "float" in value ? value.float : usual;
}
