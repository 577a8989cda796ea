/**
 * Which tensor plays which role. Paths without `.weight`: those of a layer inside `<prefix><layers>.<N>.`, the others
 * behind the prefix of the decoder (`model.` in most), the head behind that prefix or a part of it.
 */
export interface TensorNames {
  readonly embedding: string;
  /** A norm of the embeddings (BLOOM). */
  readonly embeddingNorm?: string;
  /** Of what every layer is told of a token: the table, the product and its norm; then a layer's parts of it. */
  readonly perLayer?: {
    readonly table: string;
    readonly projection: string;
    readonly norm: string;
    readonly gate: string;
    readonly out: string;
    readonly outNorm: string;
  };
  /** Of the copies of the residual stream: a layer's part for them, its detour of low rank, and the products around. */
  readonly altUp?: {
    readonly layer: string;
    readonly laurel: string;
    readonly enter: string;
    readonly leave: string;
  };
  /** A number that a layer's output is multiplied by. */
  readonly layerScalar?: string;
  /** The table of learned positions. */
  readonly positions?: string;
  readonly layers: string;
  readonly finalNorm: string;
  readonly head: string;
  /** One path where q, k, v are one tensor, else three. */
  readonly qkv: readonly string[];
  readonly o: string;
  /** gate and up, the one tensor of both, or up alone. */
  readonly gateUp: readonly string[];
  readonly down: string;
  /** Further tensors of a layer by role, with their whole last name: learned parts of an activation, sinks. */
  readonly extra?: Readonly<Record<string, string>>;
  /** Tensors of a layer that a forward pass leaves aside: tables that are computed anew. */
  readonly ignored?: RegExp;
}

export const LLAMA_NAMES: TensorNames = {
  embedding: "embed_tokens",
  layers: "layers",
  finalNorm: "norm",
  head: "lm_head",
  qkv: ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
  o: "self_attn.o_proj",
  gateUp: ["mlp.gate_proj", "mlp.up_proj"],
  down: "mlp.down_proj",
};

/** q, k, v fused and gate, up fused, as Phi-3 calls them. */
export const FUSED_QKV: readonly string[] = ["self_attn.qkv_proj"];
export const FUSED_GATE_UP: readonly string[] = ["mlp.gate_up_proj"];

/** The MLP without a gate under Llama's names. */
export const PLAIN_UP: readonly string[] = ["mlp.up_proj"];

/** What stands before a layer's tensors. */
export function layerBase(names: TensorNames, prefix: string, layer: number): string {
  return `${prefix}${names.layers}.${layer}.`;
}
