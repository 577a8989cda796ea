import { configuredRope, type Family, headDimOf, slidingLayers } from "../architecture.js";

/** SmolLM3: Llama with some layers, every fourth, without rope. */
export const smollm3: Family = {
  modelTypes: ["smollm3"],
  reference: "RoPE to NoRoPE and back again, arXiv:2501.18795; modeling_smollm3.py of transformers",
  defaults: {
    smollm3: {
      num_attention_heads: 16,
      num_key_value_heads: 4,
      max_position_embeddings: 32768,
      rope_theta: 2_000_000,
      tie_word_embeddings: true,
    },
  },
  traits(config) {
    const rope = configuredRope(config, headDimOf(config), config.count("max_position_embeddings"));
    const turns = config.raw("no_rope_layers");
    const interval = config.count("no_rope_layer_interval", 4);
    const slides = slidingLayers(config, config.count("num_hidden_layers"), () =>
      config.flag("use_sliding_window", false),
    );
    const slidingWindow = config.optionalNumber("sliding_window");
    return {
      // `no_rope_layers` holds 1 where a layer HAS rope; without the list every fourth layer goes without.
      layers: slides.map((slide, layer) => ({
        rope: (Array.isArray(turns) ? turns[layer] : (layer + 1) % interval) ? rope : undefined,
        slidingWindow: slide ? slidingWindow : undefined,
      })),
    };
  },
};
