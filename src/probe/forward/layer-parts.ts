import type { OnnxGraph, Value } from "../../engine/onnx-graph.js";
import type { Projection } from "../../model/steps.js";

/** What the parts of a decoder layer are built from: its graph, and its weights by their path inside the layer. */
export interface LayerParts {
  readonly graph: OnnxGraph;
  /** x Wᵀ + b for `<path>.weight` (rows, cols); the bias where the checkpoint has one. */
  linear(x: Value, path: string, rows: number, cols: number): Value;
  /** The norm of the family over the last axis, with `<path>.weight` (width). */
  norm(x: Value, path: string, width: number): Value;
  /** The activation function of the MLP. */
  activate(x: Value): Value;
  /**
   * The tensor `<path>` itself as f32, of exactly this shape; rows `[rowStart, rowEnd)` of its first axis where given.
   */
  stored(path: string, shape: readonly number[], rowStart?: number, rowEnd?: number): Value;
  /**
   * Matrix `index` of the stack `<path>` of `count`, turned for a product from the right: (cols, rows), as x (tokens,
   * cols) wants it.
   */
  stacked(path: string, stack: NonNullable<Projection["stack"]>, shape: MatrixShape): Value;
  /** Whether the checkpoint holds the tensor `<path>`. */
  has(path: string): boolean;
}

/** Outputs, inputs, and whether the checkpoint has them the other way round. */
export type MatrixShape = Pick<Projection, "rows" | "cols" | "transposed">;
