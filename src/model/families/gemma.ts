import { activationOf, configuredRope, type Family, LLAMA_BLOCK, slidingLayers } from "../architecture.js";
import type { ModelConfig } from "../config.js";
import { headNorms } from "./head-norms.js";

const SECOND = {
  num_attention_heads: 8,
  num_key_value_heads: 4,
  intermediate_size: 9216,
  vocab_size: 256_000,
  head_dim: 256,
  query_pre_attn_scalar: 256,
  max_position_embeddings: 8192,
  sliding_window: 4096,
  attn_logit_softcapping: 50,
  final_logit_softcapping: 30,
  tie_word_embeddings: true,
};

/**
 * Gemma 1 to 3 (text): scaled embeddings, norms that multiply by 1 + weight, tanh-GELU; from 2 on norms also behind
 * each part, soft caps and every other layer sliding; in 3 norms on q and k, five sliding layers of six, and a rope of
 * their own for those.
 */
export const gemma: Family = {
  modelTypes: ["gemma", "gemma2", "gemma3_text"],
  reference: "Gemma 2, arXiv:2408.00118; Gemma 3, arXiv:2503.19786; modeling_gemma*.py of transformers",
  defaults: {
    gemma: {
      num_attention_heads: 16,
      num_key_value_heads: 16,
      intermediate_size: 24576,
      vocab_size: 256_000,
      head_dim: 256,
      max_position_embeddings: 8192,
      tie_word_embeddings: true,
    },
    gemma2: SECOND,
    gemma3_text: {
      ...SECOND,
      hidden_size: 2304,
      num_hidden_layers: 26,
      vocab_size: 262_208,
      max_position_embeddings: 131_072,
      rope_theta: 1_000_000,
      rope_local_base_freq: 10_000,
      attn_logit_softcapping: null,
      final_logit_softcapping: null,
    },
  },
  traits(config) {
    const looksAhead = config.flag("use_bidirectional_attention", false);
    const generation = { gemma: 1, gemma2: 2, gemma3_text: 3 }[config.text("model_type")] ?? 1;
    const headDim = config.count("head_dim", 256);
    const layerCount = config.count("num_hidden_layers");
    return {
      headDim,
      bidirectional: looksAhead,
      norm: { kind: "rms", eps: config.number("rms_norm_eps", 1e-6), offset: 1, affine: true },
      block:
        generation === 1
          ? LLAMA_BLOCK
          : {
              ...LLAMA_BLOCK,
              attentionOut: "post_attention_layernorm",
              mlpIn: "pre_feedforward_layernorm",
              mlpOut: "post_feedforward_layernorm",
            },
      qkNorm: generation === 3 ? headNorms("q_norm", "k_norm") : undefined,
      activation: activationOf(config.text("hidden_activation", "gelu_pytorch_tanh")),
      embeddingScale: Math.sqrt(config.count("hidden_size")),
      attentionScale: (generation === 1 ? headDim : config.number("query_pre_attn_scalar", headDim)) ** -0.5,
      // Gemma 3's class keeps the field, and its attention does not read it.
      attentionSoftcap: generation === 2 ? config.optionalNumber("attn_logit_softcapping") : undefined,
      logitSoftcap: config.optionalNumber("final_logit_softcapping"),
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
  const pattern = config.count(
    "sliding_window_pattern",
    config.count("_sliding_window_pattern", generation === 2 ? 2 : 6),
  );
  const given = config.number("sliding_window", 4096);
  // A window to both sides: the reference's class takes half of it for each.
  const window = config.flag("use_bidirectional_attention", false) ? Math.floor(given / 2) + 1 : given;
  return slidingLayers(config, layerCount, (layer) => (layer + 1) % pattern !== 0).map((slide) => ({
    rope: slide ? local : full,
    slidingWindow: slide ? window : undefined,
  }));
}

/** The configuration as it is for one type of layer: `rope_parameters` of its own take the place of the common ones. */
function nested(config: ModelConfig, parameters: unknown): ModelConfig {
  return parameters === undefined ? config : config.with({ rope_parameters: parameters, rope_scaling: undefined });
}
