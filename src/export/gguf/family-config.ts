import { PhysariumError } from "../../errors.js";
import type { Family } from "../../model/architecture.js";
import { FAMILIES } from "../../model/families/registry.js";
import type { GgufTraits } from "../../model/gguf.js";
import { MODEL_TYPES } from "../model-config.js";
import { Keys, rebuildRopeScaling } from "./config-rebuild.js";
import type { GgufFile } from "./reader.js";
import type { FileRopeFactors } from "./rope-factors.js";

/**
 * config.json of a family that says in its own file how llama.cpp knows it, from the metadata of a file that does not
 * carry one; undefined for other architectures. What metadata does not say is as the family's class has it.
 */
export function rebuildFamilyConfig(
  file: GgufFile,
  ropeFactors: FileRopeFactors,
  dtype: string,
  name: string,
): Record<string, unknown> | undefined {
  const found = familyOfFile(file);
  if (found === undefined) return undefined;
  const { family, modelType, traits } = found;
  const keys = new Keys(file, traits.architecture, name);
  if (traits.tellsTypes === true) {
    throw new PhysariumError(
      "DONOR_GGUF_ARCHITECTURE",
      `${name}: cannot be imported: of ${traits.architecture} only files that carry config.json are known, as export ` +
        "writes them",
      { file: name },
    );
  }
  const heads = keys.required("attention.head_count");
  const hidden = keys.required("embedding_length");
  const headDim = keys.optional("attention.key_length") ?? hidden / heads;
  const ropeLength = keys.optional("rope.dimension_count") ?? headDim;
  const theta = keys.optional("rope.freq_base") ?? 10_000;
  const names = new Set(file.tensors.map((tensor) => tensor.name));
  const window = traits.slidingPeriod === undefined ? undefined : keys.optional("attention.sliding_window");
  const common: Record<string, unknown> = {
    vocab_size: file.tensors.find((tensor) => tensor.name === "token_embd.weight")?.shape[0],
    hidden_size: hidden,
    num_hidden_layers: keys.required("block_count"),
    num_attention_heads: heads,
    num_key_value_heads: keys.largest("attention.head_count_kv") ?? heads,
    head_dim: headDim,
    intermediate_size: keys.required("feed_forward_length"),
    max_position_embeddings: keys.required("context_length"),
    [traits.epsilon ?? "rms_norm_eps"]:
      keys.optional("attention.layer_norm_rms_epsilon") ?? keys.optional("attention.layer_norm_epsilon"),
    rope_theta: theta,
    rope_scaling: rebuildRopeScaling(keys, ropeFactors, ropeLength, theta, name),
    ...(family.turnsInPart === true ? { partial_rotary_factor: ropeLength / headDim } : {}),
    ...(window === undefined ? {} : { sliding_window: window }),
    tie_word_embeddings: !names.has("output.weight"),
    ...layerTypes(file, traits.architecture),
    ...linearAttention(keys),
    ...traits.config,
  };
  for (const [field, key] of traits.fields ?? []) {
    const value = keys.either(key);
    if (value !== undefined) common[field] = value;
  }
  const theirs = Object.fromEntries(Object.entries(family.aliases ?? {}).map(([own, ours]) => [ours, own]));
  const renamed = Object.entries(common).map(([field, value]) => [theirs[field] ?? field, value]);
  return { model_type: modelType, ...Object.fromEntries(renamed), torch_dtype: dtype };
}

/** Sizes of linear attention, where a file has it. */
function linearAttention(keys: Keys): Record<string, number> {
  const heads = keys.optional("ssm.time_step_rank");
  const interval = keys.optional("full_attention_interval");
  if (heads === undefined) return {};
  return {
    linear_conv_kernel_dim: keys.required("ssm.conv_kernel"),
    linear_key_head_dim: keys.required("ssm.state_size"),
    linear_num_key_heads: keys.required("ssm.group_count"),
    linear_num_value_heads: heads,
    linear_value_head_dim: keys.required("ssm.inner_size") / heads,
    ...(interval === undefined ? {} : { full_attention_interval: interval }),
  };
}

/** Layers without attention have no keys: there a convolution stands; linear attention has a list of its own. */
function layerTypes(file: GgufFile, architecture: string): { layer_types?: string[] } {
  const linear = file.metadata.get(`${architecture}.attention.recurrent_layers`);
  if (linear?.type === "array") {
    return { layer_types: linear.values.map((is) => (is === true ? "linear_attention" : "full_attention")) };
  }
  const counts = file.metadata.get(`${architecture}.attention.head_count_kv`);
  if (counts?.type !== "array") return {};
  return { layer_types: counts.values.map((count) => (Number(count) === 0 ? "conv" : "full_attention")) };
}

/** Of an architecture's model types the first; one whose layers slide where the file has a window (OLMo 2 and 3). */
function familyOfFile(file: GgufFile): { family: Family; modelType: string; traits: GgufTraits } | undefined {
  const value = file.metadata.get("general.architecture");
  const architecture = value?.type === "string" ? value.value : undefined;
  const hasExperts = file.tensors.some(({ name }) => name.includes("_exps."));
  // Llama with experts is Mixtral; without it is read elsewhere.
  if (architecture === "llama" && !hasExperts) return undefined;
  const mayHave = ({ fields }: GgufTraits): boolean =>
    architecture !== "llama" || (fields ?? []).some(([, key]) => key === "expert_count");
  const found = FAMILIES.flatMap((family) =>
    Object.entries(family.gguf ?? {}).map(([modelType, traits]) => ({ family, modelType, traits })),
  ).filter(
    ({ modelType, traits }) =>
      traits.architecture === architecture && !MODEL_TYPES.includes(modelType as never) && mayHave(traits),
  );
  const slides = file.metadata.has(`${architecture}.attention.sliding_window`);
  return found.find(({ traits }) => slides && traits.slidingPeriod !== undefined) ?? found[0];
}
