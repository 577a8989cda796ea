import { integerAttribute, integersOf, ofOutput, type Rule, shapeOf, zerosLike } from "./backward.js";

/** Gathering and scattering are each other's gradients; what is picked by (indices, places) has none. */
export const PICK_RULES: Readonly<Record<string, Rule>> = {
  // Indices in one dimension.
  Gather: ofOutput((step, gradient) => {
    const { graph, node } = step;
    const [x, indices] = node.inputs;
    const axis = integerAttribute(step, "axis", 0);
    if (integersOf(graph, indices) === undefined || axis > 1) throw new Error("gathers by constants on two axes only");
    const column = axis === 0 ? graph.op("Reshape", [indices, graph.integers(-1, 1)]) : indices;
    const everywhere = graph.op("Expand", [column, shapeOf(graph, gradient)]);
    step.give(0, graph.op("ScatterElements", [zerosLike(graph, x), everywhere, gradient], { axis, reduction: "add" }));
  }),
  GatherElements: ofOutput((step, gradient) => {
    const { graph, node } = step;
    const [x, indices] = node.inputs;
    const axis = integerAttribute(step, "axis", 0);
    step.give(0, graph.op("ScatterElements", [zerosLike(graph, x), indices, gradient], { axis, reduction: "add" }));
  }),
  GatherND: ofOutput((step, gradient) => {
    const { graph, node } = step;
    const [x, places] = node.inputs;
    step.give(0, graph.op("ScatterND", [zerosLike(graph, x), places, gradient], { reduction: "add" }));
  }),
  // With reduction "add", as experts add up their outputs.
  ScatterND: ofOutput((step, gradient) => {
    const { graph, node } = step;
    if (node.attributes.reduction !== "add") throw new Error("ScatterND that adds only");
    step.give(0, gradient);
    if (step.wants(2)) step.give(2, graph.op("GatherND", [gradient, node.inputs[1]]));
  }),
  // Without a reduction: what was written over has no say.
  ScatterElements: ofOutput((step, gradient) => {
    const { graph, node } = step;
    const [, indices, updates] = node.inputs;
    const axis = integerAttribute(step, "axis", 0);
    if (step.wants(0)) {
      step.give(0, graph.op("ScatterElements", [gradient, indices, zerosLike(graph, updates)], { axis }));
    }
    if (step.wants(2)) step.give(2, graph.op("GatherElements", [gradient, indices], { axis }));
  }),
  TopK: ofOutput((step, gradient) => {
    const { graph, node } = step;
    const axis = integerAttribute(step, "axis", -1);
    step.give(0, graph.op("ScatterElements", [zerosLike(graph, node.inputs[0]), node.outputs[1], gradient], { axis }));
  }),
};
