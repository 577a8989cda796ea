import type { Tensor } from "../../engine/session.js";

/**
 * Numbers between two parts of a model: row-major (batch, tokens, width), f32. Whoever holds them may keep them;
 * nothing here writes to them.
 */
export interface Activations {
  readonly data: Float32Array;
  readonly batch: number;
  readonly tokens: number;
  readonly width: number;
  /** What goes along with a residual stream, by name: each (batch, tokens, …). Layers take and add to it. */
  readonly carried?: Readonly<Record<string, Float32Array>>;
}

/** Where a forward pass stands inside a layer: the residual stream, and the input of the next step's projections. */
export interface LayerState {
  readonly residual: Activations;
  /** `undefined` behind the last step: the layer is done and `residual` is its output. */
  readonly input: Activations | undefined;
}

/**
 * Weights that take the place of the checkpoint's, by `suppliedName`: f32, row-major (rows, cols) as `projections`
 * says.
 */
export type SuppliedWeights = ReadonlyMap<string, Float32Array>;

/** Keys and values of the tokens so far, one entry a layer, held by the engine. */
export interface KvCache {
  readonly keys: readonly Tensor[];
  readonly values: readonly Tensor[];
  readonly batch: number;
  readonly tokens: number;
  /** The tokens so far, where a layer keeps another state than keys and values: then everything is run anew. */
  readonly sequences?: readonly (readonly number[])[];
}
