import { configuredRope, type Family, slidingLayers } from "../architecture.js";

/** Qwen2 and 2.5 (q, k, v with biases) and Qwen3 (norms on q and k instead): biases and norms are found by their tensors. */
export const qwen: Family = {
  modelTypes: ["qwen2", "qwen3"],
  reference: "Qwen2, arXiv:2407.10671; Qwen3, arXiv:2505.09388; modeling_qwen2.py, modeling_qwen3.py of transformers",
  traits(config) {
    const layerCount = config.count("num_hidden_layers");
    const headDim = config.count(
      "head_dim",
      config.text("model_type") === "qwen3" ? 128 : config.count("hidden_size") / config.count("num_attention_heads"),
    );
    const rope = configuredRope(config, headDim, config.count("max_position_embeddings", 32768));
    // A window in the file counts only where use_sliding_window is set, and there from layer max_window_layers on.
    const on = config.flag("use_sliding_window", false);
    const firstSliding = config.number("max_window_layers", layerCount);
    const slides = slidingLayers(config, layerCount, (layer) => layer >= firstSliding);
    const slidingWindow = config.optionalNumber("sliding_window");
    return {
      headDim,
      attentionScale: headDim ** -0.5,
      layers: slides.map((slide) => ({ rope, slidingWindow: on && slide ? slidingWindow : undefined })),
    };
  },
};
