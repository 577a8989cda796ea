import type { DecoderCoverage } from "./decoder-coverage.js";
import type { DistilRecord } from "./distilling.js";
import type { MatchRecord } from "./matching.js";

/**
 * `physarium/surgery.json`: every number of an operation, as plain data (JSON, hence snake_case).
 *
 * Rates are unrounded fractions 0…1. `model_weights` counts all elements of all tensors; the other totals count
 * targets. `killed`: non-zero before, zero now. `already_zero`: ±0 before. `sparsity`: zeros now over weights,
 * recounted from what was written; under v2, where a weight that was zero may live, that is (killed + already_zero −
 * revived) / weights.
 */
export interface SurgeryReport {
  physarium_version: string;
  flow: string;
  flow_version: string;
  params: FlowParamsRecord;
  donor: {
    path: string;
    name: string;
    total_size: number;
    tensor_count: number;
    shard_count: number;
    /** 40 hexadecimal digits, of a donor from the Hub. */
    commit?: string;
    /** The hashes by which every shard was proven while it came over the wire: `sha256`. Absent where it was not. */
    proven?: string;
  };
  output: { path: string };
  started_at: string;
  ended_at: string;
  /** How often the operation was stopped and resumed. */
  resumed: number;
  totals: Totals;
  per_tensor: TensorRow[];
  per_projection: ProjectionRow[];
  per_layer: LayerRow[];
  shards: ShardRow[];
  coverage: { tiles: number; weights_processed: number; weights_target: number; fraction: number };
  /** Coverage over all matrices of the decoder's layers; reports from before 0.1.0 lack it. */
  decoder?: DecoderCoverage;
  warnings: { code: string; message: string }[];
  side_files: string[];
  /** The model card of ours, and the name that the donor's has beside it; absent with `--no-card`. */
  model_card?: { file: string; donor_as?: string };
  left_out: { file: string; reason: string }[];
  /** v2 only: what it was calibrated on, and what its stages did. */
  activation?: ActivationSection;
  /** Absent until the pictures' data was gathered; `null` where there is nothing to draw. */
  figures?: Figures;
  /** Written by `verify` (and by `surgery` itself when it verifies). */
  integrity?: IntegritySummary;
  wall_seconds: number;
  peak_rss_bytes: number;
}

export interface FlowParamsRecord {
  block_size: number;
  n_iter: number;
  beta: number;
  /** Null where v2 aims at a rate or a pattern. */
  survival: number | null;
  /** Present when the survival was searched for a global rate. */
  target_sparsity?: number;
  include?: string;
  exclude?: string;
  [more: string]: unknown;
}

export interface ActivationSection {
  /** The whole model was distilled behind the layers: a class of its own in all tables. */
  trained?: true;
  distil?: DistilRecord;
  /** Absent in a run that has not come to it. */
  calibration?: {
    /** File name; null for text the donor wrote itself. */
    text: string | null;
    /** SHA-256 of the file. */
    sha256?: string | null;
    samples: number;
    tokens: number;
    /** Name of the file of Grams that was used in place of the text they are of. */
    grams?: string;
  };
  tensors: {
    name: string;
    projection: string;
    weights: number;
    living: number;
    /** Living weights whose bits healing moved. */
    survivors_changed: number;
    revived: number;
    /** Tubes that sprouted where selection had left none, of the living. */
    exchanged_share: number;
    /** How the Gram of its inputs was used. */
    gram?: "whole" | "tiles";
    /** Of an expert, or of each in a stack: the calibration tokens that came to it, and the inputs of its matrix. */
    expert_tokens?: number[];
    expert_inputs?: number;
    /** v3: what matching its layer gained. */
    match?: MatchRecord;
    /** Relative output error after each stage. */
    stages: { stage: string; relative_error?: number; seconds: number }[];
  }[];
}

export interface Totals {
  model_weights: number;
  target_weights: number;
  already_zero: number;
  killed: number;
  killed_of_target: number;
  killed_of_model: number;
  /** Target tensors. */
  tensors: number;
  min_sparsity: number;
  mean_sparsity: number;
  max_sparsity: number;
  failed_tensors: number;
}

export interface TensorRow {
  name: string;
  shard: string;
  dtype: string;
  shape: number[];
  /** −1 where the name has no layer. */
  layer: number;
  projection: string;
  weights: number;
  already_zero: number;
  killed: number;
  sparsity: number;
  tiles: number;
}

export interface ProjectionRow {
  projection: string;
  tensors: number;
  mean: number;
  min: number;
  max: number;
  weights: number;
  killed: number;
}

export interface LayerRow {
  layer: number;
  tensors: number;
  weights: number;
  killed: number;
  already_zero: number;
  /** Zeros now over weights. */
  sparsity: number;
  min: number;
  max: number;
}

export interface ShardRow {
  file: string;
  /** 1-based position in the run. */
  order: number;
  seconds: number;
  /** Weights killed from the start of the run to this shard's end. */
  killed_cumulative: number;
}

/** Data of the report's pictures, gathered from the files after the operation. */
export interface Figures {
  drive_histogram: {
    /** Drives y, ascending; bin i is [bin_edges[i], bin_edges[i + 1]). */
    bin_edges: number[];
    /** Weights a bin, in the sampled tiles; drives past the last edge are counted in the last bin. */
    counts: number[];
    sampled_tiles: number;
    sampled_weights: number;
    /** The threshold in force: drives below it starve. */
    threshold: number;
  } | null;
  tile_maps: TileMap[];
}

export interface TileMap {
  which: "most pruned" | "least pruned";
  name: string;
  block_size: number;
  /** Cells of the map; where a tensor has more tiles than cells, neighbours are pooled. */
  rows: number;
  cols: number;
  /** Tiles of the tensor, down and across. */
  tile_rows: number;
  tile_cols: number;
  /** Sparsity of each cell, row-major, rows × cols. */
  sparsity: number[];
}

export interface IntegritySummary {
  verified_at: string;
  ok: boolean;
  checks: { name: string; ok: boolean; detail: string }[];
  difference_count: number;
  parity: {
    mode: string;
    tiles_checked: number;
    tiles_total: number;
    weights_checked: number;
    /** Of the tiles, those that the readable reference was run on; before 0.1.0 all of `tiles_checked`. */
    reference_tiles?: number;
  };
}
