import { configuredRope, type Family, headDimOf } from "../architecture.js";
import type { Experts } from "../experts.js";
import { SILU } from "../gguf.js";
import { LLAMA_NAMES } from "../names.js";

/**
 * Llama 4's text model: layers with experts beside a shared one (and dense ones between, in the large model), pairs of
 * channels turn together, every fourth layer has no rope and lets queries grow with their position.
 */
export const llama4: Family = {
  modelTypes: ["llama4_text"],
  reference: "The Llama 4 herd (2025); modeling_llama4.py of transformers",
  defaults: {
    llama4_text: {
      num_attention_heads: 40,
      num_key_value_heads: 8,
      head_dim: 128,
      max_position_embeddings: 131072,
      rms_norm_eps: 1e-5,
      rope_theta: 500_000,
      num_local_experts: 16,
      num_experts_per_tok: 1,
      intermediate_size: 8192,
      intermediate_size_mlp: 16384,
      use_qk_norm: true,
      attn_temperature_tuning: true,
      floor_scale: 8192,
      attn_scale: 0.1,
      no_rope_layer_interval: 4,
      interleave_moe_layer_step: 1,
      attention_chunk_size: 8192,
    },
  },
  gguf: {
    llama4_text: {
      architecture: "llama4",
      activations: SILU,
      turnsPairs: true,
      chunk: 8192,
      fields: [
        ["num_local_experts", "expert_count", "u32"],
        ["num_experts_per_tok", "expert_used_count", "u32"],
        ["intermediate_size_mlp", "feed_forward_length", "u32"],
        ["intermediate_size", "expert_feed_forward_length", "u32"],
        ["interleave_moe_layer_step", "interleave_moe_layer_step", "u32"],
      ],
    },
  },
  traits(config) {
    const layerCount = config.count("num_hidden_layers");
    const rope = configuredRope(config, headDimOf(config), config.count("max_position_embeddings"), true);
    const given = config.raw("no_rope_layers");
    const interval = config.count("no_rope_layer_interval", 4);
    const turns = (layer: number): boolean =>
      Array.isArray(given) && given.length > 0 ? Boolean(given[layer]) : (layer + 1) % interval !== 0;
    const listed = config.raw("moe_layers");
    const step = config.count("interleave_moe_layer_step", 1);
    const hasExperts = (layer: number): boolean =>
      Array.isArray(listed) ? listed.includes(layer) : (layer + 1) % step === 0;
    const width = config.count("intermediate_size");
    const experts: Experts = {
      count: config.count("num_local_experts"),
      perToken: config.count("num_experts_per_tok"),
      width,
      routing: { path: "feed_forward.router", kind: "sigmoid", scalesInput: true },
      layout: {
        kind: "stacked",
        gateUp: "feed_forward.experts.gate_up_proj",
        down: "feed_forward.experts.down_proj",
        transposed: true,
      },
      shared: { path: "feed_forward.shared_expert", width },
    };
    const normed = config.flag("use_qk_norm", true);
    const grows = config.flag("attn_temperature_tuning", true);
    const growth = { floor: config.number("floor_scale", 8192), scale: config.number("attn_scale", 0.1) };
    const chunk = config.optionalNumber("attention_chunk_size");
    return {
      intermediateSize: config.count("intermediate_size_mlp", width),
      names: {
        ...LLAMA_NAMES,
        gateUp: ["feed_forward.gate_proj", "feed_forward.up_proj"],
        down: "feed_forward.down_proj",
      },
      layers: Array.from({ length: layerCount }, (_, layer) => ({
        rope: turns(layer) ? rope : undefined,
        slidingWindow: undefined,
        ...(turns(layer) && chunk !== undefined ? { chunk } : {}),
        ...(turns(layer) && normed ? { unitHeads: true } : {}),
        ...(!turns(layer) && grows ? { queryGrowth: growth } : {}),
        ...(hasExperts(layer) ? { experts } : {}),
      })),
    };
  },
};
