import { parsePythonJson } from "../checkpoint/python-json.js";
import { PhysariumError } from "../errors.js";
import { Fields, type Json } from "./config-fields.js";
import { parseRopeScaling, type RopeScaling } from "./rope-scaling.js";

/** Model families that exports and imports know, by `model_type` in config.json. */
export const MODEL_TYPES = [
  "llama",
  "mistral",
  "smollm3",
  "qwen2",
  "qwen3",
  "phi3",
  "gemma",
  "gemma2",
  "gemma3_text",
] as const;
export type ModelType = (typeof MODEL_TYPES)[number];

/** What config.json says about a decoder, in our words. */
export interface ModelConfig {
  readonly modelType: ModelType;
  readonly hiddenSize: number;
  readonly intermediateSize: number;
  readonly layerCount: number;
  readonly headCount: number;
  readonly kvHeadCount: number;
  /** Length of one head's query and key, whether config.json gives it or not. */
  readonly headLength: number;
  /** Of each head, how many channels rotate. */
  readonly ropeLength: number;
  readonly contextLength: number;
  readonly rmsNormEps: number;
  readonly ropeTheta: number;
  readonly ropeScaling: RopeScaling;
  readonly vocabSize: number;
  readonly tiedEmbeddings: boolean;
  /** Attention window in tokens where layers use one. */
  readonly slidingWindow: number | undefined;
  /** Gemma 2: attention and output logits are bent to stay below these. */
  readonly attentionSoftcap: number | undefined;
  readonly logitSoftcap: number | undefined;
  readonly bosTokenId: number | undefined;
  readonly eosTokenId: number | undefined;
}

/**
 * Parse config.json. Throws `DONOR_CONFIG` for what is missing or malformed, `DONOR_ARCHITECTURE` for what no format
 * here can say.
 */
export function parseModelConfig(text: string, name: string): ModelConfig {
  let json: Json;
  try {
    json = parsePythonJson(text) as Json;
  } catch (error) {
    throw new PhysariumError("DONOR_CONFIG", `${name}: not valid JSON (${(error as Error).message})`, {}, error);
  }
  if (typeof json !== "object" || json === null || Array.isArray(json)) {
    throw new PhysariumError("DONOR_CONFIG", `${name}: expected an object`);
  }
  const modelType = json.model_type as ModelType;
  if (!MODEL_TYPES.includes(modelType)) {
    throw new PhysariumError(
      "DONOR_ARCHITECTURE",
      `${name}: model_type ${JSON.stringify(json.model_type)} cannot be exported, known are ${MODEL_TYPES.join(", ")}`,
      { modelType: json.model_type },
    );
  }
  const fields = new Fields(json, name);
  const isGemma = modelType.startsWith("gemma");
  if (isGemma) {
    const isTanh = (value: unknown) => value === "gelu_pytorch_tanh" || value === "gelu_new";
    fields.refuse("hidden_activation", (value) => !isTanh(value), "only gelu_pytorch_tanh is known for this family");
  } else {
    fields.refuse("hidden_act", (value) => value !== "silu", "only silu is known for this family");
  }
  fields.refuse("num_local_experts", (value) => typeof value === "number" && value > 0, "mixtures of experts are not");

  const hiddenSize = fields.count("hidden_size");
  const headCount = fields.count("num_attention_heads");
  const headLength = fields.optionalCount("head_dim") ?? defaultHeadLength(modelType, hiddenSize, headCount);
  if (!Number.isInteger(headLength) || headLength % 2 !== 0) {
    throw new PhysariumError(
      "DONOR_CONFIG",
      `${name}: hidden_size ${hiddenSize} over ${headCount} heads gives ${headLength} channels a head, expected an ` +
        "even whole number",
    );
  }
  const kvHeadCount = fields.optionalCount("num_key_value_heads") ?? headCount;
  if (headCount % kvHeadCount !== 0) {
    throw new PhysariumError("DONOR_CONFIG", `${name}: ${headCount} heads cannot share ${kvHeadCount} key-value heads`);
  }
  const contextLength = fields.optionalCount("max_position_embeddings") ?? 8192;
  if (isGemma) refuseForeignGemma(json, fields, modelType, headLength);
  if (modelType === "smollm3") refuseForeignSmolLM3(json, fields);
  const usesWindow = modelType === "gemma" ? false : (json.use_sliding_window ?? true);
  const slidingWindow = usesWindow === false ? undefined : fields.optionalCount("sliding_window");
  // transformers 5 moved theta and scaling into one object.
  const rope = (json.rope_parameters ?? {}) as Json & { full_attention?: Json };
  const ropeParameters = rope.full_attention ?? json.rope_parameters;
  const theta = rope.full_attention?.rope_theta ?? rope.rope_theta;
  // The classes of the other families do not read the field.
  const part = modelType === "phi3" ? (json.partial_rotary_factor ?? rope.partial_rotary_factor) : undefined;
  // Cut as transformers does; the addend keeps 96 · (72 / 96) at 72.
  const ropeLength = Math.trunc(headLength * Number(part ?? 1) + 1e-9);
  return {
    modelType,
    hiddenSize,
    intermediateSize: fields.count("intermediate_size"),
    layerCount: fields.count("num_hidden_layers"),
    headCount,
    kvHeadCount,
    headLength,
    ropeLength,
    contextLength,
    rmsNormEps: fields.optionalPositive("rms_norm_eps") ?? 1e-6,
    ropeTheta: fields.optionalPositive("rope_theta") ?? (typeof theta === "number" ? theta : 10_000),
    ropeScaling: parseRopeScaling((json.rope_scaling ?? ropeParameters ?? null) as Json | null, name, {
      contextLength,
      originalPositions: fields.optionalCount("original_max_position_embeddings"),
      pairs: modelType === "phi3" ? Math.trunc(ropeLength / 2) : undefined,
    }),
    vocabSize: fields.count("vocab_size"),
    tiedEmbeddings: (json.tie_word_embeddings ?? (isGemma || modelType === "smollm3")) === true,
    slidingWindow: slidingWindow !== undefined && slidingWindow < contextLength ? slidingWindow : undefined,
    attentionSoftcap: modelType === "gemma2" ? fields.optionalPositive("attn_logit_softcapping") : undefined,
    logitSoftcap: modelType === "gemma2" ? fields.optionalPositive("final_logit_softcapping") : undefined,
    bosTokenId: fields.tokenId("bos_token_id"),
    eosTokenId: fields.tokenId("eos_token_id"),
  };
}

