import { configuredRope, type Family, headDimOf, LLAMA_BLOCK, plainLayers } from "../architecture.js";
import { SILU } from "../gguf.js";
import { FUSED_GATE_UP, LLAMA_NAMES } from "../names.js";

const DEFAULTS = {
  num_key_value_heads: 2,
  head_dim: 128,
  max_position_embeddings: 131072,
  rms_norm_eps: 1.5625e-7,
  partial_rotary_factor: 0.5,
};

/**
 * GLM-4 (first "glm", then "glm4", with norms behind attention and MLP too): half of each head turns, channels 2i and
 * 2i + 1 together; gate and up fused.
 */
export const glm: Family = {
  modelTypes: ["glm", "glm4"],
  reference: "ChatGLM, arXiv:2406.12793; modeling_glm.py, modeling_glm4.py of transformers",
  defaults: { glm: DEFAULTS, glm4: DEFAULTS },
  turnsInPart: true,
  gguf: {
    glm: { architecture: "chatglm", activations: SILU, turnsPairs: true },
    glm4: { architecture: "glm4", activations: SILU, turnsPairs: true },
  },
  traits(config) {
    const rope = configuredRope(config, headDimOf(config), config.count("max_position_embeddings"), true);
    const fourth = config.text("model_type") === "glm4";
    return {
      block: fourth
        ? { ...LLAMA_BLOCK, attentionOut: "post_self_attn_layernorm", mlpOut: "post_mlp_layernorm" }
        : LLAMA_BLOCK,
      mlp: "gated_rows",
      names: { ...LLAMA_NAMES, gateUp: FUSED_GATE_UP },
      layers: plainLayers(config.count("num_hidden_layers")).map((layer) => ({ ...layer, rope })),
    };
  },
};
