import { MODEL_TYPES, type ModelConfig, type ModelType } from "../model-config.js";
import { type Link, link, pairedHeads } from "./links.js";
import type { GgufScalar, GgufValue, ScalarType } from "./types.js";

/** One tensor of a decoder under its two names. Shapes are in safetensors order. */
export interface TensorPair {
  readonly name: string;
  readonly ggufName: string;
  readonly shape: readonly number[];
  /** Absent in some models of the family (biases), or where another tensor stands in for it. */
  readonly optional: boolean;
  /** Rows of this many heads are reordered between the two layouts; 0: they are not. See `permuteRows`. */
  readonly permutedHeads: number;
  /** Gemma's norms multiply by 1 + weight; a GGUF file holds that sum. */
  readonly plusOne: boolean;
}

/** `general.architecture` for each family; Mistral and SmolLM are llama to llama.cpp too. */
const ARCHITECTURE: Readonly<Record<ModelType, string>> = {
  llama: "llama",
  mistral: "llama",
  smollm3: "smollm3",
  qwen2: "qwen2",
  qwen3: "qwen3",
  phi3: "phi3",
  gemma: "gemma",
  gemma2: "gemma2",
  gemma3_text: "gemma3",
};

export function architectureOf(modelType: ModelType): string {
  return ARCHITECTURE[modelType];
}

/** The family of a GGUF file; a Mistral comes back as a llama, which computes the same. */
export function modelTypeOf(architecture: string): ModelType | undefined {
  return MODEL_TYPES.find((modelType) => ARCHITECTURE[modelType] === architecture);
}

/**
 * All tensors that a decoder of this configuration has, in the order a GGUF file holds them.
 * source: llama.cpp gguf-py/gguf/tensor_mapping.py (names), convert_hf_to_gguf.py `LlamaModel.permute`
 */
export function layoutTensors(config: ModelConfig): TensorPair[] {
  const { hiddenSize, intermediateSize, headCount, kvHeadCount, headLength, vocabSize } = config;
  const queryRows = headCount * headLength;
  const keyRows = kvHeadCount * headLength;
  const rotatesPairs = ["llama", "smollm3"].includes(architectureOf(config.modelType));
  const isGemma = config.modelType.startsWith("gemma");
  const hasSandwichNorms = config.modelType === "gemma2" || config.modelType === "gemma3_text";
  const pairs: TensorPair[] = [];
  const add = (name: string, ggufName: string, shape: readonly number[], optional = false, heads = 0): void => {
    const plusOne = isGemma && name.endsWith("norm.weight");
    pairs.push({ name, ggufName, shape, optional, permutedHeads: rotatesPairs ? heads : 0, plusOne });
  };

  add("model.embed_tokens.weight", "token_embd.weight", [vocabSize, hiddenSize]);
  for (let layer = 0; layer < config.layerCount; layer++) {
    const from = `model.layers.${layer}`;
    const to = `blk.${layer}`;
    const matrix = (name: string, ggufName: string, rows: number, cols: number, heads = 0): void => {
      add(`${from}.${name}.weight`, `${to}.${ggufName}.weight`, [rows, cols], false, heads);
      add(`${from}.${name}.bias`, `${to}.${ggufName}.bias`, [rows], true, heads);
    };
    add(`${from}.input_layernorm.weight`, `${to}.attn_norm.weight`, [hiddenSize]);
    if (config.modelType === "phi3") {
      matrix("self_attn.qkv_proj", "attn_qkv", queryRows + 2 * keyRows, hiddenSize);
    } else {
      matrix("self_attn.q_proj", "attn_q", queryRows, hiddenSize, headCount);
      matrix("self_attn.k_proj", "attn_k", keyRows, hiddenSize, kvHeadCount);
      matrix("self_attn.v_proj", "attn_v", keyRows, hiddenSize);
    }
    if (config.modelType === "qwen3" || config.modelType === "gemma3_text") {
      add(`${from}.self_attn.q_norm.weight`, `${to}.attn_q_norm.weight`, [headLength]);
      add(`${from}.self_attn.k_norm.weight`, `${to}.attn_k_norm.weight`, [headLength]);
    }
    matrix("self_attn.o_proj", "attn_output", hiddenSize, queryRows);
    if (hasSandwichNorms) {
      add(`${from}.post_attention_layernorm.weight`, `${to}.post_attention_norm.weight`, [hiddenSize]);
      add(`${from}.pre_feedforward_layernorm.weight`, `${to}.ffn_norm.weight`, [hiddenSize]);
    } else {
      add(`${from}.post_attention_layernorm.weight`, `${to}.ffn_norm.weight`, [hiddenSize]);
    }
    if (config.modelType === "phi3") {
      matrix("mlp.gate_up_proj", "ffn_up", 2 * intermediateSize, hiddenSize);
    } else {
      matrix("mlp.gate_proj", "ffn_gate", intermediateSize, hiddenSize);
      matrix("mlp.up_proj", "ffn_up", intermediateSize, hiddenSize);
    }
    matrix("mlp.down_proj", "ffn_down", hiddenSize, intermediateSize);
    if (hasSandwichNorms) {
      add(`${from}.post_feedforward_layernorm.weight`, `${to}.post_ffw_norm.weight`, [hiddenSize]);
    }
  }
  add("model.norm.weight", "output_norm.weight", [hiddenSize]);
  // A tied head is not stored: engines take the embedding where output.weight is absent.
  add("lm_head.weight", "output.weight", [vocabSize, hiddenSize], config.tiedEmbeddings);
  return pairs;
}

