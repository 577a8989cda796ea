import { configuredRope, type Family } from "../architecture.js";
import type { Experts } from "../experts.js";
import { SILU } from "../gguf.js";
import type { LatentAttention } from "../mixers.js";

/** DeepSeek V3 (and R1): attention through a latent, a few dense layers, then experts in groups beside shared ones. */
export const deepseek: Family = {
  modelTypes: ["deepseek_v3"],
  reference: "DeepSeek-V3, arXiv:2412.19437; modeling_deepseek_v3.py of transformers",
  defaults: {
    deepseek_v3: {
      num_attention_heads: 128,
      max_position_embeddings: 4096,
      n_routed_experts: 256,
      num_experts_per_tok: 8,
      n_group: 8,
      topk_group: 4,
      n_shared_experts: 1,
      routed_scaling_factor: 2.5,
      norm_topk_prob: true,
      first_k_dense_replace: 3,
      moe_intermediate_size: 2048,
      q_lora_rank: 1536,
      kv_lora_rank: 512,
      qk_rope_head_dim: 64,
      qk_nope_head_dim: 128,
      v_head_dim: 128,
    },
  },
  only: { scoring_func: ["sigmoid"], topk_method: ["noaux_tc"] },
  gguf: {
    deepseek_v3: {
      architecture: "deepseek2",
      activations: SILU,
      turnsPairs: true,
      fields: [
        ["first_k_dense_replace", "leading_dense_block_count", "u32"],
        ["q_lora_rank", "attention.q_lora_rank", "u32"],
        ["kv_lora_rank", "attention.kv_lora_rank", "u32"],
        ["n_routed_experts", "expert_count", "u32"],
        ["num_experts_per_tok", "expert_used_count", "u32"],
        ["n_shared_experts", "expert_shared_count", "u32"],
        ["n_group", "expert_group_count", "u32"],
        ["topk_group", "expert_group_used_count", "u32"],
        ["moe_intermediate_size", "expert_feed_forward_length", "u32"],
        ["routed_scaling_factor", "expert_weights_scale", "f32"],
        ["norm_topk_prob", "expert_weights_norm", "bool"],
      ],
      constants: { expert_gating_func: 2 },
    },
  },
  traits(config) {
    const layerCount = config.count("num_hidden_layers");
    const ropeDim = config.count("qk_rope_head_dim");
    const plainDim = config.count("qk_nope_head_dim");
    const turnsPairs = config.flag("rope_interleave", true);
    const rope = configuredRope(config, ropeDim, config.count("max_position_embeddings"), turnsPairs);
    const mixer: { readonly kind: "latent" } & LatentAttention = {
      kind: "latent",
      queryRank: config.optionalNumber("q_lora_rank"),
      keyValueRank: config.count("kv_lora_rank"),
      plainDim,
      ropeDim,
      valueDim: config.count("v_head_dim"),
    };
    const width = config.count("moe_intermediate_size");
    const experts: Experts = {
      count: config.count("n_routed_experts"),
      perToken: config.count("num_experts_per_tok"),
      width,
      routing: {
        path: "mlp.gate",
        kind: "sigmoid",
        normalised: config.flag("norm_topk_prob", true),
        scale: config.number("routed_scaling_factor", 1),
        correction: "mlp.gate.e_score_correction_bias",
        groups: { count: config.count("n_group", 1), chosen: config.count("topk_group", 1) },
      },
      layout: {
        kind: "split",
        gate: "mlp.experts.{e}.gate_proj",
        up: "mlp.experts.{e}.up_proj",
        down: "mlp.experts.{e}.down_proj",
      },
      shared: { path: "mlp.shared_experts", width: width * config.count("n_shared_experts", 1) },
    };
    const dense = config.number("first_k_dense_replace", 0);
    const scaling = config.record("rope_parameters") ?? config.record("rope_scaling");
    const stretch = latentStretch(scaling);
    return {
      headDim: plainDim + ropeDim,
      kvHeadCount: config.count("num_attention_heads"),
      attentionScale: (plainDim + ropeDim) ** -0.5 * stretch * stretch,
      layers: Array.from({ length: layerCount }, (_, layer) => ({
        rope,
        slidingWindow: undefined,
        mixer,
        ...(layer < dense ? {} : { experts }),
      })),
    };
  },
};

/** With yarn, scores grow by the square of this. source: `yarn_apply_mscale` of modeling_deepseek_v3.py */
function latentStretch(scaling: Readonly<Record<string, unknown>> | undefined): number {
  const type = scaling?.rope_type ?? scaling?.type ?? "default";
  const [factor, all] = [Number(scaling?.factor ?? 1), Number(scaling?.mscale_all_dim ?? 0)];
  return type === "default" || all === 0 || factor <= 1 ? 1 : 0.1 * all * Math.log(factor) + 1;
}
