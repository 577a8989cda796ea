import type { Family } from "../architecture.js";

/** Phi-3, 3.5 and 4: Llama with q, k, v fused into one tensor and gate, up into another. Its long-context rope ("longrope") is refused by name. */
export const phi3: Family = {
  modelTypes: ["phi3"],
  reference: "Phi-3, arXiv:2404.14219; modeling_phi3.py of transformers",
  traits: () => ({ fused: true }),
};
