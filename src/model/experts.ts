/**
 * Gates bent as gpt-oss bends them: `(clip(up) + 1) · gate · σ(alpha · gate)`. source: modeling_gpt_oss.py,
 * `GptOssExperts`
 */
export interface ClampedGate {
  readonly alpha: number;
  readonly limit: number;
}

/**
 * A mixture of experts in the place of an MLP: how tokens are routed, and how the experts' weights lie in the
 * checkpoint.
 */
export interface Experts {
  readonly count: number;
  readonly perToken: number;
  /** Neurons of one expert. */
  readonly width: number;
  readonly routing: Routing;
  readonly layout: ExpertLayout;
  /** An MLP that every token passes besides; `gate` names a (1, hidden) matrix whose sigmoid scales it. */
  readonly shared?: SharedExpert;
  readonly clampedGate?: ClampedGate;
}

export interface SharedExpert {
  readonly path: string;
  readonly width: number;
  readonly gate?: string;
}

export interface Routing {
  /** Path of the router's matrix (experts, hidden) inside the layer. */
  readonly path: string;
  /**
   * How logits become the weights of the chosen:
   * `softmax` over all experts, then the largest (Mixtral, Qwen);
   * `softmax of chosen`: the largest logits, then a softmax over those (GraniteMoE, gpt-oss);
   * `sigmoid`: each expert for itself (DeepSeek V3);
   * `sparse mixer`: one expert after the other, each with a softmax over those within `jitter` of the largest
   * (Phi-3.5-MoE, arXiv:2409.12136).
   */
  readonly kind: "softmax" | "softmax of chosen" | "sigmoid" | "sparse mixer";
  /** Weights of the chosen are divided by their sum. */
  readonly normalised?: boolean;
  /** Factor on the weights of the chosen. */
  readonly scale?: number;
  /** A tensor (experts) that is added to the scores where experts are chosen, and nowhere else. */
  readonly correction?: string;
  /** Experts stand in groups; only the best groups (by their two best experts) are chosen from. */
  readonly groups?: { readonly count: number; readonly chosen: number };
  readonly jitter?: number;
  /** The weight multiplies the expert's input instead of its output (Llama 4). */
  readonly scalesInput?: boolean;
}

/** Where an expert's gate, up and down stand. `{e}` in a path is the expert's number. */
export type ExpertLayout =
  | { readonly kind: "split"; readonly gate: string; readonly up: string; readonly down: string }
  | StackedExperts;

export interface StackedExperts {
  readonly kind: "stacked";
  /** (experts, 2 · width, hidden), or (experts, hidden, 2 · width) where `transposed`. */
  readonly gateUp: string;
  /** (experts, hidden, width), or (experts, width, hidden) where `transposed`. */
  readonly down: string;
  readonly transposed: boolean;
  /** Gate and up alternate column by column (gpt-oss) instead of lying one behind the other. */
  readonly interleaved?: boolean;
  /** `<path>_bias` (experts, …) stand beside both. */
  readonly biased?: boolean;
}
