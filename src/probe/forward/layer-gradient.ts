import { gradientsOf } from "../../engine/gradient.js";
import { OnnxGraph, type Value } from "../../engine/onnx-graph.js";
import { PhysariumError } from "../../errors.js";
import type { Architecture } from "../../model/architecture.js";
import { type Projection, suppliedName } from "../../model/steps.js";
import { takenNames } from "./carried.js";
import { type GraphOptions, LayerBuilder } from "./layer-builder.js";
import type { Weights } from "./weights.js";

/** A tensor whose gradient is asked for, and its shape as runs supply it: f32, projections as (rows, cols). */
export interface TrainedTensor {
  readonly name: string;
  readonly shape: readonly number[];
}

/** A projection as a trained tensor. */
export function trainedBy(place: Projection): TrainedTensor {
  return { name: suppliedName(place), shape: [place.rows, place.cols] };
}

/** The output of a gradient graph that holds the gradient of a tensor. */
export function gradientOutput(tensor: string): string {
  return `gradient of ${tensor}`;
}

/** How a layer's output is judged, or what the layers behind it say of it. */
export type Judgement =
  /** Its error against a target; with `gradients` those of the trained tensors, too. */
  | { readonly kind: "match"; readonly gradients: boolean }
  /** Nothing yet: the output itself is wanted. */
  | { readonly kind: "forward" }
  /** A gradient that comes from behind: handed on to the trained tensors and to the layer's input. */
  | { readonly kind: "pull back" };

/** Whether it asks for gradients. */
export function movesWeights(judgement: Judgement): boolean {
  return judgement.kind === "pull back" || (judgement.kind === "match" && judgement.gradients);
}

/**
 * One decoder layer with its error or its gradients.
 *
 * inputs   residual_in (batch, tokens, hidden), every trained tensor by its name, the places' feeds;
 *          to match: target (batch, tokens, hidden), importance (batch, tokens, 1); to pull back: residual_gradient
 *          (batch, tokens, hidden)
 * outputs  to match: loss = Σ importance · |out − target|², one number; the gradients of trained tensors under
 *          `gradientOutput`; to pull back: residual_in_gradient (batch, tokens, hidden) beside them; forward: residual
 * Throws `DONOR_ARCHITECTURE` for a layer that gradients do not pass, or that takes more than the residual stream.
 */
export function layerGradientGraph(
  architecture: Architecture,
  weights: Weights,
  layerIndex: number,
  trained: readonly TrainedTensor[],
  judgement: Judgement,
  options: Pick<GraphOptions, "portable">,
): OnnxGraph {
  const supplied = new Set(trained.map(({ name }) => name));
  const graph = new OnnxGraph("", supplied);
  const isBackward = movesWeights(judgement);
  const layer = new LayerBuilder(graph, architecture, weights, layerIndex, {
    ...options,
    supplied,
    differentiable: isBackward,
  });
  const dims = ["batch", "tokens", architecture.hiddenSize];
  const residual = graph.input("residual_in", "FLOAT", dims);
  const mid = layer.addAttention(layer.attend(layer.begin(residual)), residual);
  const out = layer.addMlp(layer.gate(layer.enterMlp(residual, mid)), mid);
  const beside = takenNames(graph);
  if (beside.length > 0) {
    throw new PhysariumError(
      "DONOR_ARCHITECTURE",
      `gradients follow the residual stream alone, and layer ${layerIndex} takes ${beside.join(", ")} of what comes ` +
        "before it, too; take a flow or methods without gradients (activation) in place of matched",
      { layer: layerIndex, beside },
    );
  }

  if (judgement.kind === "forward") {
    graph.output("residual", out, "FLOAT", dims);
    return graph;
  }
  let seed: Value;
  if (judgement.kind === "match") {
    const error = graph.op("Sub", [out, graph.input("target", "FLOAT", dims)]);
    const weighed = graph.op("Mul", [error, graph.input("importance", "FLOAT", ["batch", "tokens", 1])]);
    const squares = graph.op("Mul", [error, weighed]);
    graph.output("loss", graph.op("ReduceSum", [squares], { keepdims: 0 }), "FLOAT", []);
    seed = graph.op("Mul", [weighed, graph.scalar(2)]);
  } else seed = graph.input("residual_gradient", "FLOAT", dims);
  if (!isBackward) return graph;

  const names = [...supplied];
  const wanted = judgement.kind === "pull back" ? [...names, residual] : names;
  const found = gradientsOf(graph, new Map([[out, seed]]), wanted, options);
  for (const { name, shape } of trained) {
    // What chooses experts, say, moves nothing by a little.
    const none = (): Value => graph.op("ConstantOfShape", [graph.integers(...shape)]);
    graph.output(gradientOutput(name), found.get(name) ?? none(), "FLOAT", shape);
  }
  if (judgement.kind === "pull back") graph.output("residual_in_gradient", found.get(residual)!, "FLOAT", dims);
  return graph;
}
