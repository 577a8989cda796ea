import type { OnnxGraph, Value } from "../../engine/onnx-graph.js";
import type { Architecture } from "../../model/architecture.js";
import type { CarriedValues } from "./carried.js";
import { multiply, norm } from "./graph-parts.js";
import type { LayerParts } from "./layer-parts.js";
import { storedValue, type Weights } from "./weights.js";

/** Under this name it goes along with the residual stream. */
const NAME = "per_layer";

/**
 * What every layer is told of the tokens, (batch, tokens, layers × width): half of it a row of a table, half a product
 * with the token's embedding, normed layer by layer.
 *
 * ids       (batch, tokens) int64
 * embedded  (batch, tokens, hidden), scaled
 * rowsOf    rows of a table as f32
 */
export function keepPerLayerInputs(
  graph: OnnxGraph,
  { architecture, weights }: { readonly architecture: Architecture; readonly weights: Weights },
  ids: Value,
  embedded: Value,
  rowsOf: (table: string, shape: readonly number[], ids: Value) => Value,
  carried: CarriedValues,
): void {
  const { perLayerInputs, names, layerCount, hiddenSize } = architecture;
  if (perLayerInputs === undefined || names.perLayer === undefined) return;
  const { width, vocabSize } = perLayerInputs;
  const all = layerCount * width;
  const at = (name: string): string => weights.named(name);
  const isKnown = graph.op("Less", [ids, graph.integers(vocabSize)]);
  const known = graph.op("Where", [isKnown, ids, graph.integers(0)]);
  const rows = rowsOf(`${at(names.perLayer.table)}.weight`, [vocabSize, all], known);
  const scaled = graph.op("Mul", [rows, graph.scalar(Math.sqrt(width))]);
  const matrix = storedValue(graph, weights.get(`${at(names.perLayer.projection)}.weight`, [all, hiddenSize]));
  const product = graph.op("Mul", [
    multiply(graph, embedded, matrix, all, hiddenSize, true),
    graph.scalar(hiddenSize ** -0.5),
  ]);
  const byLayer = graph.op("Reshape", [product, graph.integers(0, 0, layerCount, width)]);
  const normed = norm(graph, architecture.norm, weights, byLayer, at(names.perLayer.norm), width);
  const flat = graph.op("Reshape", [normed, graph.integers(0, 0, all)]);
  carried.keep(NAME, graph.op("Mul", [graph.op("Add", [flat, scaled]), graph.scalar(Math.SQRT1_2)]), all);
}

/** Residual → what the detour's last product takes, (batch, tokens, width): a gate on what the layer is told. */
export function perLayerHidden(
  parts: LayerParts,
  architecture: Architecture,
  layer: number,
  carried: CarriedValues,
  residual: Value,
): Value {
  const { graph } = parts;
  const { perLayerInputs, names, layerCount, hiddenSize } = architecture;
  const { width } = perLayerInputs!;
  const all = carried.get(NAME, layerCount * width);
  const bounds = [layer * width, (layer + 1) * width, -1].map((bound) => graph.integers(bound));
  const told = graph.op("Slice", [all, ...bounds]);
  const gate = parts.activate(parts.linear(residual, names.perLayer!.gate, width, hiddenSize));
  return graph.op("Mul", [gate, told]);
}
