import { PhysariumError } from "../../errors.js";
import { type Architecture, activationOf, type Family, headDimOf, LLAMA_BLOCK, likeLlama } from "../architecture.js";
import { classSizes } from "../class-sizes.js";
import type { ModelConfig } from "../config.js";
import { LLAMA_NAMES } from "../names.js";
import { apertus } from "./apertus.js";
import { arcee } from "./arcee.js";
import { bloom } from "./bloom.js";
import { cohere } from "./cohere.js";
import { deepseek } from "./deepseek.js";
import { ernie } from "./ernie.js";
import { exaone } from "./exaone.js";
import { falcon } from "./falcon.js";
import { gemma } from "./gemma.js";
import { gemma3n } from "./gemma3n.js";
import { gemma4 } from "./gemma4.js";
import { glm } from "./glm.js";
import { gptNeox } from "./gpt-neox.js";
import { gptOss } from "./gpt-oss.js";
import { gpt2 } from "./gpt2.js";
import { granite } from "./granite.js";
import { helium } from "./helium.js";
import { hunyuan } from "./hunyuan.js";
import { lfm2 } from "./lfm2.js";
import { llama } from "./llama.js";
import { llama4 } from "./llama4.js";
import { mixtral } from "./mixtral.js";
import { nemotron } from "./nemotron.js";
import { olmo } from "./olmo.js";
import { opt } from "./opt.js";
import { persimmon } from "./persimmon.js";
import { phi } from "./phi.js";
import { phi3 } from "./phi3.js";
import { qwen } from "./qwen.js";
import { qwenMoe } from "./qwen-moe.js";
import { qwenNext } from "./qwen-next.js";
import { seedOss } from "./seed-oss.js";
import { smollm3 } from "./smollm3.js";
import { stablelm } from "./stablelm.js";
import { starcoder2 } from "./starcoder2.js";

/** All families. */
export const FAMILIES: readonly Family[] = [
  llama,
  smollm3,
  qwen,
  phi3,
  gemma,
  gemma3n,
  gemma4,
  apertus,
  arcee,
  bloom,
  cohere,
  ernie,
  exaone,
  deepseek,
  gptOss,
  lfm2,
  llama4,
  mixtral,
  qwenMoe,
  qwenNext,
  falcon,
  glm,
  gpt2,
  gptNeox,
  granite,
  helium,
  hunyuan,
  nemotron,
  olmo,
  opt,
  persimmon,
  phi,
  seedOss,
  stablelm,
  starcoder2,
];

export const KNOWN_MODEL_TYPES: readonly string[] = FAMILIES.flatMap(({ modelTypes }) => modelTypes);

/**
 * What Llama's class of the reference takes where a configuration leaves a field out. source: `LlamaConfig` of
 * transformers 5.24
 */
const LLAMA_DEFAULTS = { num_attention_heads: 32, max_position_embeddings: 2048, rms_norm_eps: 1e-6 };

/**
 * Make the architecture from `config.json`. Throws `DONOR_ARCHITECTURE` for a model type nobody here implemented,
 * `DONOR_CONFIG` for a broken file.
 */
export function architectureOf(wholeConfig: ModelConfig): Architecture {
  const { family, config } = familyOf(wholeConfig);
  const hiddenSize = config.count("hidden_size");
  const headCount = config.count("num_attention_heads");
  const headDim = headDimOf(config);
  const common: Omit<Architecture, "attentionScale"> = {
    modelType: config.text("model_type"),
    hiddenSize,
    // A family whose layers differ says so itself.
    intermediateSize: Array.isArray(config.raw("intermediate_size"))
      ? hiddenSize
      : config.count("intermediate_size", 4 * hiddenSize),
    layerCount: config.count("num_hidden_layers"),
    headCount,
    kvHeadCount: config.count("num_key_value_heads", headCount),
    headDim,
    vocabSize: config.count("vocab_size"),
    maxPositions: config.count("max_position_embeddings", 2048),
    norm: { kind: "rms", eps: config.number("rms_norm_eps", 1e-6), offset: 0, affine: true },
    block: LLAMA_BLOCK,
    qkNorm: undefined,
    qkvLayout: "separate",
    mlp: "gated",
    activation: activationOf(config.text("hidden_act", "silu")),
    embeddingScale: 1,
    residualScale: 1,
    logitScale: 1,
    attentionSoftcap: undefined,
    logitSoftcap: undefined,
    learnedPositions: undefined,
    alibiScale: undefined,
    attentionSinks: false,
    gatedQueries: false,
    bidirectional: false,
    perLayerInputs: undefined,
    altUp: undefined,
    tiedEmbeddings: config.flag("tie_word_embeddings", false),
    transposed: false,
    names: LLAMA_NAMES,
    layers: [],
    ...family.traits(config),
  };
  const scaled: Architecture = { attentionScale: common.headDim ** -0.5, ...common };
  const architecture = scaled.layers.length > 0 ? scaled : { ...scaled, layers: likeLlama(config, scaled) };
  checkHeads(architecture);
  return architecture;
}

