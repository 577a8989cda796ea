import { PhysariumError } from "../../errors.js";
import type { Architecture } from "../../model/architecture.js";
import type { ModelConfig } from "../../model/config.js";
import type { GgufTraits } from "../../model/gguf.js";
import type { RopeScaling } from "../rope-scaling.js";
import { typedLayers } from "./typed-layers.js";
import type { GgufScalar, GgufValue, ScalarType } from "./types.js";

/**
 * The hyperparameters of a model in llama.cpp's keys: the common ones read off the architecture, the rest from the
 * family's own table. source: ggml-org/ggml docs/gguf.md "LLM", llama.cpp src/llama-arch.cpp
 */
export function familyMetadata(
  architecture: Architecture,
  config: ModelConfig,
  traits: GgufTraits,
  scaling: RopeScaling,
): Map<string, GgufValue> {
  const metadata = new Map<string, GgufValue>();
  const set = (key: string, type: ScalarType, value: GgufScalar): void => {
    metadata.set(`${traits.architecture}.${key}`, { type, value });
  };
  const { norm, headDim, headCount, kvHeadCount, layers } = architecture;
  set("vocab_size", "u32", architecture.vocabSize);
  set("context_length", "u32", architecture.maxPositions);
  set("embedding_length", "u32", architecture.hiddenSize);
  set("block_count", "u32", architecture.layerCount);
  set("feed_forward_length", "u32", architecture.intermediateSize);
  set("attention.head_count", "u32", headCount);
  const attends = layers.map(({ mixer }) => mixer?.kind !== "convolution");
  if (attends.every(Boolean)) set("attention.head_count_kv", "u32", kvHeadCount);
  else {
    // Layers without attention have no keys.
    const values = attends.map((does) => (does ? kvHeadCount : 0));
    metadata.set(`${traits.architecture}.attention.head_count_kv`, { type: "array", of: "i32", values });
  }
  const latent = layers[0].mixer?.kind === "latent" ? layers[0].mixer : undefined;
  set("attention.key_length", "u32", headDim);
  set("attention.value_length", "u32", latent?.valueDim ?? headDim);
  set(norm.kind === "rms" ? "attention.layer_norm_rms_epsilon" : "attention.layer_norm_epsilon", "f32", norm.eps);
  const rope = layers.find((layer) => layer.rope !== undefined)?.rope;
  if (rope !== undefined) {
    set("rope.dimension_count", "u32", 2 * rope.inverseFrequencies.length);
    set("rope.freq_base", "f32", ropeBaseOf(config));
    if (traits.hasSections === true) {
      // Pairs take turns: the first, the second, the third of three.
      const pairs = rope.inverseFrequencies.length;
      const values = [Math.ceil(pairs / 3), Math.ceil((pairs - 1) / 3), Math.floor(pairs / 3), 0];
      metadata.set(`${traits.architecture}.rope.dimension_sections`, { type: "array", of: "i32", values });
    }
  }
  if (scaling.kind === "linear" || scaling.kind === "yarn") {
    set("rope.scaling.type", "string", scaling.kind);
    set("rope.scaling.factor", "f32", scaling.factor);
  }
  if (scaling.kind === "yarn") {
    set("rope.scaling.original_context_length", "u32", scaling.originalContextLength);
    for (const [key, value] of Object.entries(scaling.told ?? {})) set(key, "f32", value);
  }
  const rule = layers.map(({ mixer }) => mixer).find((mixer) => mixer?.kind === "delta rule");
  if (rule?.kind === "delta rule") {
    set("ssm.conv_kernel", "u32", rule.kernelSize);
    set("ssm.state_size", "u32", rule.keyDim);
    set("ssm.group_count", "u32", rule.keyHeadCount);
    set("ssm.time_step_rank", "u32", rule.valueHeadCount);
    set("ssm.inner_size", "u32", rule.valueHeadCount * rule.valueDim);
    const values = layers.map(({ mixer }) => mixer?.kind === "delta rule");
    metadata.set(`${traits.architecture}.attention.recurrent_layers`, { type: "array", of: "bool", values });
  }
  const window = layers.find(({ slidingWindow }) => slidingWindow !== undefined)?.slidingWindow;
  if (window !== undefined && traits.slidingPeriod !== undefined) set("attention.sliding_window", "u32", window);
  if (traits.tellsTypes === true) {
    for (const [key, value] of typedLayers(architecture, config)) metadata.set(`${traits.architecture}.${key}`, value);
  }
  for (const [field, key, type] of traits.fields ?? []) {
    const value = config.raw(field);
    if (typeof value === "number" || typeof value === "boolean") set(key, type, value);
  }
  for (const [key, value] of Object.entries(traits.constants ?? {})) {
    set(key, typeof value === "boolean" ? "bool" : "u32", value);
  }
  return metadata;
}

