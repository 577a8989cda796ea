import type { Family } from "../architecture.js";
import { ANY_GELU } from "../gguf.js";
import { LLAMA_NAMES } from "../names.js";

/** StarCoder2: Llama's attention, layer norms, tanh-GELU without a gate, a bias everywhere, a sliding window. */
export const starcoder2: Family = {
  modelTypes: ["starcoder2"],
  reference: "StarCoder 2, arXiv:2402.19173; modeling_starcoder2.py of transformers",
  defaults: {
    starcoder2: {
      num_attention_heads: 24,
      num_key_value_heads: 2,
      max_position_embeddings: 4096,
      hidden_act: "gelu_pytorch_tanh",
      tie_word_embeddings: true,
    },
  },
  gguf: { starcoder2: { architecture: "starcoder2", activations: ANY_GELU, epsilon: "norm_epsilon" } },
  traits: (config) => ({
    norm: { kind: "layer", eps: config.number("norm_epsilon", 1e-5), offset: 0, affine: true },
    mlp: "plain",
    names: { ...LLAMA_NAMES, gateUp: ["mlp.c_fc"], down: "mlp.c_proj" },
  }),
};
