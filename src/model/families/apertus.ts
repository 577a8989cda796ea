import { configuredRope, type Family, headDimOf, LLAMA_BLOCK, slidingLayers } from "../architecture.js";
import { LLAMA_NAMES, PLAIN_UP } from "../names.js";
import { headNorms } from "./head-norms.js";

/** Llama 3's scaling, which the class takes where the file says nothing. */
const ROPE = {
  rope_type: "llama3",
  rope_theta: 12_000_000,
  factor: 8,
  original_max_position_embeddings: 8192,
  low_freq_factor: 1,
  high_freq_factor: 4,
};

/** The learned numbers of the activation, and its two fixed ones. */
const ACTIVATION = {
  alphaPositive: "mlp.act_fn.alpha_p",
  alphaNegative: "mlp.act_fn.alpha_n",
  beta: "mlp.act_fn.beta",
  eps: "mlp.act_fn.eps",
};

/** Apertus: norms on q and k, an MLP without a gate whose activation, xIELU, has two learned numbers a layer. */
export const apertus: Family = {
  modelTypes: ["apertus"],
  reference: "Apertus, arXiv:2509.14233; xIELU, arXiv:2411.13010; modeling_apertus.py of transformers",
  defaults: {
    apertus: {
      max_position_embeddings: 65536,
      rms_norm_eps: 1e-5,
      hidden_act: "xielu",
      rope_theta: 12_000_000,
      rope_parameters: ROPE,
    },
  },
  gguf: {
    apertus: {
      architecture: "apertus",
      activations: ["xielu"],
      config: { hidden_act: "xielu" },
      layerNumbers: {
        "xielu.alpha_p": { path: ACTIVATION.alphaPositive, shape: [1] },
        "xielu.alpha_n": { path: ACTIVATION.alphaNegative, shape: [1] },
        "xielu.beta": { path: ACTIVATION.beta, shape: [], usual: 0.5 },
        "xielu.eps": { path: ACTIVATION.eps, shape: [], usual: -1e-6 },
      },
    },
  },
  only: { hidden_act: ["xielu"], post_norm: [false], qk_norm: [true] },
  traits(config) {
    const rope = configuredRope(config, headDimOf(config), config.count("max_position_embeddings"));
    return {
      block: { ...LLAMA_BLOCK, attentionIn: "attention_layernorm", mlpIn: "feedforward_layernorm" },
      qkNorm: headNorms("q_norm", "k_norm"),
      mlp: "plain",
      names: {
        ...LLAMA_NAMES,
        gateUp: PLAIN_UP,
        extra: ACTIVATION,
      },
      layers: slidingLayers(config, config.count("num_hidden_layers"), () => false).map(() => ({
        rope,
        slidingWindow: undefined,
      })),
    };
  },
};