/** What transformers takes where config.json says nothing. */
function defaultHeadLength(modelType: ModelType, hiddenSize: number, headCount: number): number {
  if (modelType === "qwen3") return 128;
  return modelType.startsWith("gemma") ? 256 : hiddenSize / headCount;
}

/**
 * llama.cpp has Gemma's scale, windows and local rope built in: a configuration with others would run wrongly there.
 */
function refuseForeignGemma(json: Json, fields: Fields, modelType: ModelType, headLength: number): void {
  const scalar = (value: unknown) => value !== headLength;
  fields.refuse("use_bidirectional_attention", (value) => value !== false, "llama.cpp's graph looks back only");
  fields.refuse("query_pre_attn_scalar", scalar, `only ${headLength}, the length of a head, is known`);
  if (modelType === "gemma") return;
  const pattern = modelType === "gemma2" ? 2 : 6;
  const isLocal = (layer: number) => (layer + 1) % pattern !== 0;
  fields.refuse("sliding_window_pattern", (value) => value !== pattern, `only ${pattern} is known for this family`);
  const isForeignType = (type: unknown, layer: number) => (type === "sliding_attention") !== isLocal(layer);
  const isForeign = (types: unknown) => Array.isArray(types) && types.some(isForeignType);
  fields.refuse("layer_types", isForeign, `only a full layer after ${pattern - 1} sliding ones is known`);
  const local = (json.rope_parameters as { sliding_attention?: Json } | undefined)?.sliding_attention?.rope_theta;
  for (const theta of [json.rope_local_base_freq, local]) {
    if (modelType !== "gemma3_text" || theta === undefined || theta === null || theta === 10_000) continue;
    throw new PhysariumError(
      "DONOR_ARCHITECTURE",
      `rope_local_base_freq ${JSON.stringify(theta)}: only 10000 is known`,
    );
  }
}

/** llama.cpp has SmolLM3's layers without rope built in: every fourth. */
function refuseForeignSmolLM3(json: Json, fields: Fields): void {
  const isForeign = (layers: unknown) =>
    Array.isArray(layers) && layers.some((turns, layer) => Boolean(turns) !== ((layer + 1) % 4 !== 0));
  fields.refuse("no_rope_layers", isForeign, "only every fourth layer without rope is known");
  if (json.use_sliding_window === true) {
    throw new PhysariumError("DONOR_ARCHITECTURE", "use_sliding_window true: not known for this family");
  }
}
