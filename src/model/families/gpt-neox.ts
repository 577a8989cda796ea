import { configuredRope, type Family, LLAMA_BLOCK, plainLayers } from "../architecture.js";
import { ANY_GELU } from "../gguf.js";

/**
 * GPT-NeoX and Pythia: layer norms, q, k, v fused head by head, a quarter of each head turns, attention and MLP side by
 * side with a norm each.
 */
export const gptNeox: Family = {
  modelTypes: ["gpt_neox"],
  reference: "GPT-NeoX-20B, arXiv:2204.06745; Pythia, arXiv:2304.01373; modeling_gpt_neox.py of transformers",
  aliases: { rotary_pct: "partial_rotary_factor", rotary_emb_base: "rope_theta" },
  defaults: {
    gpt_neox: { num_attention_heads: 64, layer_norm_eps: 1e-5, hidden_act: "gelu", partial_rotary_factor: 0.25 },
  },
  turnsInPart: true,
  gguf: {
    gpt_neox: {
      architecture: "gptneox",
      activations: ANY_GELU,
      epsilon: "layer_norm_eps",
      fields: [["use_parallel_residual", "use_parallel_residual", "bool"]],
    },
  },
  traits(config) {
    const headCount = config.count("num_attention_heads");
    const headDim = config.count("hidden_size") / headCount;
    const rope = configuredRope(config, headDim, config.count("max_position_embeddings"));
    return {
      kvHeadCount: headCount,
      headDim,
      norm: { kind: "layer", eps: config.number("layer_norm_eps"), offset: 0, affine: true },
      block: { ...LLAMA_BLOCK, parallel: config.flag("use_parallel_residual", true) },
      qkvLayout: "groups",
      mlp: "plain",
      names: {
        embedding: "embed_in",
        layers: "layers",
        finalNorm: "final_layer_norm",
        head: "embed_out",
        qkv: ["attention.query_key_value"],
        o: "attention.dense",
        gateUp: ["mlp.dense_h_to_4h"],
        down: "mlp.dense_4h_to_h",
        ignored: /\.attention\.(?:(?:masked_)?bias|rotary_emb\.inv_freq)$/,
      },
      layers: plainLayers(config.count("num_hidden_layers")).map((layer) => ({ ...layer, rope })),
    };
  },
};
