import { configuredRope, type Family, headDimOf, type LayerTraits } from "../architecture.js";
import type { ModelConfig } from "../config.js";
import type { Experts } from "../experts.js";
import { SILU } from "../gguf.js";
import { headNorms } from "./head-norms.js";

/** Qwen1.5-MoE, Qwen2-MoE (experts beside one that every token passes) and Qwen3-MoE (without it). */
export const qwenMoe: Family = {
  modelTypes: ["qwen2_moe", "qwen3_moe"],
  reference: "Qwen3, arXiv:2505.09388; modeling_qwen2_moe.py, modeling_qwen3_moe.py of transformers",
  defaults: {
    qwen2_moe: {
      num_key_value_heads: 16,
      max_position_embeddings: 32768,
      num_experts: 60,
      num_experts_per_tok: 4,
      moe_intermediate_size: 1408,
      shared_expert_intermediate_size: 5632,
    },
    qwen3_moe: {
      num_key_value_heads: 4,
      max_position_embeddings: 32768,
      num_experts: 128,
      num_experts_per_tok: 8,
      moe_intermediate_size: 768,
    },
  },
  aliases: { num_local_experts: "num_experts" },
  gguf: {
    qwen2_moe: {
      architecture: "qwen2moe",
      activations: SILU,
      normalisesExperts: false,
      fields: [
        ["num_experts", "expert_count", "u32"],
        ["num_experts_per_tok", "expert_used_count", "u32"],
        ["moe_intermediate_size", "expert_feed_forward_length", "u32"],
        ["shared_expert_intermediate_size", "expert_shared_feed_forward_length", "u32"],
      ],
    },
    qwen3_moe: {
      architecture: "qwen3moe",
      activations: SILU,
      normalisesExperts: true,
      fields: [
        ["num_experts", "expert_count", "u32"],
        ["num_experts_per_tok", "expert_used_count", "u32"],
        ["moe_intermediate_size", "expert_feed_forward_length", "u32"],
      ],
    },
  },
  traits(config) {
    const isThird = config.text("model_type") === "qwen3_moe";
    const rope = configuredRope(config, headDimOf(config), config.count("max_position_embeddings"));
    const layerCount = config.count("num_hidden_layers");
    const on = config.flag("use_sliding_window", false);
    const window = on ? config.optionalNumber("sliding_window") : undefined;
    const firstSliding = config.number("max_window_layers", 28);
    const layers: LayerTraits[] = expertLayers(config, layerCount, !isThird).map((experts, layer) => ({
      rope,
      slidingWindow: isThird || layer >= firstSliding ? window : undefined,
      ...(experts === undefined ? {} : { experts }),
    }));
    return { qkNorm: isThird ? headNorms("q_norm", "k_norm") : undefined, layers };
  },
};

/** Qwen's rule of which layers have experts, and its names for them. */
export function expertLayers(config: ModelConfig, layerCount: number, shared: boolean): (Experts | undefined)[] {
  const count = config.number("num_experts", 0);
  const every = config.count("decoder_sparse_step", 1);
  const dense = config.raw("mlp_only_layers");
  const isDense = (layer: number): boolean =>
    count === 0 || (Array.isArray(dense) && dense.includes(layer)) || (layer + 1) % every !== 0;
  const experts = (): Experts => ({
    count,
    perToken: config.count("num_experts_per_tok"),
    width: config.count("moe_intermediate_size"),
    routing: { path: "mlp.gate", kind: "softmax", normalised: config.flag("norm_topk_prob", false) },
    layout: {
      kind: "split",
      gate: "mlp.experts.{e}.gate_proj",
      up: "mlp.experts.{e}.up_proj",
      down: "mlp.experts.{e}.down_proj",
    },
    ...(shared
      ? {
          shared: {
            path: "mlp.shared_expert",
            width: config.count("shared_expert_intermediate_size"),
            gate: "mlp.shared_expert_gate",
          },
        }
      : {}),
  });
  return Array.from({ length: layerCount }, (_, layer) => (isDense(layer) ? undefined : experts()));
}
