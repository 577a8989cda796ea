import { parsePythonJson } from "../checkpoint/python-json.js";
import { PhysariumError } from "../errors.js";
import type { TensorSpec } from "../safetensors/writer.js";

/** What of a `config.json` synth reads; everything else is carried over. */
export interface ModelConfig {
  readonly [key: string]: unknown;
}

/** A tensor to write; the dtype is one for the whole donor. */
export type TensorShape = Omit<TensorSpec, "dtype">;

/** Model types whose tensors follow from their configuration, and what they add to the common decoder. */
const FAMILIES: Record<string, { qkvBias: boolean; queryKeyNorm: boolean }> = {
  llama: { qkvBias: false, queryKeyNorm: false },
  mistral: { qkvBias: false, queryKeyNorm: false },
  qwen2: { qkvBias: true, queryKeyNorm: false },
  qwen3: { qkvBias: false, queryKeyNorm: true },
};

/** A shape beyond this is a mistake in the file, not a model. */
const MAX_DIMENSION = 2 ** 31;

/** No model has a tenth of these; every one becomes a dozen tensors in memory before anything is written. */
const MAX_LAYERS = 10_000;

/**
 * Names and shapes of all tensors in the order of the model's modules, derived from its configuration.
 * Throws `DONOR_CONFIG` for a model type it does not know or a number that is missing.
 *
 * source: transformers 4.43, `modeling_llama.py`, `modeling_mistral.py`, `modeling_qwen2.py`; 4.51, `modeling_qwen3.py`
 */
export function deriveTensors(config: ModelConfig, where: string): TensorShape[] {
  const type = String(config.model_type);
  const family = Object.hasOwn(FAMILIES, type) ? FAMILIES[type] : undefined;
  if (family === undefined) {
    throw new PhysariumError(
      "DONOR_CONFIG",
      `${where}: cannot derive the tensors of model_type "${type}", known are ${Object.keys(FAMILIES).join(", ")}; ` +
        `put a tensor_shapes.json ({"name": [rows, cols], …}) beside it`,
      { modelType: type },
    );
  }
  const hidden = positive(config, "hidden_size", where);
  const intermediate = positive(config, "intermediate_size", where);
  const layers = positive(config, "num_hidden_layers", where, MAX_LAYERS);
  const heads = positive(config, "num_attention_heads", where);
  const vocabulary = positive(config, "vocab_size", where);
  const keyHeads = config.num_key_value_heads == null ? heads : positive(config, "num_key_value_heads", where);
  const headDim = config.head_dim == null ? Math.floor(hidden / heads) : positive(config, "head_dim", where);
  const allBias = config.attention_bias === true;
  const mlpBias = config.mlp_bias === true;

  const tensors: TensorShape[] = [{ name: "model.embed_tokens.weight", shape: [vocabulary, hidden] }];
  const linear = (name: string, rows: number, cols: number, bias: boolean) => {
    tensors.push({ name: `${name}.weight`, shape: [rows, cols] });
    if (bias) tensors.push({ name: `${name}.bias`, shape: [rows] });
  };
  for (let layer = 0; layer < layers; layer++) {
    const at = `model.layers.${layer}`;
    linear(`${at}.self_attn.q_proj`, heads * headDim, hidden, family.qkvBias || allBias);
    linear(`${at}.self_attn.k_proj`, keyHeads * headDim, hidden, family.qkvBias || allBias);
    linear(`${at}.self_attn.v_proj`, keyHeads * headDim, hidden, family.qkvBias || allBias);
    linear(`${at}.self_attn.o_proj`, hidden, heads * headDim, allBias);
    if (family.queryKeyNorm) {
      tensors.push({ name: `${at}.self_attn.q_norm.weight`, shape: [headDim] });
      tensors.push({ name: `${at}.self_attn.k_norm.weight`, shape: [headDim] });
    }
    linear(`${at}.mlp.gate_proj`, intermediate, hidden, mlpBias);
    linear(`${at}.mlp.up_proj`, intermediate, hidden, mlpBias);
    linear(`${at}.mlp.down_proj`, hidden, intermediate, mlpBias);
    tensors.push({ name: `${at}.input_layernorm.weight`, shape: [hidden] });
    tensors.push({ name: `${at}.post_attention_layernorm.weight`, shape: [hidden] });
  }
  tensors.push({ name: "model.norm.weight", shape: [hidden] });
  if (config.tie_word_embeddings !== true) tensors.push({ name: "lm_head.weight", shape: [vocabulary, hidden] });
  return tensors;
}

