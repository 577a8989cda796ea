import { printable } from "../errors.js";
import type { TensorRow } from "../record/surgery-report.js";
import { clip } from "./report-text.js";

/** The targets of one projection in one layer; the experts of a layer are pooled. */
export interface GridCell {
  readonly tensors: number;
  readonly weights: number;
  readonly dead: number;
  /** Zeros over weights, `undefined` where there are no weights. */
  readonly sparsity: number | undefined;
}

/** Layer × projection, what the heat map and the depth pictures draw. */
export interface LayerGrid {
  /** Ascending; tensors without a layer stand in no cell. */
  readonly layers: readonly number[];
  /** In the order of a decoder layer. */
  readonly projections: readonly string[];
  /** `cells[projection][layer position]` */
  readonly cells: readonly (readonly (GridCell | undefined)[])[];
  readonly min: number;
  readonly max: number;
  /** Layers and projections past the caps below, counted; they stand in surgery.json. */
  readonly leftOutLayers: number;
  readonly leftOutProjections: number;
}

/** No decoder has more layers or kinds of projections than this; a donor made to be awkward may. */
const MAX_LAYERS = 256;
const MAX_PROJECTIONS = 24;

export function layerGrid(rows: readonly TensorRow[]): LayerGrid {
  const layerSet = new Set<number>();
  const weightsOf = new Map<string, number>();
  for (const row of rows) {
    if (!(row.layer >= 0)) continue;
    layerSet.add(row.layer);
    weightsOf.set(row.projection, (weightsOf.get(row.projection) ?? 0) + row.weights);
  }
  const allLayers = [...layerSet].sort((a, b) => a - b);
  const layers = allLayers.slice(0, MAX_LAYERS);
  const heaviest = [...weightsOf].sort((a, b) => b[1] - a[1]).slice(0, MAX_PROJECTIONS);
  const projections = sortProjections(heaviest.map(([projection]) => projection));

  const rowOf = new Map(projections.map((projection, position) => [projection, position]));
  const columnOf = new Map(layers.map((layer, position) => [layer, position]));
  const sums: ({ tensors: number; weights: number; dead: number } | undefined)[][] = projections.map(() =>
    new Array(layers.length).fill(undefined),
  );
  for (const row of rows) {
    const p = rowOf.get(row.projection);
    const l = columnOf.get(row.layer);
    if (p === undefined || l === undefined) continue;
    sums[p][l] ??= { tensors: 0, weights: 0, dead: 0 };
    const cell = sums[p][l];
    cell.tensors++;
    cell.weights += row.weights;
    cell.dead += zerosOf([row]);
  }
  let min = Number.POSITIVE_INFINITY;
  let max = Number.NEGATIVE_INFINITY;
  const cells = sums.map((line) =>
    line.map((sum) => {
      if (sum === undefined) return undefined;
      const sparsity = sum.weights > 0 ? sum.dead / sum.weights : undefined;
      if (sparsity !== undefined) {
        min = Math.min(min, sparsity);
        max = Math.max(max, sparsity);
      }
      return { ...sum, sparsity };
    }),
  );
  return {
    layers,
    projections,
    cells,
    min,
    max,
    leftOutLayers: allLayers.length - layers.length,
    leftOutProjections: weightsOf.size - projections.length,
  };
}

/** Zeros that were written: not killed + already_zero, for what was zero may live again under v2. */
export function zerosOf(rows: readonly Pick<TensorRow, "sparsity" | "weights">[]): number {
  return rows.reduce((sum, { sparsity, weights }) => sum + Math.round(sparsity * weights), 0);
}

const ORDER = ["q_proj", "k_proj", "v_proj", "qkv_proj", "o_proj", "gate_proj", "up_proj", "gate_up_proj", "down_proj"];

/** As the data flows through a layer: attention before MLP, q k v o, gate up down; anything else by name behind. */
export function sortProjections(projections: readonly string[]): string[] {
  const rank = (projection: string) => {
    const kind = ORDER.indexOf(projection.slice(projection.lastIndexOf(".") + 1));
    const part = projection.includes("attn") ? 0 : projection.includes("expert") ? 2 : 1;
    return kind < 0 ? 999 : part * 100 + (projection.includes("shared") ? 50 : 0) + kind;
  };
  return [...projections].sort((a, b) => rank(a) - rank(b) || (a < b ? -1 : a > b ? 1 : 0));
}

/** `self_attn.q_proj` as pictures label it: without the `_proj` and the part every reader knows. */
export function shortProjection(projection: string): string {
  const short = projection
    .replace(/(^|\.)self_attn\./, "$1")
    .replace(/^mlp\./, "")
    .replace(/_proj$/, "");
  return clip(printable(short === "" ? projection : short), 22);
}

/** Sparsities that differ by less are one number in every plot. */
const UNIFORM = 0.0005;

/** Whether all cells are as sparse as each other: plots of where zeros lie would show one colour. */
export function isUniform(grid: LayerGrid): boolean {
  return grid.layers.length > 1 && grid.max - grid.min < UNIFORM;
}
