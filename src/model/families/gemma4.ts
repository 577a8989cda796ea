import {
  type Architecture,
  activationOf,
  configuredRope,
  type Family,
  type LayerTraits,
  LLAMA_BLOCK,
} from "../architecture.js";
import type { ModelConfig } from "../config.js";
import { LLAMA_NAMES } from "../names.js";
import { headNorms } from "./head-norms.js";

/**
 * Gemma 4's text model, dense: sandwich norms without an offset, queries, keys and values normed head by head, layers
 * of full attention with longer heads whose rope turns a part of them, last layers that take the keys and values of
 * earlier ones, and something that every layer is told of each token.
 */
export const gemma4: Family = {
  modelTypes: ["gemma4_text"],
  reference: "Gemma 4 (2026); modeling_gemma4.py of transformers 5.24",
  defaults: {
    gemma4_text: {
      vocab_size: 262_144,
      hidden_size: 2304,
      intermediate_size: 9216,
      num_hidden_layers: 30,
      num_attention_heads: 8,
      num_key_value_heads: 4,
      head_dim: 256,
      max_position_embeddings: 131_072,
      sliding_window: 512,
      global_head_dim: 512,
      vocab_size_per_layer_input: 262_144,
      hidden_size_per_layer_input: 256,
      tie_word_embeddings: true,
    },
  },
  gguf: { gemma4_text: { architecture: "gemma4", activations: ["gelu_tanh"], tellsTypes: true } },
  only: { enable_moe_block: [false], use_bidirectional_attention: [false, "vision"] },
  turnsInPart: true,
  traits(config) {
    const width = config.number("hidden_size_per_layer_input", 0);
    return {
      ...sandwiched(config),
      perLayerInputs: width === 0 ? undefined : { width, vocabSize: config.count("vocab_size_per_layer_input") },
      names: {
        ...LLAMA_NAMES,
        ...(width === 0 ? {} : { perLayer: PER_LAYER }),
        layerScalar: "layer_scalar",
      },
      layers: layersOf(config),
    };
  },
};

/** What Gemma 3n and 4 have in common: sandwich norms, normed queries and keys that need no scale. */
export function sandwiched(config: ModelConfig): Partial<Architecture> {
  return {
    block: {
      ...LLAMA_BLOCK,
      attentionOut: "post_attention_layernorm",
      mlpIn: "pre_feedforward_layernorm",
      mlpOut: "post_feedforward_layernorm",
    },
    qkNorm: headNorms("q_norm", "k_norm"),
    activation: activationOf(config.text("hidden_activation", "gelu_pytorch_tanh")),
    embeddingScale: Math.sqrt(config.count("hidden_size")),
    attentionScale: 1,
    logitSoftcap: config.optionalNumber("final_logit_softcapping"),
  };
}

/** Gemma's names of what every layer is told of a token. */
export const PER_LAYER = {
  table: "embed_tokens_per_layer",
  projection: "per_layer_model_projection",
  norm: "per_layer_projection_norm",
  gate: "per_layer_input_gate",
  out: "per_layer_projection",
  outNorm: "post_per_layer_input_norm",
};

/** What the class takes for its two types of layers where config.json says nothing of their ropes. */
export const GEMMA4_ROPES = {
  full_attention: { rope_type: "proportional", partial_rotary_factor: 0.25, rope_theta: 1_000_000 },
  sliding_attention: { rope_type: "default", rope_theta: 10_000 },
};

function layersOf(config: ModelConfig): LayerTraits[] {
  const layerCount = config.count("num_hidden_layers");
  const positions = config.count("max_position_embeddings");
  const listed = config.raw("layer_types");
  const types = Array.from({ length: layerCount }, (_, layer): string =>
    // Whatever is listed, the last layer sees everything.
    layer === layerCount - 1 ||
    (Array.isArray(listed) ? listed[layer] : (layer + 1) % 6 === 0 && "full_attention") === "full_attention"
      ? "full_attention"
      : "sliding_attention",
  );
  const perType = config.record("rope_parameters");
  const headDims = { full: fullSize(config, "head_dim", "global_head_dim"), sliding: config.count("head_dim") };
  const valuesAreKeys = config.flag("attention_k_eq_v", false);
  const heads = config.count("num_key_value_heads");
  const fullHeads = valuesAreKeys ? fullSize(config, "num_key_value_heads", "num_global_key_value_heads") : heads;
  const ropeOf = (parameters: unknown, headDim: number) => {
    const part = (parameters as { partial_rotary_factor?: number }).partial_rotary_factor;
    const isProportional = (parameters as { rope_type?: string }).rope_type === "proportional";
    // The proportional rope has its part inside.
    const outer = { rope_parameters: { ...(parameters as object), partial_rotary_factor: isProportional ? 1 : part } };
    return configuredRope(config.with({ ...outer, rope_scaling: parameters }), headDim, positions);
  };
  const full = ropeOf(perType?.full_attention ?? GEMMA4_ROPES.full_attention, headDims.full);
  const sliding = ropeOf(perType?.sliding_attention ?? GEMMA4_ROPES.sliding_attention, headDims.sliding);
  const firstShared = layerCount - config.number("num_kv_shared_layers", 0);
  const wide = config.flag("use_double_wide_mlp", false) ? 2 * config.count("intermediate_size") : undefined;
  return types.map((type, layer): LayerTraits => {
    const isFull = type === "full_attention";
    const keys = sharedKeys(types, layer, firstShared);
    const sizes = {
      ...(isFull && headDims.full !== headDims.sliding ? { headDim: headDims.full } : {}),
      ...(isFull && fullHeads !== heads ? { kvHeadCount: fullHeads } : {}),
      ...(layer >= firstShared && wide !== undefined ? { intermediateSize: wide } : {}),
    };
    return {
      rope: isFull ? full : sliding,
      slidingWindow: isFull ? undefined : config.count("sliding_window"),
      unitValues: true,
      ...(isFull && valuesAreKeys ? { valuesAreKeys } : {}),
      ...(Object.keys(sizes).length === 0 ? {} : { sizes }),
      ...keys,
    };
  });
}

/**
 * From layer `firstShared` on keys and values are those of the last layer of the same type before it, which keeps them.
 */
export function sharedKeys(
  types: readonly string[],
  layer: number,
  firstShared: number,
): Pick<LayerTraits, "takesKeys" | "keepsKeys"> {
  const type = types[layer];
  if (layer >= firstShared) return { takesKeys: type };
  const isLast = firstShared < types.length && types.lastIndexOf(type, firstShared - 1) === layer;
  return isLast ? { keepsKeys: type } : {};
}

/** A size in layers of full attention: as `per_layer_config` says, or a field of its own, or as everywhere. */
function fullSize(config: ModelConfig, usual: string, global: string): number {
  const perLayer = config.record("per_layer_config");
  if (perLayer === undefined) return config.count(global, config.count(usual));
  const sizes = new Set(
    Object.values(perLayer).flatMap((layer) => {
      const size = typeof layer === "object" && layer !== null ? (layer as Record<string, unknown>)[usual] : undefined;
      return typeof size === "number" ? [size] : [];
    }),
  );
  const [size = config.count(usual)] = sizes;
  return size;
}
