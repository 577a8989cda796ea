import type { Family } from "../architecture.js";
import { SILU } from "../gguf.js";

/** ByteDance's Seed-OSS: Llama with biases on q, k, v and a head length of its own. */
export const seedOss: Family = {
  modelTypes: ["seed_oss"],
  reference: "modeling_seed_oss.py of transformers",
  defaults: {
    seed_oss: {
      num_attention_heads: 80,
      num_key_value_heads: 8,
      head_dim: 128,
      max_position_embeddings: 524288,
    },
  },
  gguf: {
    seed_oss: {
      architecture: "seed_oss",
      activations: SILU,
      names: { post_attention_layernorm: "post_attention_norm" },
    },
  },
  traits: () => ({}),
};
