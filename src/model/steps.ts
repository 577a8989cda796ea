import type { Architecture } from "./architecture.js";
import { layerBase } from "./names.js";

/**
 * A decoder layer has four places where weights multiply inputs. Each step applies the projections of one place and
 * carries on to the input of the next:
 *
 * ```
 * residual ── norm ──► x qkv ─(q, k, v, rope, attention)─► x o ─(o, + residual, norm)─► x gate_up ─(gate, up,
 * gate·up)─► x down ─(down, + residual)─►
 * ```
 *
 * Where attention and MLP stand side by side, the step o still gives the MLP's input: it is made from the residual
 * stream before attention.
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

/**
 * The projections of a layer that the steps name, in their order. A mixture of experts and what stands in the place of
 * attention have none.
 */
export function projectionsOf(architecture: Architecture, prefix: string, layer: number): Projection[] {
  const { hiddenSize, headCount, kvHeadCount, headDim, intermediateSize, mlp, names, transposed } = architecture;
  const { mixer, experts } = architecture.layers[layer];
  const queryRows = headCount * headDim * (architecture.gatedQueries ? 2 : 1);
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
    ...(mixer === undefined ? list("qkv", names.qkv, qkvRows, hiddenSize) : []),
    ...list("o", [outputPath(architecture, layer)], [hiddenSize], inputWidth(architecture, "o", layer)),
    ...(experts === undefined
      ? [
          ...list("gate_up", names.gateUp, mlpRows, hiddenSize),
          ...list("down", [names.down], [hiddenSize], intermediateSize),
        ]
      : []),
  ];
}

/** Path of the product that ends attention, or what stands in its place. */
export function outputPath({ names, layers }: Architecture, layer: number): string {
  const { mixer } = layers[layer];
  if (mixer?.kind === "convolution") return "conv.out_proj";
  return mixer?.kind === "delta rule" ? "linear_attn.out_proj" : names.o;
}

/** Channels of a step's input. A mixture of experts takes what enters it through both of the MLP's steps. */
export function inputWidth(architecture: Architecture, step: Step, layer: number): number {
  const { hiddenSize, headCount, headDim, intermediateSize, layers } = architecture;
  const { mixer, experts } = layers[layer];
  if (step === "down") return experts === undefined ? intermediateSize : hiddenSize;
  if (step !== "o" || mixer?.kind === "convolution") return hiddenSize;
  if (mixer?.kind === "latent") return headCount * mixer.valueDim;
  return mixer?.kind === "delta rule" ? mixer.valueHeadCount * mixer.valueDim : headCount * headDim;
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
