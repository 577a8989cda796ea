import type { Family } from "../architecture.js";
import { FUSED_GATE_UP, FUSED_QKV, LLAMA_NAMES } from "../names.js";

/**
 * Phi-3, 3.5 and 4: Llama with q, k, v fused into one tensor and gate, up into another; long texts turn with
 * frequencies of their own.
 */
export const phi3: Family = {
  modelTypes: ["phi3"],
  reference: "Phi-3, arXiv:2404.14219; modeling_phi3.py of transformers",
  defaults: { phi3: { max_position_embeddings: 4096, rms_norm_eps: 1e-5 } },
  turnsInPart: true,
  traits: () => ({
    qkvLayout: "rows",
    mlp: "gated_rows",
    names: { ...LLAMA_NAMES, qkv: FUSED_QKV, gateUp: FUSED_GATE_UP },
  }),
};
