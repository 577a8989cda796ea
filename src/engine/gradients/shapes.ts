import type { Value } from "../onnx-graph.js";
import {
  type Backward,
  inShapeOf,
  integerAttribute,
  integersOf,
  ofOutput,
  type Rule,
  unspread,
  zerosLike,
} from "./backward.js";

const reshaped: Rule = ofOutput((step, gradient) => step.give(0, inShapeOf(step.graph, gradient, step.node.inputs[0])));

/** The length of a value along one axis, as one number. */
function lengthAlong({ graph }: Backward, value: Value, axis: number): Value {
  return graph.op("Shape", [value], axis === -1 ? { start: -1 } : { start: axis, end: axis + 1 });
}

/** One axis of a slice or a padding, as our graphs write it: everything constant. */
function oneAxis(step: Backward, input: number): number {
  const axes = integersOf(step.graph, step.node.inputs[input]);
  if (axes?.length !== 1) throw new Error(`${step.node.type} along one axis only`);
  return axes[0];
}

export const SHAPE_RULES: Readonly<Record<string, Rule>> = {
  Reshape: reshaped,
  Squeeze: reshaped,
  Unsqueeze: reshaped,
  Transpose: ofOutput((step, gradient) => {
    const perm = step.node.attributes.perm as readonly bigint[];
    const back = perm.map((_, axis) => BigInt(perm.indexOf(BigInt(axis))));
    step.give(0, step.graph.op("Transpose", [gradient], { perm: back }));
  }),
  // A part that the loss does not see counts 0.
  Split: (step) => {
    const { graph, node, gradients } = step;
    const parts = node.outputs.map((output, at) => gradients[at] ?? zerosLike(graph, output));
    step.give(0, graph.op("Concat", parts, { axis: integerAttribute(step, "axis", 0) }));
  },
  Concat: ofOutput((step, gradient) => {
    const { graph, node } = step;
    const axis = integerAttribute(step, "axis", 0);
    const sizes = graph.op(
      "Concat",
      node.inputs.map((input) => lengthAlong(step, input, axis)),
      { axis: 0 },
    );
    const parts = graph.ops("Split", [gradient, sizes], node.inputs.length, { axis });
    parts.forEach((part, input) => {
      if (step.wants(input)) step.give(input, part);
    });
  }),
  Slice: ofOutput((step, gradient) => {
    const { graph, node } = step;
    const axis = oneAxis(step, 3);
    const [start] = integersOf(graph, node.inputs[1])!;
    if (start < 0 || node.inputs.length > 4) throw new Error("slices from a place that is counted from the front");
    const taken = graph.op("Add", [lengthAlong(step, node.outputs[0], axis), graph.integers(start)]);
    const behind = graph.op("Sub", [lengthAlong(step, node.inputs[0], axis), taken]);
    const pads = graph.op("Concat", [graph.integers(start), behind], { axis: 0 });
    step.give(0, graph.op("Pad", [gradient, pads, "", graph.integers(axis)]));
  }),
  Pad: ofOutput((step, gradient) => {
    const { graph, node } = step;
    const axis = oneAxis(step, 3);
    const [before] = integersOf(graph, node.inputs[1])!;
    const end = graph.op("Add", [lengthAlong(step, node.inputs[0], axis), graph.integers(before)]);
    step.give(0, graph.op("Slice", [gradient, graph.integers(before), end, graph.integers(axis)]));
  }),
  // Repeated along leading axes and along axes of length 1.
  Expand: ofOutput((step, gradient) => step.give(0, unspread(step.graph, gradient, step.node.inputs[0]))),
};
