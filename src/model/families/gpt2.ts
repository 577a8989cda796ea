import { activationOf, type Family, plainLayers } from "../architecture.js";
import { ANY_GELU } from "../gguf.js";

/**
 * GPT-2: learned positions, layer norms, no gate, matrices stored as (inputs, outputs). GPT-BigCode: the same with one
 * key head and plain matrices.
 */
export const gpt2: Family = {
  modelTypes: ["gpt2", "gpt_bigcode"],
  reference:
    "GPT-2, Radford et al. 2019; SantaCoder, arXiv:2301.03988; modeling_gpt2.py, modeling_gpt_bigcode.py of " +
    "transformers",
  aliases: {
    n_embd: "hidden_size",
    n_layer: "num_hidden_layers",
    n_head: "num_attention_heads",
    n_positions: "max_position_embeddings",
  },
  defaults: {
    gpt2: {
      hidden_size: 768,
      num_hidden_layers: 12,
      num_attention_heads: 12,
      max_position_embeddings: 1024,
      vocab_size: 50257,
      activation_function: "gelu_new",
      tie_word_embeddings: true,
    },
    gpt_bigcode: {
      max_position_embeddings: 1024,
      activation_function: "gelu_pytorch_tanh",
      multi_query: true,
      tie_word_embeddings: true,
    },
  },
  only: { scale_attn_by_inverse_layer_idx: [false], add_cross_attention: [false] },
  gguf: {
    gpt2: { architecture: "gpt2", activations: ANY_GELU, epsilon: "layer_norm_epsilon" },
    gpt_bigcode: { architecture: "starcoder", activations: ANY_GELU, epsilon: "layer_norm_epsilon" },
  },
  traits(config) {
    const hiddenSize = config.count("hidden_size");
    const headCount = config.count("num_attention_heads");
    const isBigCode = config.text("model_type") === "gpt_bigcode";
    const oneKey = isBigCode && config.flag("multi_query", true);
    return {
      intermediateSize: config.count("n_inner", 4 * hiddenSize),
      headDim: hiddenSize / headCount,
      kvHeadCount: oneKey ? 1 : headCount,
      norm: { kind: "layer", eps: config.number("layer_norm_epsilon", 1e-5), offset: 0, affine: true },
      block: { attentionIn: "ln_1", attentionOut: undefined, mlpIn: "ln_2", mlpOut: undefined, parallel: false },
      qkvLayout: isBigCode && !oneKey ? "groups" : "rows",
      mlp: "plain",
      activation: activationOf(config.text("activation_function")),
      ...(config.flag("scale_attn_weights", true) ? {} : { attentionScale: 1 }),
      learnedPositions: 0,
      transposed: !isBigCode,
      names: {
        embedding: "wte",
        positions: "wpe",
        layers: "h",
        finalNorm: "ln_f",
        head: "lm_head",
        qkv: ["attn.c_attn"],
        o: "attn.c_proj",
        gateUp: ["mlp.c_fc"],
        down: "mlp.c_proj",
        ignored: /\.attn\.(?:masked_)?bias$/,
      },
      layers: plainLayers(config.count("num_hidden_layers")),
    };
  },
};