/** The family of a model, and its configuration in the common words, with what the file leaves out. */
export function familyOf(wholeConfig: ModelConfig): { family: Family; config: ModelConfig } {
  const decoder = wholeConfig.decoder;
  const modelType = decoder.text("model_type");
  const family = FAMILIES.find(({ modelTypes }) => modelTypes.includes(modelType));
  if (family === undefined) {
    throw new PhysariumError(
      "DONOR_ARCHITECTURE",
      `config.json: model_type "${modelType}" has no forward pass here; known are ${KNOWN_MODEL_TYPES.join(", ")}`,
      { model_type: modelType },
    );
  }
  for (const [field, values] of Object.entries(family.only ?? {})) {
    const value = decoder.raw(field);
    if (value === undefined || values.includes(value)) continue;
    const known = values.length === 0 ? "it is not implemented" : `only ${values.join(", ")} is implemented`;
    throw new PhysariumError(
      "DONOR_ARCHITECTURE",
      `config.json: ${field} is ${JSON.stringify(value)}; ${known} for model_type "${modelType}", and anything ` +
        "else changes what the model computes",
      { field, value },
    );
  }
  const renamed = Object.entries(family.aliases ?? {}).flatMap(([theirs, ours]) => {
    const value = decoder.raw(theirs);
    return value === undefined ? [] : [[ours, value] as const];
  });
  const defaults = { ...LLAMA_DEFAULTS, ...classSizes(modelType), ...family.defaults?.[modelType] };
  // A rope that the file describes is described whole: nothing of the class's own is mixed in.
  const saysRope = decoder.record("rope_parameters") !== undefined || decoder.record("rope_scaling") !== undefined;
  const own = saysRope ? { rope_parameters: undefined, rope_scaling: undefined } : {};
  const config = decoder.with(Object.fromEntries(renamed)).over({ ...defaults, ...own });
  const turning = family.turnsInPart ? config : turningWhole(config);
  return { family, config: WINDOWED.has(modelType) ? turning : turning.with({ sliding_window: undefined }) };
}

/**
 * Model types whose class of the reference reads `sliding_window`; a Llama whose file names one (it was a Mistral once)
 * looks back to its first token all the same. source: `modeling_*.py` of transformers 5.24
 */
const WINDOWED: ReadonlySet<string> = new Set([
  ...["mistral", "ministral", "ministral3", "smollm3", "qwen2", "qwen3", "phi3", "gemma2", "gemma3_text"],
  ...["gemma3n_text", "gemma4_text", "cohere2", "exaone4", "gpt_oss", "mixtral", "phimoe", "qwen2_moe", "qwen3_moe"],
  ...["olmo3", "starcoder2"],
]);

function turningWhole(config: ModelConfig): ModelConfig {
  const rope = config.record("rope_parameters");
  const parameters = rope === undefined ? {} : { rope_parameters: { ...rope, partial_rotary_factor: 1 } };
  return config.with({ partial_rotary_factor: 1, ...parameters });
}

function checkHeads({ headCount, kvHeadCount, headDim }: Architecture): void {
  if (!Number.isInteger(headDim)) {
    throw new PhysariumError(
      "DONOR_CONFIG",
      `config.json: ${headCount} attention heads give ${headDim} channels a head`,
    );
  }
  if (headCount % kvHeadCount !== 0) {
    throw new PhysariumError(
      "DONOR_CONFIG",
      `config.json: ${headCount} attention heads cannot share ${kvHeadCount} key-value heads evenly`,
    );
  }
}
