import type { Family } from "../architecture.js";
import { LLAMA_NAMES } from "../names.js";
import { headLayerNorms } from "./head-norms.js";

/**
 * Adept's Persimmon: layer norms, also on q and k; q, k, v fused head by head; half of each head turns; squared ReLU
 * without a gate.
 */
export const persimmon: Family = {
  modelTypes: ["persimmon"],
  reference: "modeling_persimmon.py of transformers",
  defaults: {
    persimmon: {
      num_attention_heads: 64,
      max_position_embeddings: 16384,
      hidden_act: "relu2",
      partial_rotary_factor: 0.5,
      qk_layernorm: true,
    },
  },
  noGguf: { persimmon: "llama.cpp does not know it any more" },
  turnsInPart: true,
  traits: (config) => ({
    kvHeadCount: config.count("num_attention_heads"),
    norm: { kind: "layer", eps: config.number("layer_norm_eps", 1e-5), offset: 0, affine: true },
    qkNorm: config.flag("qk_layernorm", true) ? headLayerNorms("q_layernorm", "k_layernorm") : undefined,
    qkvLayout: "groups",
    mlp: "plain",
    names: {
      ...LLAMA_NAMES,
      finalNorm: "final_layernorm",
      qkv: ["self_attn.query_key_value"],
      o: "self_attn.dense",
      gateUp: ["mlp.dense_h_to_4h"],
      down: "mlp.dense_4h_to_h",
    },
  }),
};
