import {
  activationOf,
  type BlockTraits,
  configuredRope,
  type Family,
  LLAMA_BLOCK,
  plainLayers,
} from "../architecture.js";
import type { ModelConfig } from "../config.js";
import { ANY_GELU } from "../gguf.js";

/**
 * Falcon: layer norms, attention and MLP side by side, q, k, v fused; one key head for all in the first 7B, one for a
 * group of queries from the 40B on (and a norm each for attention and MLP); Falcon-RW one after the other, with ALiBi.
 */
export const falcon: Family = {
  modelTypes: ["falcon"],
  reference: "Falcon, arXiv:2311.16867; modeling_falcon.py of transformers",
  aliases: { n_layer: "num_hidden_layers", n_head: "num_attention_heads" },
  defaults: { falcon: { layer_norm_epsilon: 1e-5, tie_word_embeddings: true } },
  gguf: {
    falcon: {
      architecture: "falcon",
      activations: ANY_GELU,
      epsilon: "layer_norm_epsilon",
      names: { ln_attn: "attn_norm_2", ln_mlp: "attn_norm" },
    },
  },
  traits(config) {
    const hiddenSize = config.count("hidden_size");
    const layerCount = config.count("num_hidden_layers");
    const headCount = config.count("num_attention_heads");
    const headDim = hiddenSize / headCount;
    const grouped = config.flag("new_decoder_architecture", false);
    const ownHeads = grouped || !config.flag("multi_query", true);
    const alibi = config.flag("alibi", false);
    const rope = configuredRope(config, headDim, config.count("max_position_embeddings"));
    return {
      intermediateSize: config.count("ffn_hidden_size", 4 * hiddenSize),
      headDim,
      kvHeadCount: ownHeads ? config.count("num_kv_heads", config.count("n_head_kv", headCount)) : 1,
      norm: { kind: "layer", eps: config.number("layer_norm_epsilon"), offset: 0, affine: true },
      block: blockOf(config, grouped),
      qkvLayout: "groups",
      mlp: "plain",
      activation: activationOf(config.text("activation", "gelu")),
      // The slopes are added before the scores are scaled.
      alibiScale: alibi ? headDim ** -0.5 : undefined,
      names: {
        embedding: "word_embeddings",
        layers: "h",
        finalNorm: "ln_f",
        head: "lm_head",
        qkv: ["self_attention.query_key_value"],
        o: "self_attention.dense",
        gateUp: ["mlp.dense_h_to_4h"],
        down: "mlp.dense_4h_to_h",
      },
      layers: alibi ? plainLayers(layerCount) : plainLayers(layerCount).map((layer) => ({ ...layer, rope })),
    };
  },
};

function blockOf(config: ModelConfig, grouped: boolean): BlockTraits {
  if (!config.flag("parallel_attn", true) && !grouped) return LLAMA_BLOCK;
  const norms = config.number("num_ln_in_parallel_attn", grouped ? 2 : 1);
  return norms === 2
    ? { ...LLAMA_BLOCK, attentionIn: "ln_attn", mlpIn: "ln_mlp", parallel: true }
    : { ...LLAMA_BLOCK, mlpIn: LLAMA_BLOCK.attentionIn, parallel: true };
}
