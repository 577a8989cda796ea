import { PhysariumError } from "../../errors.js";
import { MODEL_TYPES } from "../model-config.js";
import { longRopeAttention } from "../rope-scaling.js";
import { architectureOf, modelTypeOf } from "./layout.js";
import type { GgufFile } from "./reader.js";
import { type FileRopeFactors, llama3ScalingOf } from "./rope-factors.js";
import type { GgufValue } from "./types.js";

/** What `general.architecture` may say. */
const KNOWN = [...new Set(MODEL_TYPES.map(architectureOf))].join(", ");

const ARCHITECTURES: Readonly<Record<string, string>> = {
  llama: "LlamaForCausalLM",
  qwen2: "Qwen2ForCausalLM",
  qwen3: "Qwen3ForCausalLM",
  phi3: "Phi3ForCausalLM",
  smollm3: "SmolLM3ForCausalLM",
  gemma: "GemmaForCausalLM",
  gemma2: "Gemma2ForCausalLM",
  gemma3_text: "Gemma3ForCausalLM",
};

/**
 * config.json from a GGUF file's metadata and tensor names.
 *
 * ropeFactors  what the file's lists of factors hold
 * dtype        `torch_dtype` of the folder to be written
 * throws       DONOR_GGUF_ARCHITECTURE, DONOR_GGUF_METADATA
 */
export function rebuildConfig(
  file: GgufFile,
  ropeFactors: FileRopeFactors,
  dtype: string,
  name: string,
): Record<string, unknown> {
  const architecture =
    file.metadata.get("general.architecture")?.type === "string" ? text(file, "general.architecture") : "";
  const modelType = modelTypeOf(architecture ?? "");
  if (modelType === undefined) {
    throw foreign(name, `architecture "${architecture}" is not known; known are ${KNOWN}`);
  }
  const keys = new Keys(file, architecture ?? "", name);
  if ((keys.optional("expert_count") ?? 0) > 0) throw foreign(name, "mixtures of experts are not known");
  const embedding = file.tensors.find((tensor) => tensor.name === "token_embd.weight");
  if (embedding === undefined || embedding.shape.length !== 2) throw foreign(name, "token_embd.weight is missing");

  const hiddenSize = keys.required("embedding_length");
  const headCount = keys.required("attention.head_count");
  const headLength = keys.optional("attention.key_length") ?? hiddenSize / headCount;
  const valueLength = keys.optional("attention.value_length") ?? hiddenSize / headCount;
  if (headLength !== valueLength) throw foreign(name, `keys of ${headLength} and values of ${valueLength} channels`);
  const ropeLength = keys.optional("rope.dimension_count") ?? headLength;
  if (ropeLength !== headLength && modelType !== "phi3") {
    throw foreign(name, `heads of ${headLength} channels of which ${ropeLength} rotate`);
  }
  const ropeTheta = keys.optional("rope.freq_base") ?? 10_000;
  const slidingWindow = ["phi3", "gemma2", "gemma3_text"].includes(modelType)
    ? keys.optional("attention.sliding_window")
    : undefined;
  const isGemma = modelType.startsWith("gemma");
  const names = new Set(file.tensors.map((tensor) => tensor.name));
  const tokenId = (key: string): number | undefined => {
    const value = file.metadata.get(`tokenizer.ggml.${key}_token_id`);
    return value !== undefined && value.type !== "array" ? Number(value.value) : undefined;
  };
  return {
    architectures: [ARCHITECTURES[modelType]],
    model_type: modelType,
    vocab_size: embedding.shape[0],
    hidden_size: hiddenSize,
    intermediate_size: keys.required("feed_forward_length"),
    num_hidden_layers: keys.required("block_count"),
    num_attention_heads: headCount,
    num_key_value_heads: keys.optional("attention.head_count_kv") ?? headCount,
    head_dim: headLength,
    ...(isGemma
      ? { hidden_act: "gelu_pytorch_tanh", hidden_activation: "gelu_pytorch_tanh", query_pre_attn_scalar: headLength }
      : { hidden_act: "silu" }),
    max_position_embeddings: keys.required("context_length"),
    rms_norm_eps: keys.required("attention.layer_norm_rms_epsilon"),
    rope_theta: ropeTheta,
    rope_scaling: rebuildRopeScaling(keys, ropeFactors, ropeLength, ropeTheta, name),
    ...(ropeLength === headLength ? {} : { partial_rotary_factor: ropeLength / headLength }),
    ...(slidingWindow === undefined ? {} : { sliding_window: slidingWindow || null }),
    ...(modelType === "gemma2"
      ? {
          attn_logit_softcapping: keys.optional("attn_logit_softcapping") ?? null,
          final_logit_softcapping: keys.optional("final_logit_softcapping") ?? null,
        }
      : {}),
    ...(modelType === "gemma3_text" ? { sliding_window_pattern: 6, rope_local_base_freq: 10_000 } : {}),
    ...(modelType === "qwen2" ? { use_sliding_window: false } : {}),
    attention_bias: names.has("blk.0.attn_q.bias"),
    ...(modelType === "llama" ? { mlp_bias: names.has("blk.0.ffn_up.bias") } : {}),
    tie_word_embeddings: !names.has("output.weight"),
    bos_token_id: tokenId("bos") ?? null,
    eos_token_id: tokenId("eos") ?? null,
    torch_dtype: dtype,
  };
}

