import type { Family } from "../architecture.js";
import { GRANITE_GGUF } from "../gguf.js";

/**
 * IBM's Granite 3 and 4, dense: Llama with multipliers for embeddings, attention scores, what is added to the residual
 * stream, and logits.
 */
export const granite: Family = {
  modelTypes: ["granite"],
  reference: "Granite 3.0; Power scheduler, arXiv:2408.13359; modeling_granite.py of transformers",
  gguf: { granite: { architecture: "granite", ...GRANITE_GGUF } },
  traits: (config) => ({
    embeddingScale: config.number("embedding_multiplier", 1),
    attentionScale: config.number("attention_multiplier", 1),
    residualScale: config.number("residual_multiplier", 1),
    logitScale: 1 / config.number("logits_scaling", 1),
  }),
};