/** The same as links, behind a wrapper's prefix. */
export function classicLinks(config: ModelConfig, prefix: string, head: string): Link[] {
  return layoutTensors(config).map(({ name, ggufName, shape, optional, permutedHeads, plusOne }) =>
    link({
      name: name === "lm_head.weight" ? `${head}.weight` : `${prefix}${name.replace(/^model\./, "")}`,
      ggufName,
      shape,
      optional,
      values: plusOne ? "plus one" : "same",
      ...(permutedHeads > 0 ? pairedHeads(permutedHeads, config.headLength) : {}),
    }),
  );
}

/** The hyperparameters in llama.cpp's keys. source: ggml-org/ggml docs/gguf.md "LLM" */
export function describeModel(config: ModelConfig): Map<string, GgufValue> {
  const architecture = architectureOf(config.modelType);
  const metadata = new Map<string, GgufValue>();
  const set = (key: string, type: ScalarType, value: GgufScalar): void => {
    metadata.set(`${architecture}.${key}`, { type, value });
  };
  set("vocab_size", "u32", config.vocabSize);
  set("context_length", "u32", config.contextLength);
  set("embedding_length", "u32", config.hiddenSize);
  set("block_count", "u32", config.layerCount);
  set("feed_forward_length", "u32", config.intermediateSize);
  set("attention.head_count", "u32", config.headCount);
  set("attention.head_count_kv", "u32", config.kvHeadCount);
  set("attention.key_length", "u32", config.headLength);
  set("attention.value_length", "u32", config.headLength);
  set("attention.layer_norm_rms_epsilon", "f32", config.rmsNormEps);
  set("rope.dimension_count", "u32", config.ropeLength);
  set("rope.freq_base", "f32", config.ropeTheta);
  if (config.modelType === "phi3") {
    // llama.cpp reads both for this family; 0 means no window.
    const { ropeScaling } = config;
    const isLong = ropeScaling.kind === "longrope";
    const original = isLong ? ropeScaling.originalContextLength : config.contextLength;
    set("rope.scaling.original_context_length", "u32", original);
    if (isLong) set("rope.scaling.attn_factor", "f32", ropeScaling.attentionFactor);
    set("attention.sliding_window", "u32", config.slidingWindow ?? 0);
  }
  if (config.modelType === "gemma2" || config.modelType === "gemma3_text") {
    set("attention.sliding_window", "u32", config.slidingWindow ?? config.contextLength);
  }
  if (config.attentionSoftcap !== undefined) set("attn_logit_softcapping", "f32", config.attentionSoftcap);
  if (config.logitSoftcap !== undefined) set("final_logit_softcapping", "f32", config.logitSoftcap);
  const scaling = config.ropeScaling;
  if (scaling.kind === "linear" || scaling.kind === "yarn") {
    set("rope.scaling.type", "string", scaling.kind);
    set("rope.scaling.factor", "f32", scaling.factor);
  }
  if (scaling.kind === "yarn") set("rope.scaling.original_context_length", "u32", scaling.originalContextLength);
  return metadata;
}

/**
 * Reorder the rows of a query or key projection between the two rotary conventions.
 *
 * Hugging Face rotates channel i with channel i + n/2 of a head of n; llama.cpp's llama architecture rotates 2i with 2i
 * + 1. So row `i` of each half moves to `2i` and `2i + 1` (`toGguf`), or back.
 *
 * source  (heads · n, cols) rows of `rowBytes`, whole heads only
 * returns the same bytes in the other order
 */
export function permuteRows(source: Uint8Array, rowBytes: number, headLength: number, toGguf: boolean): Uint8Array {
  const out = new Uint8Array(source.byteLength);
  const half = headLength / 2;
  const rows = source.byteLength / rowBytes;
  for (let row = 0; row < rows; row++) {
    const inHead = row % headLength;
    const interleaved = row - inHead + 2 * (inHead % half) + Math.floor(inHead / half);
    const [from, to] = toGguf ? [row, interleaved] : [interleaved, row];
    out.set(source.subarray(from * rowBytes, (from + 1) * rowBytes), to * rowBytes);
  }
  return out;
}
