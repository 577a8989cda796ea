import { configuredRope, type Family, headDimOf, LLAMA_BLOCK, slidingLayers } from "../architecture.js";
import { SILU } from "../gguf.js";
import { headLayerNorms } from "./head-norms.js";

/**
 * Cohere's Command R and R7B: attention and MLP side by side behind one layer norm without bias, channels 2i and 2i + 1
 * turn together, logits are scaled. In the second generation layers slide but every fourth, and those have no rope.
 */
export const cohere: Family = {
  modelTypes: ["cohere", "cohere2"],
  reference: "Command R; modeling_cohere.py, modeling_cohere2.py of transformers",
  defaults: {
    cohere: {
      num_attention_heads: 64,
      max_position_embeddings: 8192,
      layer_norm_eps: 1e-5,
      rope_theta: 500_000,
      tie_word_embeddings: true,
    },
    cohere2: {
      num_attention_heads: 64,
      max_position_embeddings: 8192,
      layer_norm_eps: 1e-5,
      sliding_window: 4096,
      tie_word_embeddings: true,
    },
  },
  gguf: {
    cohere: {
      architecture: "command-r",
      activations: SILU,
      epsilon: "layer_norm_eps",
      turnsPairs: true,
      tiesHead: true,
      fields: [["logit_scale", "logit_scale", "f32"]],
    },
    cohere2: {
      architecture: "cohere2",
      activations: SILU,
      epsilon: "layer_norm_eps",
      turnsPairs: true,
      tiesHead: true,
      slidingPeriod: 4,
      fields: [["logit_scale", "logit_scale", "f32"]],
    },
  },
  traits(config) {
    const second = config.text("model_type") === "cohere2";
    const layerCount = config.count("num_hidden_layers");
    const rope = configuredRope(config, headDimOf(config), config.count("max_position_embeddings"), true);
    const pattern = config.count("sliding_window_pattern", 4);
    const slides = slidingLayers(config, layerCount, (layer) => second && (layer + 1) % pattern !== 0);
    const window = config.optionalNumber("sliding_window");
    return {
      norm: { kind: "layer", eps: config.number("layer_norm_eps"), offset: 0, affine: true },
      block: { ...LLAMA_BLOCK, mlpIn: LLAMA_BLOCK.attentionIn, parallel: true },
      qkNorm: config.flag("use_qk_norm", false) ? headLayerNorms("q_norm", "k_norm", "each_head") : undefined,
      logitScale: config.number("logit_scale", 0.0625),
      layers: slides.map((slide) => ({
        rope: slide || !second ? rope : undefined,
        slidingWindow: slide && second ? window : undefined,
      })),
    };
  },
};