/** Names and shapes from a `tensor_shapes.json`: one object, tensor name → dimensions. Throws `DONOR_CONFIG`. */
export function parseTensorShapes(text: string, where: string): TensorShape[] {
  const value = parseObject(text, where);
  const tensors = Object.entries(value).map(([name, shape]) => {
    const sound =
      Array.isArray(shape) &&
      shape.every((n) => Number.isSafeInteger(n) && n >= 0 && n <= MAX_DIMENSION) &&
      name !== "";
    if (!sound || name === "__metadata__") {
      throw new PhysariumError(
        "DONOR_CONFIG",
        `${where}: "${name}" has the shape ${JSON.stringify(shape)}, expected a list of non-negative integers`,
        { tensor: name },
      );
    }
    return { name, shape: shape as number[] };
  });
  if (tensors.length === 0) throw new PhysariumError("DONOR_CONFIG", `${where}: it names no tensor`, {});
  return tensors;
}

/** Parse a JSON object; throws `DONOR_CONFIG`. */
export function parseObject(text: string, where: string): Record<string, unknown> {
  let value: unknown;
  try {
    value = parsePythonJson(text);
  } catch (error) {
    throw new PhysariumError("DONOR_CONFIG", `${where}: expected JSON: ${(error as Error).message}`, {}, error);
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw new PhysariumError("DONOR_CONFIG", `${where}: expected a JSON object, found ${clip(text)}`, {});
  }
  return value as Record<string, unknown>;
}

/**
 * The same model with `scale` times the layers (at least one) and vocabulary rows (a multiple of 64). The widths stay,
 * so that every matrix that remains keeps its shape and its tiles.
 */
export function scaleModel(
  config: ModelConfig,
  tensors: readonly TensorShape[],
  scale: number,
  where: string,
): { config: ModelConfig; tensors: TensorShape[] } {
  const layers = positive(config, "num_hidden_layers", where, MAX_LAYERS);
  const vocabulary = positive(config, "vocab_size", where);
  const newLayers = Math.max(1, Math.round(layers * scale));
  const newVocabulary = Math.max(64, Math.round((vocabulary * scale) / 64) * 64);

  const scaled: Record<string, unknown> = { ...config, num_hidden_layers: newLayers, vocab_size: newVocabulary };
  if (typeof config.max_window_layers === "number")
    scaled.max_window_layers = Math.min(config.max_window_layers, newLayers);
  if (Array.isArray(config.layer_types)) scaled.layer_types = config.layer_types.slice(0, newLayers);
  // Loaders index the embedding with these; an id past its end would fail there.
  for (const key of ["bos_token_id", "eos_token_id", "pad_token_id"]) {
    const ids = ([] as unknown[]).concat(config[key] ?? []);
    if (ids.some((id) => typeof id === "number" && id >= newVocabulary)) scaled[key] = null;
  }

  const kept: TensorShape[] = [];
  for (const { name, shape } of tensors) {
    const layer = /(?:^|\.)layers\.(\d+)\./.exec(name);
    if (layer !== null && Number(layer[1]) >= newLayers) continue;
    const ofVocabulary = shape[0] === vocabulary && /(?:^|\.)(?:embed_tokens|lm_head)\.(?:weight|bias)$/.test(name);
    kept.push({ name, shape: ofVocabulary ? [newVocabulary, ...shape.slice(1)] : shape });
  }
  return { config: scaled, tensors: kept };
}

/** A positive integer of the configuration. */
function positive(config: ModelConfig, key: string, where: string, most = MAX_DIMENSION): number {
  const value = config[key];
  if (typeof value !== "number" || !Number.isSafeInteger(value) || value < 1 || value > most) {
    throw new PhysariumError(
      "DONOR_CONFIG",
      `${where}: "${key}" is ${JSON.stringify(value)}, expected a positive integer up to ${most}; is this the ` +
        "config.json of a language model?",
      { key },
    );
  }
  return value;
}

function clip(text: string): string {
  return text.length <= 40 ? text : `${text.slice(0, 40)}…`;
}
