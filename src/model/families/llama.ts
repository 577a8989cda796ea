import type { Family } from "../architecture.js";
import { SILU } from "../gguf.js";

const MISTRAL = {
  num_key_value_heads: 8,
  max_position_embeddings: 131072,
  rms_norm_eps: 1e-6,
  sliding_window: 4096,
};

/**
 * Llama 1 to 3.x, SmolLM (Llama as it is), Mistral (a sliding window in its first version), Ministral (some layers
 * slide), Ministral 3 (queries grow with the position behind the original length).
 */
export const llama: Family = {
  modelTypes: ["llama", "mistral", "ministral", "ministral3"],
  reference: "Llama, arXiv:2302.13971; Mistral 7B, arXiv:2310.06825; modeling_llama.py of transformers",
  defaults: {
    mistral: MISTRAL,
    ministral: MISTRAL,
    ministral3: {
      num_key_value_heads: 8,
      head_dim: 128,
      max_position_embeddings: 262144,
      rms_norm_eps: 1e-5,
      rope_theta: 1_000_000,
      rope_parameters: {
        rope_type: "yarn",
        rope_theta: 1_000_000,
        factor: 16,
        original_max_position_embeddings: 16384,
        beta_fast: 32,
        beta_slow: 1,
        mscale: 1,
        mscale_all_dim: 1,
        llama_4_scaling_beta: 0.1,
      },
    },
  },
  gguf: {
    ministral: { architecture: "llama", activations: SILU, turnsPairs: true },
    ministral3: { architecture: "mistral3", activations: SILU, turnsPairs: true, tellsYarn: true },
  },
  traits: () => ({}),
};
