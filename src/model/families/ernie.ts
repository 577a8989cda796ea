import { configuredRope, type Family, headDimOf, slidingLayers } from "../architecture.js";
import { SILU } from "../gguf.js";

/** ERNIE 4.5, dense: Llama whose channels 2i and 2i + 1 turn together. */
export const ernie: Family = {
  modelTypes: ["ernie4_5"],
  reference: "ERNIE 4.5 technical report; modeling_ernie4_5.py of transformers",
  defaults: {
    ernie4_5: {
      num_attention_heads: 16,
      num_key_value_heads: 2,
      head_dim: 128,
      max_position_embeddings: 131072,
      rms_norm_eps: 1e-5,
      rope_theta: 500_000,
      tie_word_embeddings: true,
    },
  },
  gguf: { ernie4_5: { architecture: "ernie4_5", activations: SILU, turnsPairs: true } },
  traits(config) {
    const rope = configuredRope(config, headDimOf(config), config.count("max_position_embeddings"), true);
    const layers = slidingLayers(config, config.count("num_hidden_layers"), () => false);
    return { layers: layers.map(() => ({ rope, slidingWindow: undefined })) };
  },
};
