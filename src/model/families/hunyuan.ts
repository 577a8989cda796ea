import type { Family } from "../architecture.js";
import { SILU } from "../gguf.js";
import { headNorms } from "./head-norms.js";

/** Tencent's Hunyuan, dense: Llama with norms on q and k behind the rope, whose base is stretched by a fixed alpha. */
export const hunyuan: Family = {
  modelTypes: ["hunyuan_v1_dense"],
  reference: "Hunyuan-Large, arXiv:2411.02265; modeling_hunyuan_v1_dense.py of transformers",
  defaults: { hunyuan_v1_dense: { rms_norm_eps: 1e-5 } },
  only: { use_qk_norm: [true], use_cla: [false] },
  gguf: { hunyuan_v1_dense: { architecture: "hunyuan-dense", activations: SILU } },
  traits: () => ({ qkNorm: { ...headNorms("query_layernorm", "key_layernorm"), afterRope: true } }),
};
