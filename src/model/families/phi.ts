import { type Family, LLAMA_BLOCK } from "../architecture.js";
import { ANY_GELU } from "../gguf.js";
import { LLAMA_NAMES } from "../names.js";
import { headLayerNorms } from "./head-norms.js";

/**
 * Phi 1, 1.5 and 2: attention and MLP side by side behind one layer norm, part of each head turns, tanh-GELU without a
 * gate, a bias everywhere.
 */
export const phi: Family = {
  modelTypes: ["phi"],
  reference: "Phi-1.5, arXiv:2309.05463; modeling_phi.py of transformers",
  defaults: { phi: { hidden_act: "gelu_new", partial_rotary_factor: 0.5 } },
  turnsInPart: true,
  gguf: { phi: { architecture: "phi2", activations: ANY_GELU, epsilon: "layer_norm_eps" } },
  traits: (config) => ({
    norm: { kind: "layer", eps: config.number("layer_norm_eps", 1e-5), offset: 0, affine: true },
    block: { ...LLAMA_BLOCK, mlpIn: LLAMA_BLOCK.attentionIn, parallel: true },
    qkNorm: config.flag("qk_layernorm", false) ? headLayerNorms("q_layernorm", "k_layernorm") : undefined,
    mlp: "plain",
    names: {
      ...LLAMA_NAMES,
      finalNorm: "final_layernorm",
      o: "self_attn.dense",
      gateUp: ["mlp.fc1"],
      down: "mlp.fc2",
    },
  }),
};
