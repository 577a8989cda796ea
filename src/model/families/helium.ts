import { configuredRope, type Family, headDimOf, plainLayers } from "../architecture.js";
import { SILU } from "../gguf.js";

/** Kyutai's Helium: Llama whose channels 2i and 2i + 1 turn together. */
export const helium: Family = {
  modelTypes: ["helium"],
  reference: "modeling_helium.py of transformers",
  defaults: {
    helium: {
      num_attention_heads: 20,
      num_key_value_heads: 20,
      head_dim: 128,
      max_position_embeddings: 4096,
      rms_norm_eps: 1e-8,
      rope_theta: 100_000,
    },
  },
  gguf: { helium: { architecture: "llama", activations: SILU, turnsPairs: true } },
  traits(config) {
    const rope = configuredRope(config, headDimOf(config), config.count("max_position_embeddings"), true);
    return { layers: plainLayers(config.count("num_hidden_layers")).map((layer) => ({ ...layer, rope })) };
  },
};
