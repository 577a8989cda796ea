import { PhysariumError } from "../errors.js";
import { ACTIVATION_RULES } from "./gradients/activations.js";
import { ARITHMETIC_RULES } from "./gradients/arithmetic.js";
import type { Backward, Rule } from "./gradients/backward.js";
import { NORM_RULES } from "./gradients/norms.js";
import { PICK_RULES } from "./gradients/picks.js";
import { PRODUCT_RULES } from "./gradients/products.js";
import { SHAPE_RULES } from "./gradients/shapes.js";
import type { GraphNode, OnnxGraph, Value } from "./onnx-graph.js";

export interface GradientOptions {
  /** Standard operators only: see `EngineOptions.portable`. */
  readonly portable?: boolean;
}

/** How each operator that our graphs are made of hands a gradient on; adding one is a line in a file of `gradients/`. */
const RULES: ReadonlyMap<string, Rule> = new Map(
  Object.entries({
    ...ARITHMETIC_RULES,
    ...ACTIVATION_RULES,
    ...NORM_RULES,
    ...PRODUCT_RULES,
    ...SHAPE_RULES,
    ...PICK_RULES,
  }),
);

/** Operators whose results do not move with their inputs, or only in steps: gradients end there. */
const CONSTANT = new Set([
  "Shape",
  "ConstantOfShape",
  "Greater",
  "Less",
  "Equal",
  "NonZero",
  "ArgMax",
  "Floor",
  "Sign",
]);

/** Operators that gradients pass, for tests that want to have seen each. */
export function differentiableOperators(): string[] {
  return [...RULES.keys()];
}

/**
 * Reverse mode: add to a graph the gradients of a function of its values.
 *
 * seeds    value → d loss / d value, of the value's shape: where the gradient begins. A loss that is one number begins
 *          with 1; whoever knows what a loss does to an output begins there
 * wanted   values (inputs, stored weights, anything between) whose gradients are asked for
 * returns  for each of `wanted` the value that holds its gradient, of its shape; absent where the seeds do not depend
 *          on it
 * Only what lies between `wanted` and `seeds` is walked. Throws `DONOR_ARCHITECTURE` for an operator on that way
 * without a rule (a recurrence).
 * source   reverse accumulation, Linnainmaa 1970; Griewank & Walther 2008, chapter 3
 */
export function gradientsOf(
  graph: OnnxGraph,
  seeds: ReadonlyMap<Value, Value>,
  wanted: readonly Value[],
  { portable = false }: GradientOptions = {},
): Map<Value, Value> {
  // What is added below is no part of what is walked.
  const tape = [...graph.tape];
  const moving = movingValues(tape, wanted);
  const sums = new Map<Value, Value>();
  const give = (value: Value, gradient: Value): void => {
    const known = sums.get(value);
    sums.set(value, known === undefined ? gradient : graph.op("Add", [known, gradient]));
  };
  for (const [value, seed] of seeds) if (moving.has(value)) give(value, seed);
  for (const node of tape.reverse()) {
    if (CONSTANT.has(node.type) || !node.inputs.some((input) => moving.has(input))) continue;
    const gradients = node.outputs.map((output) => sums.get(output));
    if (gradients.every((gradient) => gradient === undefined)) continue;
    const rule = RULES.get(node.type);
    if (rule === undefined) {
      throw new PhysariumError(
        "DONOR_ARCHITECTURE",
        `gradients do not pass ${node.type}, which this architecture's layers are made of; take a flow or ` +
          "methods without gradients (activation) in place of matched",
        { operator: node.type },
      );
    }
    const step: Backward = {
      graph,
      node,
      portable,
      gradients,
      wants: (input) => moving.has(node.inputs[input] ?? ""),
      give: (input, gradient) => give(node.inputs[input], gradient),
    };
    rule(step);
  }
  const found = new Map<Value, Value>();
  for (const value of wanted) {
    const gradient = sums.get(value);
    if (gradient !== undefined) found.set(value, gradient);
  }
  return found;
}

/** Values that depend on `wanted`, those included. */
function movingValues(tape: readonly GraphNode[], wanted: readonly Value[]): Set<Value> {
  const moving = new Set(wanted);
  for (const { type, inputs, outputs } of tape) {
    if (CONSTANT.has(type) || !inputs.some((input) => moving.has(input))) continue;
    for (const output of outputs) moving.add(output);
  }
  return moving;
}
