import { type Family, likeLlama } from "../architecture.js";
import type { Experts, Routing } from "../experts.js";
import { GRANITE_GGUF, SILU } from "../gguf.js";

const PATH = "block_sparse_moe";

/**
 * Mixtral, Phi-3.5-MoE (layer norms, one expert chosen after the other) and Granite's mixtures (experts in one tensor).
 */
export const mixtral: Family = {
  modelTypes: ["mixtral", "phimoe", "granitemoe"],
  reference:
    "Mixtral of Experts, arXiv:2401.04088; GRIN, arXiv:2409.12136; modeling_mixtral.py, modeling_phimoe.py, " +
    "modeling_granitemoe.py of transformers",
  defaults: {
    mixtral: {
      num_key_value_heads: 8,
      max_position_embeddings: 131072,
      rms_norm_eps: 1e-5,
      rope_theta: 1_000_000,
      num_local_experts: 8,
      num_experts_per_tok: 2,
    },
    phimoe: {
      num_key_value_heads: 8,
      max_position_embeddings: 131072,
      rms_norm_eps: 1e-5,
      rope_theta: 1_000_000,
      num_local_experts: 16,
      num_experts_per_tok: 2,
      router_jitter_noise: 0.01,
    },
    granitemoe: { num_local_experts: 8, num_experts_per_tok: 2 },
  },
  gguf: {
    mixtral: {
      architecture: "llama",
      activations: SILU,
      turnsPairs: true,
      normalisesExperts: true,
      fields: [
        ["num_local_experts", "expert_count", "u32"],
        ["num_experts_per_tok", "expert_used_count", "u32"],
      ],
    },
    granitemoe: {
      architecture: "granitemoe",
      ...GRANITE_GGUF,
      normalisesExperts: true,
      fields: [
        ...GRANITE_GGUF.fields,
        ["num_local_experts", "expert_count", "u32"],
        ["num_experts_per_tok", "expert_used_count", "u32"],
      ],
    },
  },
  noGguf: {
    phimoe:
      "llama.cpp's phimoe norms by root mean square and softmaxes the chosen experts' scores, where the model's own " +
      "class has layer norms and chooses one expert after the other",
  },
  traits(config) {
    const modelType = config.text("model_type");
    const isGranite = modelType === "granitemoe";
    const routing: Routing = isGranite
      ? { path: `${PATH}.router.layer`, kind: "softmax of chosen" }
      : modelType === "phimoe"
        ? { path: `${PATH}.gate`, kind: "sparse mixer", jitter: config.number("router_jitter_noise", 0.01) }
        : { path: `${PATH}.gate`, kind: "softmax", normalised: true };
    const experts: Experts = {
      count: config.count("num_local_experts"),
      perToken: config.count("num_experts_per_tok"),
      width: config.count("intermediate_size"),
      routing,
      layout: isGranite
        ? {
            kind: "stacked",
            gateUp: `${PATH}.input_linear.weight`,
            down: `${PATH}.output_linear.weight`,
            transposed: false,
          }
        : {
            kind: "split",
            gate: `${PATH}.experts.{e}.w1`,
            up: `${PATH}.experts.{e}.w3`,
            down: `${PATH}.experts.{e}.w2`,
          },
    };
    const granite = {
      embeddingScale: config.number("embedding_multiplier", 1),
      residualScale: config.number("residual_multiplier", 1),
      attentionScale: config.number("attention_multiplier", 1),
      logitScale: 1 / config.number("logits_scaling", 1),
    };
    return {
      ...(isGranite ? granite : {}),
      ...(modelType === "phimoe"
        ? { norm: { kind: "layer", eps: config.number("rms_norm_eps"), offset: 0, affine: true } as const }
        : {}),
      layers: likeLlama(config).map((layer) => ({ ...layer, experts })),
    };
  },
};
