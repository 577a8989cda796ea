import { configuredRope, type Family, headDimOf, LLAMA_BLOCK, slidingLayers } from "../architecture.js";
import { SILU } from "../gguf.js";
import { headNorms } from "./head-norms.js";

/** EXAONE 4: norms behind attention and MLP only and on q and k; where some layers slide, the others have no rope. */
export const exaone: Family = {
  modelTypes: ["exaone4"],
  reference: "EXAONE 4.0, arXiv:2507.11407; modeling_exaone4.py of transformers",
  defaults: { exaone4: { num_key_value_heads: 32, rms_norm_eps: 1e-5, sliding_window: 4096 } },
  gguf: { exaone4: { architecture: "exaone4", activations: SILU, slidingPeriod: 4, slidingLayerCount: 64 } },
  traits(config) {
    const layerCount = config.count("num_hidden_layers");
    const rope = configuredRope(config, headDimOf(config), config.count("max_position_embeddings"));
    const slidingWindow = config.optionalNumber("sliding_window");
    const slides = slidingLayers(config, layerCount, slidingRule(config.raw("sliding_window_pattern"), layerCount));
    return {
      block: {
        ...LLAMA_BLOCK,
        attentionIn: undefined,
        attentionOut: "post_attention_layernorm",
        mlpIn: undefined,
        mlpOut: "post_feedforward_layernorm",
      },
      qkNorm: headNorms("q_norm", "k_norm"),
      layers: slides.map((slide) => ({
        rope: slide || slidingWindow === undefined ? rope : undefined,
        slidingWindow: slide ? slidingWindow : undefined,
      })),
    };
  },
};

/** A period, or letters such as LLLG with the last layer always whole. */
function slidingRule(pattern: unknown, layerCount: number): (layer: number) => boolean {
  if (typeof pattern === "string") {
    return (layer) => layer !== layerCount - 1 && pattern[layer % pattern.length] === "L";
  }
  const period = typeof pattern === "number" && pattern > 0 ? pattern : 4;
  return (layer) => (layer + 1) % period !== 0;
}
