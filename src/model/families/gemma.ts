import { activationOf, configuredRope, type Family, slidingLayers } from "../architecture.js";
import type { ModelConfig } from "../config.js";

/**
 * Gemma 1 to 3 (text): scaled embeddings, norms that multiply by 1 + weight, tanh-GELU; from 2 on norms also behind each part, soft caps
 * and every other layer sliding; in 3 norms on q and k, five sliding layers of six, and a rope of their own for those.
 */
export const gemma: Family = {
  modelTypes: ["gemma", "gemma2", "gemma3_text"],
  reference: "Gemma 2, arXiv:2408.00118; Gemma 3, arXiv:2503.19786; modeling_gemma*.py of transformers",
  traits(config) {
    const generation = { gemma: 1, gemma2: 2, gemma3_text: 3 }[config.text("model_type")] ?? 1;
    const headDim = config.count("head_dim", 256);
    const layerCount = config.count("num_hidden_layers");
    return {
      headDim,
      normOffset: 1,
      activation: activationOf(config.text("hidden_activation", "gelu_pytorch_tanh")),
      embeddingScale: Math.sqrt(config.count("hidden_size")),
      attentionScale: config.number("query_pre_attn_scalar", headDim) ** -0.5,
      attentionSoftcap: config.optionalNumber("attn_logit_softcapping"),
      logitSoftcap: config.optionalNumber("final_logit_softcapping"),
      tiedEmbeddings: config.flag("tie_word_embeddings", true),
      sandwichNorms: generation > 1,
      layers: generation === 1 ? [] : layersOf(config, generation, headDim, layerCount),
    };
  },
};

function layersOf(config: ModelConfig, generation: number, headDim: number, layerCount: number) {
  const maxPositions = config.count("max_position_embeddings", 8192);
  const perType = config.record("rope_parameters");
  const full = configuredRope(nested(config, perType?.full_attention), headDim, maxPositions);
  const local =
    generation === 2
      ? full
      : configuredRope(
          nested(config, perType?.sliding_attention ?? { rope_theta: config.number("rope_local_base_freq", 10000) }),
          headDim,
          maxPositions,
        );
  const pattern = config.count("sliding_window_pattern", generation === 2 ? 2 : 6);
  const window = config.number("sliding_window", 4096);
  return slidingLayers(config, layerCount, (layer) => (layer + 1) % pattern !== 0).map((slide) => ({
    rope: slide ? local : full,
    slidingWindow: slide ? window : undefined,
  }));
}

/** The configuration as it is for one type of layer: `rope_parameters` of its own take the place of the common ones. */
function nested(config: ModelConfig, parameters: unknown): ModelConfig {
  return parameters === undefined ? config : config.with({ rope_parameters: parameters, rope_scaling: undefined });
}
