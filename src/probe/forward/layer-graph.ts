import { OnnxGraph, type Value } from "../../engine/onnx-graph.js";
import type { Architecture } from "../../model/architecture.js";
import { inputWidth, type Step } from "../../model/steps.js";
import { CarriedValues } from "./carried.js";
import { type GraphOptions, LayerBuilder } from "./layer-builder.js";
import type { Weights } from "./weights.js";

/**
 * Whole decoder layers `[layerStart, layerEnd)` one behind the other: residual_in → residual, both (batch, tokens,
 * hidden).
 */
export function blockGraph(
  architecture: Architecture,
  weights: Weights,
  layerStart: number,
  layerEnd: number,
  options: GraphOptions,
): OnnxGraph {
  const graph = new OnnxGraph("", options.supplied);
  const dims = ["batch", "tokens", architecture.hiddenSize];
  let residual = graph.input("residual_in", "FLOAT", dims);
  const carried = new CarriedValues(graph);
  for (let index = layerStart; index < layerEnd; index++) {
    const layer = new LayerBuilder(graph, architecture, weights, index, options, carried);
    const mid = layer.addAttention(layer.attend(layer.begin(residual)), residual);
    residual = layer.addMlp(layer.gate(layer.enterMlp(residual, mid)), mid);
  }
  graph.output("residual", residual, "FLOAT", dims);
  carried.emit();
  return graph;
}

/**
 * A part of one layer: a run of `STEPS` without gaps, `begin` for the norm before them.
 *
 * inputs   residual_in with `begin` and where o or down adds to it; without `begin` given_<first step> (batch, tokens,
 *          its width)
 * outputs  residual where o or down is among the steps; input_<step> for every step reached, the one after the last
 *          included
 */
export function stepGraph(
  architecture: Architecture,
  weights: Weights,
  layerIndex: number,
  begin: boolean,
  steps: readonly Step[],
  options: GraphOptions,
): OnnxGraph {
  const { hiddenSize } = architecture;
  const graph = new OnnxGraph("", options.supplied);
  const carried = new CarriedValues(graph);
  const layer = new LayerBuilder(graph, architecture, weights, layerIndex, options, carried);
  const taken = new Set(steps);
  const addsResidual = taken.has("o") || taken.has("down");
  const dims = (width: number) => ["batch", "tokens", width];
  const emit = (step: Step, value: Value): Value => {
    graph.output(`input_${step}`, value, "FLOAT", dims(inputWidth(architecture, step, layerIndex)));
    return value;
  };
  let residual = begin || addsResidual ? graph.input("residual_in", "FLOAT", dims(hiddenSize)) : "";
  let x = begin
    ? emit("qkv", layer.begin(residual))
    : graph.input(`given_${steps[0]}`, "FLOAT", dims(inputWidth(architecture, steps[0], layerIndex)));
  if (taken.has("qkv")) x = emit("o", layer.attend(x));
  if (taken.has("o")) {
    const before = residual;
    residual = layer.addAttention(x, before);
    x = emit("gate_up", layer.enterMlp(before, residual));
  }
  if (taken.has("gate_up")) x = emit("down", layer.gate(x));
  if (taken.has("down")) residual = layer.addMlp(x, residual);
  if (addsResidual) graph.output("residual", residual, "FLOAT", dims(hiddenSize));
  carried.emit();
  return graph;
}

/**
 * How much each token's errors in gate and up count (`LayerBuilder.listen`): given_gate_up → listening (batch, tokens,
 * 1).
 */
export function listeningGraph(
  architecture: Architecture,
  weights: Weights,
  layerIndex: number,
  options: GraphOptions,
): OnnxGraph {
  const graph = new OnnxGraph();
  const layer = new LayerBuilder(graph, architecture, weights, layerIndex, options);
  const input = graph.input("given_gate_up", "FLOAT", ["batch", "tokens", architecture.hiddenSize]);
  graph.output("listening", layer.listen(input), "FLOAT", ["batch", "tokens", 1]);
  return graph;
}
