import type { Family } from "../architecture.js";
import { LLAMA_NAMES, PLAIN_UP } from "../names.js";

/**
 * Nemotron 4 and Minitron: layer norms that multiply by 1 + weight, half of each head turns, squared ReLU without a
 * gate.
 */
export const nemotron: Family = {
  modelTypes: ["nemotron"],
  reference: "Nemotron-4 15B, arXiv:2402.16819; modeling_nemotron.py of transformers",
  defaults: {
    nemotron: {
      num_attention_heads: 48,
      max_position_embeddings: 4096,
      hidden_act: "relu2",
      partial_rotary_factor: 0.5,
    },
  },
  turnsInPart: true,
  gguf: { nemotron: { architecture: "nemotron", activations: ["relu2"], epsilon: "norm_eps" } },
  traits: (config) => ({
    norm: { kind: "layer", eps: config.number("norm_eps", 1e-5), offset: 1, affine: true },
    mlp: "plain",
    names: { ...LLAMA_NAMES, gateUp: PLAIN_UP },
  }),
};
