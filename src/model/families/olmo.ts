import {
  configuredRope,
  type Family,
  headDimOf,
  type LayerTraits,
  LLAMA_BLOCK,
  slidingLayers,
} from "../architecture.js";
import type { ModelConfig } from "../config.js";
import { SILU } from "../gguf.js";
import { headNorms } from "./head-norms.js";

/**
 * OLMo 1 (layer norms without weights), 2 (norms behind attention and MLP, and over all of q and of k), 3 (three
 * sliding layers of four besides).
 */
export const olmo: Family = {
  modelTypes: ["olmo", "olmo2", "olmo3"],
  reference: "OLMo, arXiv:2402.00838; OLMo 2, arXiv:2501.00656; modeling_olmo*.py of transformers",
  defaults: {
    olmo2: { rms_norm_eps: 1e-5 },
    olmo3: { rms_norm_eps: 1e-5, rope_theta: 500_000, sliding_window: 4096 },
  },
  only: { clip_qkv: [] },
  gguf: {
    olmo: { architecture: "olmo", activations: SILU, turnsPairs: true },
    olmo2: { architecture: "olmo2", activations: SILU },
    olmo3: { architecture: "olmo2", activations: SILU, slidingPeriod: 4 },
  },
  traits(config) {
    const modelType = config.text("model_type");
    if (modelType === "olmo") return { norm: { kind: "layer", eps: 1e-5, offset: 0, affine: false } };
    return {
      block: {
        ...LLAMA_BLOCK,
        attentionIn: undefined,
        attentionOut: "post_attention_layernorm",
        mlpIn: undefined,
        mlpOut: "post_feedforward_layernorm",
      },
      qkNorm: headNorms("q_norm", "k_norm", "width"),
      ...(modelType === "olmo3" ? { layers: layersOf(config) } : {}),
    };
  },
};

/** Only layers that see everything have a stretched rope. */
function layersOf(config: ModelConfig): LayerTraits[] {
  const headDim = headDimOf(config);
  const maxPositions = config.count("max_position_embeddings");
  const common = config.record("rope_parameters");
  const ofType = (type: string): ModelConfig => {
    const own = common?.[type];
    return own === undefined ? config : config.with({ rope_parameters: own, rope_scaling: undefined });
  };
  const full = configuredRope(ofType("full_attention"), headDim, maxPositions);
  const plain = common?.sliding_attention === undefined ? config.with({ rope_scaling: undefined }) : config;
  const theta = common?.rope_theta === undefined ? {} : { rope_theta: common.rope_theta };
  const local =
    common?.sliding_attention === undefined
      ? configuredRope(plain.with({ ...theta, rope_parameters: undefined }), headDim, maxPositions)
      : configuredRope(ofType("sliding_attention"), headDim, maxPositions);
  const slidingWindow = config.number("sliding_window");
  const slides = slidingLayers(config, config.count("num_hidden_layers"), (layer) => (layer + 1) % 4 !== 0);
  return slides.map((slide) => ({ rope: slide ? local : full, slidingWindow: slide ? slidingWindow : undefined }));
}
