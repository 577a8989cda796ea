import type { Family } from "../architecture.js";
import { LLAMA_NAMES, PLAIN_UP } from "../names.js";

/** Arcee's AFM: Llama with an MLP without a gate, squared ReLU. */
export const arcee: Family = {
  modelTypes: ["arcee"],
  reference: "modeling_arcee.py of transformers",
  defaults: { arcee: { max_position_embeddings: 4096, rms_norm_eps: 1e-5, hidden_act: "relu2" } },
  gguf: { arcee: { architecture: "arcee", activations: ["relu2"], turnsPairs: true } },
  traits: () => ({ mlp: "plain", names: { ...LLAMA_NAMES, gateUp: PLAIN_UP } }),
};