/** What a file says of its rope scaling, as config.json says it. */
export function rebuildRopeScaling(
  keys: Keys,
  factors: FileRopeFactors,
  ropeLength: number,
  ropeTheta: number,
  name: string,
): Record<string, unknown> | null {
  const { freqs, long, short } = factors;
  if (long !== undefined && short !== undefined) {
    const attention = keys.optional("rope.scaling.attn_factor");
    const original = keys.required("rope.scaling.original_context_length");
    const usual = longRopeAttention(keys.required("context_length") / original, original);
    // Given where it is not what the lengths make it.
    const isUsual = attention === undefined || Math.fround(attention) === Math.fround(usual);
    return {
      rope_type: "longrope",
      short_factor: [...short].map(shortestDecimal),
      long_factor: [...long].map(shortestDecimal),
      original_max_position_embeddings: original,
      ...(isUsual ? {} : { attention_factor: attention }),
    };
  }
  if (freqs !== undefined) {
    const scaling = llama3ScalingOf(freqs, ropeLength, ropeTheta);
    if (scaling === undefined) throw foreign(name, "the factors in rope_freqs.weight are no Llama 3 rope scaling");
    return {
      rope_type: "llama3",
      factor: scaling.factor,
      low_freq_factor: scaling.lowFreqFactor,
      high_freq_factor: scaling.highFreqFactor,
      original_max_position_embeddings: scaling.originalContextLength,
    };
  }
  const kind = keys.text("rope.scaling.type");
  if (kind === undefined || kind === "none") return null;
  if (kind !== "linear" && kind !== "yarn") throw foreign(name, `rope scaling "${kind}"`);
  const factor = keys.required("rope.scaling.factor");
  if (kind === "linear") return { rope_type: kind, factor };
  const original = keys.required("rope.scaling.original_context_length");
  return { rope_type: kind, factor, original_max_position_embeddings: original, ...toldOfYarn(keys) };
}

/** What Ministral 3's files say of yarn beyond the usual; nothing in others. */
function toldOfYarn(keys: Keys): Record<string, number> {
  const told: Record<string, number> = {};
  const fields = {
    beta_fast: "rope.scaling.yarn_beta_fast",
    beta_slow: "rope.scaling.yarn_beta_slow",
    mscale_all_dim: "rope.scaling.yarn_log_multiplier",
    llama_4_scaling_beta: "attention.temperature_scale",
  };
  for (const [field, key] of Object.entries(fields)) {
    const value = keys.optional(key);
    if (value !== undefined) told[field] = value;
  }
  return told.mscale_all_dim === undefined ? told : { ...told, mscale: 1 };
}

/** Hyperparameters under the architecture's prefix. */
export class Keys {
  constructor(
    private readonly file: GgufFile,
    private readonly architecture: string,
    private readonly name: string,
  ) {}

  text(key: string): string | undefined {
    return text(this.file, `${this.architecture}.${key}`);
  }

  required(key: string): number {
    const value = this.optional(key);
    if (value === undefined) {
      throw new PhysariumError(
        "DONOR_GGUF_METADATA",
        `${this.name}: the metadata has no "${this.architecture}.${key}"`,
      );
    }
    return value;
  }

  /** A number or a flag. */
  either(key: string): number | boolean | undefined {
    const value = this.file.metadata.get(`${this.architecture}.${key}`);
    return value?.type === "bool" ? value.value === true : this.optional(key);
  }

  /** A number, or the largest of one a layer. */
  largest(key: string): number | undefined {
    const value = this.file.metadata.get(`${this.architecture}.${key}`);
    if (value?.type !== "array") return this.optional(key);
    const largest = value.values.reduce((most: number, each) => Math.max(most, Number(each)), Number.NEGATIVE_INFINITY);
    return finite(largest, `${this.architecture}.${key}`, this.name);
  }

  optional(key: string): number | undefined {
    const full = `${this.architecture}.${key}`;
    const value = this.file.metadata.get(full);
    if (value === undefined) return undefined;
    if (value.type === "array" || typeof value.value !== "number") {
      throw new PhysariumError(
        "DONOR_GGUF_METADATA",
        `${this.name}: "${full}" is ${value.type === "array" ? "a list (one value a layer)" : value.type}, ` +
          "expected one number",
      );
    }
    finite(value.value, full, this.name);
    return value.type === "f32" ? shortestDecimal(value.value) : value.value;
  }
}

/** JSON has no NaN: it would become null there, and the model would run on a default. Throws `DONOR_GGUF_METADATA`. */
function finite(value: number, key: string, name: string): number {
  if (Number.isFinite(value)) return value;
  throw new PhysariumError("DONOR_GGUF_METADATA", `${name}: "${key}" is ${value}, expected a finite number`, { key });
}

/** The short decimal that an F32 was written from: 1e-6, not 9.999999974752427e-7. */
function shortestDecimal(value: number): number {
  for (let digits = 1; digits <= 9; digits++) {
    const short = Number(value.toPrecision(digits));
    if (Math.fround(short) === value) return short;
  }
  return value;
}

function text(file: GgufFile, key: string): string | undefined {
  const value: GgufValue | undefined = file.metadata.get(key);
  return value?.type === "string" ? String(value.value) : undefined;
}

function foreign(name: string, what: string): PhysariumError {
  return new PhysariumError("DONOR_GGUF_ARCHITECTURE", `${name}: cannot be imported: ${what}`, { file: name });
}
