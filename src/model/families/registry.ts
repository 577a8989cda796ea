import { PhysariumError } from "../../errors.js";
import { type Architecture, activationOf, type Family, likeLlama } from "../architecture.js";
import type { ModelConfig } from "../config.js";
import { gemma } from "./gemma.js";
import { llama } from "./llama.js";
import { phi3 } from "./phi3.js";
import { qwen } from "./qwen.js";

const FAMILIES: readonly Family[] = [llama, qwen, phi3, gemma];

export const KNOWN_MODEL_TYPES: readonly string[] = FAMILIES.flatMap(({ modelTypes }) => modelTypes);

/** Make the architecture from `config.json`. Throws `DONOR_ARCHITECTURE` for a model type nobody here implemented, `DONOR_CONFIG` for a broken file. */
export function architectureOf(wholeConfig: ModelConfig): Architecture {
  const config = wholeConfig.decoder;
  const modelType = config.text("model_type");
  const family = FAMILIES.find(({ modelTypes }) => modelTypes.includes(modelType));
  if (family === undefined) {
    throw new PhysariumError(
      "DONOR_ARCHITECTURE",
      `config.json: model_type "${modelType}" has no forward pass here; known are ${KNOWN_MODEL_TYPES.join(", ")}`,
      { model_type: modelType },
    );
  }
  const hiddenSize = config.count("hidden_size");
  const headCount = config.count("num_attention_heads");
  const headDim = config.count("head_dim", hiddenSize / headCount);
  const common: Architecture = {
    modelType,
    hiddenSize,
    intermediateSize: config.count("intermediate_size"),
    layerCount: config.count("num_hidden_layers"),
    headCount,
    kvHeadCount: config.count("num_key_value_heads", headCount),
    headDim,
    vocabSize: config.count("vocab_size"),
    maxPositions: config.count("max_position_embeddings", 2048),
    normEps: config.number("rms_norm_eps", 1e-6),
    normOffset: 0,
    activation: activationOf(config.text("hidden_act", "silu")),
    embeddingScale: 1,
    attentionScale: headDim ** -0.5,
    attentionSoftcap: undefined,
    logitSoftcap: undefined,
    tiedEmbeddings: config.flag("tie_word_embeddings", false),
    fused: false,
    sandwichNorms: false,
    layers: [],
    ...family.traits(config),
  };
  const architecture = common.layers.length > 0 ? common : { ...common, layers: likeLlama(config, common) };
  if (architecture.headCount % architecture.kvHeadCount !== 0) {
    throw new PhysariumError(
      "DONOR_CONFIG",
      `config.json: ${architecture.headCount} attention heads cannot share ${architecture.kvHeadCount} key-value heads evenly`,
    );
  }
  return architecture;
}
