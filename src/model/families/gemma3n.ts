import { configuredRope, type Family, type LayerTraits } from "../architecture.js";
import type { ModelConfig } from "../config.js";
import { LLAMA_NAMES } from "../names.js";
import { PER_LAYER, sandwiched, sharedKeys } from "./gemma4.js";

/**
 * Gemma 3n's text model: several copies of the residual stream, a detour of low rank beside attention, first layers
 * whose gates are mostly cut off, last layers that take the keys and values of earlier ones, and something that every
 * layer is told of each token.
 */
export const gemma3n: Family = {
  modelTypes: ["gemma3n_text"],
  reference: "Gemma 3n (2025); modeling_gemma3n.py of transformers 5.24",
  defaults: {
    gemma3n_text: {
      vocab_size: 262_400,
      hidden_size: 2048,
      intermediate_size: 16_384,
      num_hidden_layers: 35,
      num_attention_heads: 8,
      num_key_value_heads: 2,
      head_dim: 256,
      max_position_embeddings: 32_768,
      sliding_window: 512,
      final_logit_softcapping: 30,
      vocab_size_per_layer_input: 262_144,
      hidden_size_per_layer_input: 256,
      altup_num_inputs: 4,
      num_kv_shared_layers: 15,
      laurel_rank: 64,
      tie_word_embeddings: true,
    },
  },
  noGguf: {
    gemma3n_text:
      "llama.cpp's gemma3n has four copies of the stream, 256 channels a layer, and 20 layers with keys of their own " +
      "built in: nothing smaller runs there to be compared, and so it is not written",
  },
  only: { altup_active_idx: [0] },
  traits(config) {
    const sizes = mlpSizes(config);
    return {
      intermediateSize: Math.max(...sizes),
      ...sandwiched(config),
      perLayerInputs: {
        width: config.count("hidden_size_per_layer_input"),
        vocabSize: config.count("vocab_size_per_layer_input"),
      },
      altUp: {
        copies: config.count("altup_num_inputs"),
        laurelRank: config.count("laurel_rank"),
        scalesCorrected: config.flag("altup_correct_scale", true),
      },
      names: {
        ...LLAMA_NAMES,
        perLayer: PER_LAYER,
        altUp: {
          layer: "altup",
          laurel: "laurel",
          enter: "altup_projections",
          leave: "altup_unembed_projections",
        },
      },
      layers: layersOf(config, sizes),
    };
  },
};

/** Neurons of each layer's MLP. */
function mlpSizes(config: ModelConfig): number[] {
  const given = config.raw("intermediate_size");
  const layerCount = config.count("num_hidden_layers");
  return Array.from({ length: layerCount }, (_, layer) =>
    config.with({ intermediate_size: Array.isArray(given) ? given[layer] : given }).count("intermediate_size"),
  );
}

function layersOf(config: ModelConfig, sizes: readonly number[]): LayerTraits[] {
  const positions = config.count("max_position_embeddings");
  const headDim = config.count("head_dim");
  const listed = config.raw("layer_types");
  const types = sizes.map((_, layer): string =>
    (Array.isArray(listed) ? listed[layer] === "full_attention" : (layer + 1) % 5 === 0)
      ? "full_attention"
      : "sliding_attention",
  );
  const perType = config.record("rope_parameters");
  const ropeOf = (parameters: unknown) =>
    configuredRope(config.with({ rope_parameters: parameters, rope_scaling: undefined }), headDim, positions);
  const full = ropeOf(perType?.full_attention ?? { rope_theta: config.number("rope_theta", 1_000_000) });
  const sliding = ropeOf(perType?.sliding_attention ?? { rope_theta: config.number("rope_local_base_freq", 10_000) });
  const firstShared = sizes.length - config.number("num_kv_shared_layers", 0);
  const most = Math.max(...sizes);
  return types.map((type, layer): LayerTraits => {
    const cutoff = cutoffOf(config, layer, sizes.length);
    return {
      rope: type === "full_attention" ? full : sliding,
      slidingWindow: type === "full_attention" ? undefined : config.count("sliding_window"),
      unitValues: true,
      ...(sizes[layer] === most ? {} : { sizes: { intermediateSize: sizes[layer] } }),
      ...sharedKeys(types, layer, firstShared),
      ...(cutoff === undefined ? {} : { gateCutoff: cutoff }),
    };
  });
}

/** Deviations over the mean that a share of normally distributed gates stays under; by default in the first ten. */
function cutoffOf(config: ModelConfig, layer: number, layerCount: number): number | undefined {
  const pattern = config.raw("activation_sparsity_pattern");
  const usual = layerCount > 10 && layer < 10 ? 0.95 : 0;
  const share = Array.isArray(pattern) ? Number(pattern[layer]) : typeof pattern === "number" ? pattern : usual;
  return share > 0 && share < 1 ? normalQuantile(share) : undefined;
}

/** x with Φ(x) = share, by bisection on Φ(x) = ½ + φ(x) Σ x^(2n+1) / (1·3·5…(2n+1)). */
function normalQuantile(share: number): number {
  const below = (x: number): number => {
    let term = x;
    let sum = x;
    for (let odd = 3; odd < 400; odd += 2) {
      term *= (x * x) / odd;
      sum += term;
    }
    return 0.5 + (sum * Math.exp((-x * x) / 2)) / Math.sqrt(2 * Math.PI);
  };
  let [low, high] = [-8, 8];
  for (let step = 0; step < 60; step++) {
    const middle = (low + high) / 2;
    if (below(middle) < share) low = middle;
    else high = middle;
  }
  return (low + high) / 2;
}
