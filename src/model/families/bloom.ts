import { type Family, LLAMA_BLOCK, plainLayers } from "../architecture.js";
import { ANY_GELU } from "../gguf.js";

/**
 * BLOOM: ALiBi instead of positions, layer norms (one behind the embeddings), q, k, v fused head by head, tanh-GELU.
 */
export const bloom: Family = {
  modelTypes: ["bloom"],
  reference: "BLOOM, arXiv:2211.05100; modeling_bloom.py of transformers",
  aliases: { n_layer: "num_hidden_layers", n_head: "num_attention_heads", n_embed: "hidden_size" },
  defaults: { bloom: { layer_norm_epsilon: 1e-5, tie_word_embeddings: true } },
  only: { apply_residual_connection_post_layernorm: [false] },
  gguf: { bloom: { architecture: "bloom", activations: ANY_GELU, epsilon: "layer_norm_epsilon" } },
  traits(config) {
    const headCount = config.count("num_attention_heads");
    return {
      intermediateSize: 4 * config.count("hidden_size"),
      kvHeadCount: headCount,
      headDim: config.count("hidden_size") / headCount,
      norm: { kind: "layer", eps: config.number("layer_norm_epsilon"), offset: 0, affine: true },
      block: LLAMA_BLOCK,
      qkvLayout: "groups",
      mlp: "plain",
      activation: "gelu_tanh",
      alibiScale: 1,
      names: {
        embedding: "word_embeddings",
        embeddingNorm: "word_embeddings_layernorm",
        layers: "h",
        finalNorm: "ln_f",
        head: "lm_head",
        qkv: ["self_attention.query_key_value"],
        o: "self_attention.dense",
        gateUp: ["mlp.dense_h_to_4h"],
        down: "mlp.dense_4h_to_h",
      },
      layers: plainLayers(config.count("num_hidden_layers")),
    };
  },
};
