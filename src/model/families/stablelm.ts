import { type Family, LLAMA_BLOCK } from "../architecture.js";
import { SILU } from "../gguf.js";
import { headLayerNorms } from "./head-norms.js";

/**
 * StableLM 2 and 3B: Llama with layer norms and a quarter of each head turning; in the 12B attention and MLP stand side
 * by side, and q and k have a norm a head.
 */
export const stablelm: Family = {
  modelTypes: ["stablelm"],
  reference: "Stable LM 2, arXiv:2402.17834; modeling_stablelm.py of transformers",
  aliases: { rope_pct: "partial_rotary_factor" },
  defaults: { stablelm: { num_key_value_heads: 32, max_position_embeddings: 4096, partial_rotary_factor: 0.25 } },
  turnsInPart: true,
  gguf: {
    stablelm: {
      architecture: "stablelm",
      activations: SILU,
      epsilon: "layer_norm_eps",
      fields: [["use_parallel_residual", "use_parallel_residual", "bool"]],
    },
  },
  traits: (config) => ({
    norm: { kind: "layer", eps: config.number("layer_norm_eps", 1e-5), offset: 0, affine: true },
    block: config.flag("use_parallel_residual", false)
      ? { ...LLAMA_BLOCK, mlpIn: LLAMA_BLOCK.attentionIn, parallel: true }
      : LLAMA_BLOCK,
    qkNorm: config.flag("qk_layernorm", false) ? headLayerNorms("q_layernorm", "k_layernorm", "tensors") : undefined,
  }),
};
