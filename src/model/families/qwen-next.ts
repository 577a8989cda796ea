import { configuredRope, type Family, headDimOf } from "../architecture.js";
import { type GgufField, type GgufTraits, SILU } from "../gguf.js";
import type { DeltaRule } from "../mixers.js";
import { headNorms } from "./head-norms.js";
import { expertLayers } from "./qwen-moe.js";

const DEFAULTS = {
  num_attention_heads: 16,
  num_key_value_heads: 2,
  head_dim: 256,
  max_position_embeddings: 32768,
  partial_rotary_factor: 0.25,
  linear_conv_kernel_dim: 4,
  linear_key_head_dim: 128,
  linear_value_head_dim: 128,
  linear_num_key_heads: 16,
  linear_num_value_heads: 32,
};

const EXPERT_FIELDS: readonly GgufField[] = [
  ["num_experts", "expert_count", "u32"],
  ["num_experts_per_tok", "expert_used_count", "u32"],
  ["moe_intermediate_size", "expert_feed_forward_length", "u32"],
  ["shared_expert_intermediate_size", "expert_shared_feed_forward_length", "u32"],
];
const GGUF: Pick<GgufTraits, "activations" | "names"> = {
  activations: SILU,
  names: { post_attention_layernorm: "post_attention_norm" },
};

/**
 * Qwen3-Next and Qwen3.5: three layers of linear attention by the gated delta rule, then one of softmax attention whose
 * output is gated.
 */
export const qwenNext: Family = {
  modelTypes: ["qwen3_next", "qwen3_5_text", "qwen3_5_moe_text"],
  turnsInPart: true,
  reference: "Gated Delta Networks, arXiv:2412.06464; modeling_qwen3_next.py, modeling_qwen3_5.py of transformers",
  defaults: {
    qwen3_next: {
      ...DEFAULTS,
      num_experts: 512,
      num_experts_per_tok: 10,
      moe_intermediate_size: 512,
      shared_expert_intermediate_size: 512,
      norm_topk_prob: true,
    },
    qwen3_5_text: { ...DEFAULTS, num_key_value_heads: 4 },
    qwen3_5_moe_text: {
      ...DEFAULTS,
      num_experts: 256,
      num_experts_per_tok: 8,
      moe_intermediate_size: 512,
      shared_expert_intermediate_size: 512,
      norm_topk_prob: true,
    },
  },
  gguf: {
    qwen3_next: { architecture: "qwen3next", ...GGUF, normalisesExperts: true, fields: EXPERT_FIELDS },
    qwen3_5_text: { architecture: "qwen35", ...GGUF, hasSections: true },
    qwen3_5_moe_text: {
      architecture: "qwen35moe",
      ...GGUF,
      normalisesExperts: true,
      fields: EXPERT_FIELDS,
      hasSections: true,
    },
  },
  traits(config) {
    const layerCount = config.count("num_hidden_layers");
    const rope = configuredRope(config, headDimOf(config), config.count("max_position_embeddings"));
    const types = config.raw("layer_types");
    const every = config.count("full_attention_interval", 4);
    const isLinear = (layer: number): boolean =>
      Array.isArray(types) ? types[layer] === "linear_attention" : (layer + 1) % every !== 0;
    const mixer: { readonly kind: "delta rule" } & DeltaRule = {
      kind: "delta rule",
      keyHeadCount: config.count("linear_num_key_heads"),
      valueHeadCount: config.count("linear_num_value_heads"),
      keyDim: config.count("linear_key_head_dim"),
      valueDim: config.count("linear_value_head_dim"),
      kernelSize: config.count("linear_conv_kernel_dim"),
      layout: config.text("model_type") === "qwen3_next" ? "grouped" : "apart",
    };
    return {
      norm: { kind: "rms", eps: config.number("rms_norm_eps"), offset: 1, affine: true },
      qkNorm: headNorms("q_norm", "k_norm"),
      gatedQueries: true,
      layers: expertLayers(config, layerCount, true).map((experts, layer) => ({
        rope,
        slidingWindow: undefined,
        ...(isLinear(layer) ? { mixer } : {}),
        ...(experts === undefined ? {} : { experts }),
      })),
    };
  },
};
