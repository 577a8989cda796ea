import type { QueryKeyNorm } from "../architecture.js";

/** RMS norms of each head's queries and keys, one weight for all heads: those of Qwen3, Gemma 3 and many others. */
export function headNorms(query: string, key: string, over: QueryKeyNorm["over"] = "head"): QueryKeyNorm {
  return { query: `self_attn.${query}`, key: `self_attn.${key}`, kind: "rms", over, afterRope: false };
}

/** The same as layer norms. */
export function headLayerNorms(query: string, key: string, over: QueryKeyNorm["over"] = "head"): QueryKeyNorm {
  return { ...headNorms(query, key, over), kind: "layer" };
}
