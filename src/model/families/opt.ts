import { activationOf, type Family, plainLayers } from "../architecture.js";

/**
 * OPT: learned positions from the third row of their table on, layer norms, ReLU without a gate. Its 350M (norms
 * behind, embeddings of another width) is refused.
 */
export const opt: Family = {
  modelTypes: ["opt"],
  reference: "OPT, arXiv:2205.01068; modeling_opt.py of transformers",
  defaults: {
    opt: {
      hidden_size: 768,
      num_hidden_layers: 12,
      num_attention_heads: 12,
      ffn_dim: 3072,
      vocab_size: 50272,
      activation_function: "relu",
      tie_word_embeddings: true,
    },
  },
  noGguf: { opt: "llama.cpp does not know it" },
  only: { do_layer_norm_before: [true], _remove_final_layer_norm: [false] },
  traits(config) {
    const hiddenSize = config.count("hidden_size");
    const headCount = config.count("num_attention_heads");
    return {
      intermediateSize: config.count("ffn_dim"),
      kvHeadCount: headCount,
      headDim: hiddenSize / headCount,
      norm: {
        kind: "layer",
        eps: 1e-5,
        offset: 0,
        affine: config.flag("layer_norm_elementwise_affine", true),
      },
      block: {
        attentionIn: "self_attn_layer_norm",
        attentionOut: undefined,
        mlpIn: "final_layer_norm",
        mlpOut: undefined,
        parallel: false,
      },
      mlp: "plain",
      activation: activationOf(config.text("activation_function")),
      learnedPositions: 2,
      names: {
        embedding: "embed_tokens",
        positions: "embed_positions",
        layers: "layers",
        finalNorm: "final_layer_norm",
        head: "lm_head",
        qkv: ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
        o: "self_attn.out_proj",
        gateUp: ["fc1"],
        down: "fc2",
      },
      layers: plainLayers(config.count("num_hidden_layers")),
    };
  },
};
