import type { LayerRow, SurgeryReport, TensorRow } from "../record/surgery-report.js";
import { type LayerGrid, layerGrid } from "./layer-grid.js";

/** What a careful reader would remark on, drawn from the numbers; fractions are unrounded. */
export interface Remarks {
  /** Layers with at least one target weight. */
  readonly layerCount: number;
  /** Median over layers of a layer's sparsity; `undefined` without layers. */
  readonly medianLayer: number | undefined;
  readonly mostPrunedLayer: LayerRow | undefined;
  readonly leastPrunedLayer: LayerRow | undefined;
  /** Farthest from the median first. Empty under five layers: none can stand out among so few. */
  readonly standOut: readonly StandOut[];
  /** The layers that do not stand out. */
  readonly band: Band | undefined;
  readonly mostPruned: TensorRow | undefined;
  readonly leastPruned: TensorRow | undefined;
  /** Targets whose name has no layer. */
  readonly tensorsWithoutLayer: number;
}

export interface StandOut {
  readonly layer: number;
  readonly sparsity: number;
  /** Sparsity minus the median layer's. */
  readonly difference: number;
  /** Its projections, farthest from the median of the same projection first; at most three. */
  readonly projections: readonly { readonly projection: string; readonly sparsity: number }[];
}

export interface Band {
  readonly fromLayer: number;
  readonly toLayer: number;
  readonly layerCount: number;
  /** True where no layer between `fromLayer` and `toLayer` stands out. */
  readonly contiguous: boolean;
  readonly low: number;
  readonly high: number;
  /** Over the tensors of these layers. */
  readonly tensorLow: number;
  readonly tensorHigh: number;
}

/** Below five layers, a median absolute deviation says nothing. */
const MIN_LAYERS_TO_STAND_OUT = 5;

/** Three standard deviations, estimated as 1.4826 times the median absolute deviation (Hampel's identifier). */
const DEVIATIONS = 3 * 1.4826;

/** A layer nearer than one percentage point to the median never stands out, however alike the others are. */
const MIN_DIFFERENCE = 0.01;

export function remarksOf(report: SurgeryReport, grid: LayerGrid = layerGrid(report.per_tensor)): Remarks {
  const layers = report.per_layer
    .filter(({ layer, weights, sparsity }) => layer >= 0 && weights > 0 && Number.isFinite(sparsity))
    .sort((a, b) => a.layer - b.layer);
  const center = median(layers.map(({ sparsity }) => sparsity));
  const spread = median(layers.map(({ sparsity }) => Math.abs(sparsity - (center ?? 0))));
  const limit = Math.max(DEVIATIONS * (spread ?? 0), MIN_DIFFERENCE);

  const standsOut = (row: LayerRow) =>
    layers.length >= MIN_LAYERS_TO_STAND_OUT && Math.abs(row.sparsity - (center ?? 0)) > limit;
  const standOut = layers
    .filter(standsOut)
    .map((row) => ({
      layer: row.layer,
      sparsity: row.sparsity,
      difference: row.sparsity - (center ?? 0),
      projections: farthestProjections(grid, row.layer),
    }))
    .sort((a, b) => Math.abs(b.difference) - Math.abs(a.difference) || a.layer - b.layer);

  let mostPruned: TensorRow | undefined;
  let leastPruned: TensorRow | undefined;
  let tensorsWithoutLayer = 0;
  for (const row of report.per_tensor) {
    if (!(row.layer >= 0)) tensorsWithoutLayer++;
    if (!(row.weights > 0) || !Number.isFinite(row.sparsity)) continue;
    if (mostPruned === undefined || row.sparsity > mostPruned.sparsity) mostPruned = row;
    if (leastPruned === undefined || row.sparsity < leastPruned.sparsity) leastPruned = row;
  }
  const bySparsity = [...layers].sort((a, b) => a.sparsity - b.sparsity);
  return {
    layerCount: layers.length,
    medianLayer: center,
    mostPrunedLayer: bySparsity.at(-1),
    leastPrunedLayer: bySparsity[0],
    standOut,
    band: bandOf(
      layers.filter((row) => !standsOut(row)),
      layers,
    ),
    mostPruned,
    leastPruned,
    tensorsWithoutLayer,
  };
}

function bandOf(inside: readonly LayerRow[], all: readonly LayerRow[]): Band | undefined {
  const first = inside[0];
  const last = inside.at(-1);
  if (first === undefined || last === undefined) return undefined;
  const between = all.filter(({ layer }) => layer >= first.layer && layer <= last.layer).length;
  const lowest = (values: number[]) => values.reduce((a, b) => Math.min(a, b));
  const highest = (values: number[]) => values.reduce((a, b) => Math.max(a, b));
  return {
    fromLayer: first.layer,
    toLayer: last.layer,
    layerCount: inside.length,
    contiguous: between === inside.length,
    low: lowest(inside.map((row) => row.sparsity)),
    high: highest(inside.map((row) => row.sparsity)),
    tensorLow: lowest(inside.map((row) => row.min)),
    tensorHigh: highest(inside.map((row) => row.max)),
  };
}

function farthestProjections(grid: LayerGrid, layer: number): { projection: string; sparsity: number }[] {
  const column = grid.layers.indexOf(layer);
  if (column < 0) return [];
  const found: { projection: string; sparsity: number; distance: number }[] = [];
  for (const [position, projection] of grid.projections.entries()) {
    const sparsity = grid.cells[position][column]?.sparsity;
    if (sparsity === undefined) continue;
    const usual = median(grid.cells[position].flatMap((cell) => cell?.sparsity ?? []));
    found.push({ projection, sparsity, distance: Math.abs(sparsity - (usual ?? 0)) });
  }
  return found
    .sort((a, b) => b.distance - a.distance)
    .slice(0, 3)
    .map(({ projection, sparsity }) => ({ projection, sparsity }));
}

/** The middle value, or the mean of the two in the middle. */
export function median(values: readonly number[]): number | undefined {
  if (values.length === 0) return undefined;
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}
