import { configuredRope, type Family, headDimOf, slidingLayers } from "../architecture.js";
import { headNorms } from "./head-norms.js";

const DEFAULTS = {
  num_key_value_heads: 32,
  max_position_embeddings: 32768,
  sliding_window: 4096,
  max_window_layers: 28,
};

/** Qwen2 and 2.5 (q, k, v with biases, which are found by their tensors) and Qwen3 (norms on q and k instead). */
export const qwen: Family = {
  modelTypes: ["qwen2", "qwen3"],
  reference: "Qwen2, arXiv:2407.10671; Qwen3, arXiv:2505.09388; modeling_qwen2.py, modeling_qwen3.py of transformers",
  defaults: { qwen2: DEFAULTS, qwen3: { ...DEFAULTS, head_dim: 128 } },
  traits(config) {
    const layerCount = config.count("num_hidden_layers");
    const rope = configuredRope(config, headDimOf(config), config.count("max_position_embeddings"));
    // A window in the file counts only where use_sliding_window is set, and there from layer max_window_layers on.
    const on = config.flag("use_sliding_window", false);
    const firstSliding = config.number("max_window_layers");
    const slides = slidingLayers(config, layerCount, (layer) => layer >= firstSliding);
    const slidingWindow = config.optionalNumber("sliding_window");
    return {
      qkNorm: config.text("model_type") === "qwen3" ? headNorms("q_norm", "k_norm") : undefined,
      layers: slides.map((slide) => ({ rope, slidingWindow: on && slide ? slidingWindow : undefined })),
    };
  },
};