/** The base of the rope, wherever the configuration has it. */
export function ropeBaseOf(config: ModelConfig): number {
  const parameters = config.record("rope_parameters");
  return Number(parameters?.rope_theta ?? config.number("rope_theta", 10_000));
}

/** Refuse what llama.cpp's graph of the architecture would compute otherwise. Throws `DONOR_ARCHITECTURE`. */
export function refuseForeign(architecture: Architecture, traits: GgufTraits): void {
  const { activation, layers, alibiScale, modelType } = architecture;
  const refuse = (what: string): never => {
    throw new PhysariumError(
      "DONOR_ARCHITECTURE",
      `config.json: model_type "${modelType}" ${what}: llama.cpp's ${traits.architecture} cannot say that`,
      { modelType },
    );
  };
  if (!traits.activations.includes(activation)) refuse(`with hidden_act ${activation}`);
  if (alibiScale !== undefined && traits.architecture === "falcon") refuse("with alibi");
  if (traits.architecture === "falcon" && !architecture.block.parallel) refuse("without parallel_attn");
  if (traits.chunk !== undefined) refuseOtherLlama4(architecture, traits.chunk, refuse);
  else if (layers.some(({ chunk }) => chunk !== undefined)) refuse("with attention_chunk_size");
  for (const { mixer } of layers) {
    if (mixer?.kind !== "delta rule" || mixer.keyDim === mixer.valueDim) continue;
    refuse(`with linear_key_head_dim ${mixer.keyDim} and linear_value_head_dim ${mixer.valueDim}`);
  }
  if (layers.some(({ rope }) => rope?.long !== undefined)) refuse("with a longrope");
  const normalises = layers.find(({ experts }) => experts !== undefined)?.experts?.routing;
  if (normalises !== undefined && traits.normalisesExperts !== undefined) {
    const does = normalises.normalised === true || normalises.kind === "softmax of chosen";
    if (does !== traits.normalisesExperts) refuse(`with norm_topk_prob ${does}`);
  }
  const slides = layers.some(({ slidingWindow }) => slidingWindow !== undefined);
  if (slides && traits.slidingLayerCount !== undefined && layers.length !== traits.slidingLayerCount) {
    refuse(`with sliding windows in ${layers.length} layers`);
  }
  const period = traits.slidingPeriod;
  if (period === undefined) return;
  const isOther = layers.some(
    ({ slidingWindow }, layer) => (slidingWindow === undefined) !== ((layer + 1) % period === 0),
  );
  if (isOther && slides) refuse("with these layer_types");
}

/**
 * What llama.cpp's llama4 has built in: chunks of 8192 in three layers of four, which have a rope and normed heads (but
 * for 128 experts), and queries that grow in the others; a context that never fills one chunk sees none of it.
 */
function refuseOtherLlama4(
  { layers, maxPositions }: Architecture,
  chunk: number,
  refuse: (what: string) => never,
): void {
  const isShort = maxPositions <= chunk;
  const experts = layers.find((layer) => layer.experts !== undefined)?.experts?.count ?? 0;
  if (experts === 0) refuse("without experts");
  for (const [at, layer] of layers.entries()) {
    const turns = (at + 1) % 4 !== 0;
    if ((layer.rope !== undefined) !== turns) refuse("with these no_rope_layers");
    if (turns && (layer.unitHeads === true) !== (experts !== 128))
      refuse(`with use_qk_norm ${layer.unitHeads === true}`);
    if (isShort) continue;
    if (turns && layer.chunk !== chunk) refuse(`with attention_chunk_size ${layer.chunk ?? null}`);
    const { floor, scale } = layer.queryGrowth ?? { floor: 0, scale: 0 };
    if (!turns && (floor !== chunk || scale !== 0.1)) refuse(`with floor_scale ${floor} and attn_scale ${scale}`);
  }
}
