import { configuredRope, type Family, slidingLayers } from "../architecture.js";

/** Llama 1 to 3.x, Mistral (a sliding window in its first version), SmolLM (Llama as it is), SmolLM3 (some layers without rope). */
export const llama: Family = {
  modelTypes: ["llama", "mistral", "smollm3"],
  reference: "Llama, arXiv:2302.13971; Mistral 7B, arXiv:2310.06825; modeling_llama.py of transformers",
  traits(config) {
    if (config.text("model_type") !== "smollm3") return {};
    const layerCount = config.count("num_hidden_layers");
    const headDim = config.count("head_dim", config.count("hidden_size") / config.count("num_attention_heads"));
    const rope = configuredRope(config, headDim, config.count("max_position_embeddings"));
    const turns = config.raw("no_rope_layers");
    const slides = slidingLayers(config, layerCount, () => config.flag("use_sliding_window", false));
    const slidingWindow = config.optionalNumber("sliding_window");
    return {
      tiedEmbeddings: config.flag("tie_word_embeddings", true),
      // `no_rope_layers` holds 1 where a layer HAS rope; without the list every fourth layer goes without.
      layers: slides.map((slide, layer) => ({
        rope: (Array.isArray(turns) ? turns[layer] : (layer + 1) % 4) ? rope : undefined,
        slidingWindow: slide ? slidingWindow : undefined,
      })),
    };
  },
};
