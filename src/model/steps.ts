import type { Architecture } from "./architecture.js";

/**
 * A decoder layer has four places where weights multiply inputs. Each step applies the projections of one place and carries on to the input
 * of the next:
 *
 * ```
 * residual ── norm ──► x qkv ─(q, k, v, rope, attention)─► x o ─(o, + residual, norm)─► x gate_up ─(gate, up, gate·up)─► x down ─(down, + residual)─►
 * ```
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
}

/** The projections of a layer, in the order of the steps. */
export function projectionsOf(architecture: Architecture, prefix: string, layer: number): Projection[] {
  const { hiddenSize, headCount, kvHeadCount, headDim, intermediateSize, fused } = architecture;
  const queryRows = headCount * headDim;
  const keyRows = kvHeadCount * headDim;
  const entry = (step: Step, projection: string, rows: number, cols: number): Projection => ({
    step,
    projection,
    tensor: `${prefix}layers.${layer}.${projection}.weight`,
    rows,
    cols,
  });
  return [
    ...(fused
      ? [entry("qkv", "self_attn.qkv_proj", queryRows + 2 * keyRows, hiddenSize)]
      : [
          entry("qkv", "self_attn.q_proj", queryRows, hiddenSize),
          entry("qkv", "self_attn.k_proj", keyRows, hiddenSize),
          entry("qkv", "self_attn.v_proj", keyRows, hiddenSize),
        ]),
    entry("o", "self_attn.o_proj", hiddenSize, queryRows),
    ...(fused
      ? [entry("gate_up", "mlp.gate_up_proj", 2 * intermediateSize, hiddenSize)]
      : [
          entry("gate_up", "mlp.gate_proj", intermediateSize, hiddenSize),
          entry("gate_up", "mlp.up_proj", intermediateSize, hiddenSize),
        ]),
    entry("down", "mlp.down_proj", hiddenSize, intermediateSize),
  ];
}

/** Channels of a step's input. */
export function inputWidth(architecture: Architecture, step: Step): number {
  if (step === "o") return architecture.headCount * architecture.headDim;
  return step === "down" ? architecture.intermediateSize : architecture.hiddenSize;
}
