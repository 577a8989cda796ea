import { configuredRope, type Family, headDimOf, LLAMA_BLOCK } from "../architecture.js";
import { SILU } from "../gguf.js";
import { LLAMA_NAMES } from "../names.js";
import { headNorms } from "./head-norms.js";

/** Liquid's LFM2: gated short convolutions, with layers of softmax attention between them. */
export const lfm2: Family = {
  modelTypes: ["lfm2"],
  reference: "LFM2 (2025); modeling_lfm2.py of transformers",
  defaults: {
    lfm2: {
      num_key_value_heads: 8,
      max_position_embeddings: 128000,
      norm_eps: 1e-5,
      rope_theta: 1_000_000,
      conv_L_cache: 3,
      tie_word_embeddings: true,
      block_auto_adjust_ff_dim: true,
      block_ffn_dim_multiplier: 1,
      block_multiple_of: 256,
    },
  },
  aliases: { tie_embedding: "tie_word_embeddings", block_ff_dim: "intermediate_size" },
  gguf: {
    lfm2: {
      architecture: "lfm2",
      activations: SILU,
      epsilon: "norm_eps",
      names: { embedding_norm: "token_embd_norm", ffn_norm: "ffn_norm" },
      config: { block_auto_adjust_ff_dim: false },
      fields: [["conv_L_cache", "shortconv.l_cache", "u32"]],
    },
  },
  traits(config) {
    const layerCount = config.count("num_hidden_layers");
    const rope = configuredRope(config, headDimOf(config), config.count("max_position_embeddings"));
    const types = config.raw("layer_types");
    const full = config.raw("full_attn_idxs");
    const attends = (layer: number): boolean =>
      Array.isArray(types) ? types[layer] === "full_attention" : !Array.isArray(full) || full.includes(layer);
    const mixer = { kind: "convolution", kernelSize: config.count("conv_L_cache") } as const;
    return {
      intermediateSize: neurons(config.count("intermediate_size"), {
        isAdjusted: config.flag("block_auto_adjust_ff_dim", true),
        factor: config.number("block_ffn_dim_multiplier", 1),
        multiple: config.count("block_multiple_of", 256),
      }),
      norm: { kind: "rms", eps: config.number("norm_eps"), offset: 0, affine: true },
      block: { ...LLAMA_BLOCK, attentionIn: "operator_norm", mlpIn: "ffn_norm" },
      qkNorm: headNorms("q_layernorm", "k_layernorm"),
      activation: "silu",
      names: {
        ...LLAMA_NAMES,
        finalNorm: "embedding_norm",
        o: "self_attn.out_proj",
        gateUp: ["feed_forward.w1", "feed_forward.w3"],
        down: "feed_forward.w2",
      },
      layers: Array.from({ length: layerCount }, (_, layer) => ({
        rope,
        slidingWindow: undefined,
        ...(attends(layer) ? {} : { mixer }),
      })),
    };
  },
};

/**
 * Two thirds of what the configuration says, times a factor, filled up to a multiple. source: `Lfm2MLP` of transformers
 * 5.24
 */
function neurons(
  size: number,
  { isAdjusted, factor, multiple }: { isAdjusted: boolean; factor: number; multiple: number },
): number {
  if (!isAdjusted) return size;
  return multiple * Math.ceil(Math.trunc(factor * Math.trunc((2 * size) / 3)) / multiple);
}
