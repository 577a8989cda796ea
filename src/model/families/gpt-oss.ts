import { type Family, likeLlama, slidingLayers } from "../architecture.js";
import type { Experts } from "../experts.js";
import { SILU } from "../gguf.js";
import { LLAMA_NAMES } from "../names.js";

/**
 * gpt-oss in BF16: every second layer slides, each head has a sink, experts with bent gates lie in one tensor, turned.
 */
export const gptOss: Family = {
  modelTypes: ["gpt_oss"],
  reference: "gpt-oss model card, arXiv:2508.10925; modeling_gpt_oss.py of transformers",
  defaults: {
    gpt_oss: {
      num_attention_heads: 64,
      num_key_value_heads: 8,
      head_dim: 64,
      max_position_embeddings: 131072,
      sliding_window: 128,
      rms_norm_eps: 1e-5,
      num_local_experts: 128,
      num_experts_per_tok: 4,
      rope_theta: 150_000,
      rope_scaling: {
        rope_type: "yarn",
        factor: 32,
        beta_fast: 32,
        beta_slow: 1,
        truncate: false,
        original_max_position_embeddings: 4096,
      },
    },
  },
  gguf: {
    gpt_oss: {
      architecture: "gpt-oss",
      activations: SILU,
      normalisesExperts: true,
      slidingPeriod: 2,
      roundsYarn: true,
      names: { post_attention_layernorm: "post_attention_norm" },
      fields: [
        ["num_local_experts", "expert_count", "u32"],
        ["num_experts_per_tok", "expert_used_count", "u32"],
        ["intermediate_size", "expert_feed_forward_length", "u32"],
      ],
    },
  },
  traits(config) {
    const experts: Experts = {
      count: config.count("num_local_experts"),
      perToken: config.count("num_experts_per_tok"),
      width: config.count("intermediate_size"),
      routing: { path: "mlp.router", kind: "softmax of chosen" },
      layout: {
        kind: "stacked",
        gateUp: "mlp.experts.gate_up_proj",
        down: "mlp.experts.down_proj",
        transposed: true,
        interleaved: true,
        biased: true,
      },
      clampedGate: { alpha: config.number("swiglu_alpha", 1.702), limit: config.number("swiglu_limit", 7) },
    };
    const slides = slidingLayers(config, config.count("num_hidden_layers"), (layer) => layer % 2 === 0);
    const window = config.optionalNumber("sliding_window");
    return {
      attentionSinks: true,
      names: { ...LLAMA_NAMES, extra: { sinks: "self_attn.sinks" } },
      layers: likeLlama(config).map((layer, at) => ({
        ...layer,
        slidingWindow: slides[at] ? window : undefined,
        experts,
      })),
    };
  },
};
