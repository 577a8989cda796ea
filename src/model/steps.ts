import type { Architecture } from "./architecture.js";
import { layerBase } from "./names.js";

/**
 * A decoder layer has four places where weights multiply inputs. Each step applies the projections of one place and carries on to the input
 * of the next:
 *
 * ```
 * residual ── norm ──► x qkv ─(q, k, v, rope, attention)─► x o ─(o, + residual, norm)─► x gate_up ─(gate, up, gate·up)─► x down ─(down, + residual)─►
 * ```
 *
 * Where attention and MLP stand side by side, the step o still gives the MLP's input: it is made from the residual stream before attention.
 */
export const STEPS = ["qkv", "o", "gate_up", "down"] as const;
export type Step = (typeof STEPS)[number];

/** A projection: which tensor it is and at which step it stands. Fused tensors are one projection. */
export interface Projection {
  readonly step: Step;
  /** Path inside the layer: `self_attn.q_proj`. */
  readonly projection: string;
  /** Name of its weight in the checkpoint: (rows, cols) = (outputs, inputs). */
  readonly tensor: string;
  readonly rows: number;
  readonly cols: number;
  /** The checkpoint holds it as (cols, rows); everywhere else it is (rows, cols). */
  readonly transposed: boolean;
}

/** The projections of a layer, in the order of the steps. */
export function projectionsOf(architecture: Architecture, prefix: string, layer: number): Projection[] {
  const { hiddenSize, headCount, kvHeadCount, headDim, intermediateSize, mlp, names, transposed } = architecture;
  const queryRows = headCount * headDim;
  const keyRows = kvHeadCount * headDim;
  const base = layerBase(names, prefix, layer);
  const list = (step: Step, paths: readonly string[], rows: readonly number[], cols: number): Projection[] =>
    paths.map((projection, at) => ({
      step,
      projection,
      tensor: `${base}${projection}.weight`,
      rows: rows[at],
      cols,
      transposed,
    }));
  const qkvRows = names.qkv.length === 1 ? [queryRows + 2 * keyRows] : [queryRows, keyRows, keyRows];
  const mlpRows = mlp === "gated_rows" ? [2 * intermediateSize] : [intermediateSize, intermediateSize];
  return [
    ...list("qkv", names.qkv, qkvRows, hiddenSize),
    ...list("o", [names.o], [hiddenSize], queryRows),
    ...list("gate_up", names.gateUp, mlpRows, hiddenSize),
    ...list("down", [names.down], [hiddenSize], intermediateSize),
  ];
}

/** Channels of a step's input. */
export function inputWidth(architecture: Architecture, step: Step): number {
  if (step === "o") return architecture.headCount * architecture.headDim;
  return step === "down" ? architecture.intermediateSize : architecture.hiddenSize;
}

type Placed = Pick<Projection, "rows" | "cols" | "transposed">;

/** A weight as the checkpoint stores it → row-major (rows, cols). */
export function fromFile(stored: Float32Array, { rows, cols, transposed }: Placed): Float32Array {
  return transposed ? transposeMatrix(stored, cols, rows) : stored;
}

/** A weight (rows, cols) → as the checkpoint stores it. */
export function toFile(weights: Float32Array, { rows, cols, transposed }: Placed): Float32Array {
  return transposed ? transposeMatrix(weights, rows, cols) : weights;
}

function transposeMatrix(values: Float32Array, rows: number, cols: number): Float32Array {
  const turned = new Float32Array(values.length);
  for (let row = 0; row < rows; row++) {
    for (let col = 0; col < cols; col++) turned[col * rows + row] = values[row * cols + col];
  }
  return turned;
}
