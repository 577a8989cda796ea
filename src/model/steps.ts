import { type Architecture, sizedFor } from "./architecture.js";

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
  /** Name of its tensor in the checkpoint: (rows, cols) = (outputs, inputs). */
  readonly tensor: string;
  readonly rows: number;
  readonly cols: number;
  /** The checkpoint holds it as (cols, rows); everywhere else it is (rows, cols). */
  readonly transposed: boolean;
  /** The tensor is a stack of `count` such matrices, of which this is one. */
  readonly stack?: { readonly index: number; readonly count: number };
}

/** The shape that a projection's tensor has in the checkpoint. */
export function storedShape({ rows, cols, transposed, stack }: Omit<Projection, "step" | "projection">): number[] {
  const matrix = transposed ? [cols, rows] : [rows, cols];
  return stack === undefined ? matrix : [stack.count, ...matrix];
}

/** What a projection's weights are called where they are supplied: a tensor's name, and a matrix's number in a stack. */
export function suppliedName({ tensor, stack }: Pick<Projection, "tensor" | "stack">): string {
  return stack === undefined ? tensor : `${tensor}[${stack.index}]`;
}

/** Path of the product that ends attention, or what stands in its place. */
export function outputPath({ names, layers }: Architecture, layer: number): string {
  const { mixer } = layers[layer];
  if (mixer?.kind === "convolution") return "conv.out_proj";
  return mixer?.kind === "delta rule" ? "linear_attn.out_proj" : names.o;
}

/** Channels of a step's input. A mixture of experts takes what enters it through both of the MLP's steps. */
export function inputWidth(architecture: Architecture, step: Step, layer: number): number {
  const { hiddenSize, headCount, headDim, intermediateSize, layers } = sizedFor(architecture, layer);
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
