import { isPhysariumError, PhysariumError } from "../../errors.js";
import { ModelConfig } from "../../model/config.js";
import type { FloatDtype } from "../../safetensors/dtypes.js";
import type { ByteSource } from "../../safetensors/source.js";
import { rebuildConfig } from "./config-rebuild.js";
import { rebuildFamilyConfig } from "./family-config.js";
import type { Link } from "./links.js";
import { type GgufModel, ggufModelOf } from "./model.js";
import { EMBEDDED_CONFIG } from "./plan.js";
import { type GgufFile, type GgufTensorInfo, readGguf } from "./reader.js";
import { isRopeFactors, readRopeFactors } from "./rope-factors.js";
import { type RebuiltTokenizer, rebuildTokenizer } from "./tokenizer-rebuild.js";
import { TENSOR_TYPES } from "./types.js";

/** A piece of a GGUF tensor and the tensor it is part of. */
export interface ImportPiece {
  readonly link: Link;
  readonly info: GgufTensorInfo;
}

/** A tensor of the new folder. */
export interface ImportTarget {
  readonly name: string;
  readonly shape: readonly number[];
  readonly pieces: readonly ImportPiece[];
  /** Instead of pieces: numbers that the metadata lists under a key. */
  readonly listed?: { readonly key: string; readonly values: Float32Array };
}

/** Everything decided before the first write. */
export interface ImportPlan {
  readonly model: GgufModel;
  readonly configText: string;
  readonly tokenizer: RebuiltTokenizer;
  readonly targets: readonly ImportTarget[];
}

const TORCH_DTYPE: Readonly<Record<FloatDtype, string>> = { BF16: "bfloat16", F16: "float16", F32: "float32" };

/**
 * Decide from a GGUF file's header (that of `parts`, where it was read before) what each tensor becomes. Writes
 * nothing; throws `DONOR_GGUF_*`, `STOPPED`.
 */
export async function planImport(
  source: ByteSource,
  name: string,
  dtype: FloatDtype,
  signal?: AbortSignal,
  parts?: GgufFile,
): Promise<ImportPlan> {
  const file = parts ?? (await readGguf(source, name, signal));
  const configText = await configOf(file, source, name, dtype);
  refuseAbsurdCounts(configText, file, name);
  const model = ggufModelOf(configText, `${name}: config`);
  const byName = new Map(file.tensors.map((tensor) => [tensor.name, tensor]));
  const unused = new Set(byName.keys());
  const targets = new Map<string, ImportTarget & { pieces: ImportPiece[] }>();
  for (const link of model.links) {
    const info = byName.get(link.ggufName);
    if (info === undefined) {
      if (link.optional) continue;
      throw wrongTensor(name, link.ggufName, "is missing");
    }
    if (unused.delete(link.ggufName)) refuseOtherTensor(info, link, name);
    const target = targets.get(link.name) ?? { name: link.name, shape: link.shape, pieces: [] };
    targets.set(link.name, target);
    target.pieces.push({ link, info });
  }
  refuseOtherVocabulary(file, byName.get("token_embd.weight")?.shape[0], name);
  for (const extra of unused)
    if (!isRopeFactors(extra)) throw wrongTensor(name, extra, `has no place in a ${model.modelType} model`);
  const tokenizer = await rebuildTokenizer(file.metadata, signal).catch((error) => {
    if (!isPhysariumError(error, "DONOR_GGUF_LIMIT")) throw error;
    throw new PhysariumError(error.code, `${name}: ${error.message}`, error.details, error);
  });
  const listed = listedTargets(model, file, name);
  return { model, configText, tokenizer, targets: [...targets.values(), ...listed] };
}

/** Tensors whose numbers stand in lists of the metadata, one a layer. Throws `DONOR_GGUF_METADATA`. */
function listedTargets(model: GgufModel, { metadata }: GgufFile, name: string): ImportTarget[] {
  return model.layerNumbers.flatMap(({ key, names, shape }) => {
    const list = metadata.get(key);
    const numbers = list?.type === "array" ? list.values.map(Number) : [];
    if (numbers.length !== names.length || !numbers.every(Number.isFinite)) {
      throw new PhysariumError(
        "DONOR_GGUF_METADATA",
        `${name}: "${key}" is no list of ${names.length} numbers, one a layer`,
        { key },
      );
    }
    return names.map((tensor, layer) => ({
      name: tensor,
      shape,
      pieces: [],
      listed: { key, values: Float32Array.of(numbers[layer]) },
    }));
  });
}

/** config.json as the file carries it, or rebuilt from its metadata. */
async function configOf(file: GgufFile, source: ByteSource, name: string, dtype: FloatDtype): Promise<string> {
  const embedded = file.metadata.get(EMBEDDED_CONFIG);
  if (embedded?.type === "string") return String(embedded.value);
  const factors = await readRopeFactors(source, file);
  const json =
    rebuildFamilyConfig(file, factors, TORCH_DTYPE[dtype], name) ??
    rebuildConfig(file, factors, TORCH_DTYPE[dtype], name);
  return `${JSON.stringify(json, null, 2)}\n`;
}

function refuseOtherTensor(info: GgufTensorInfo, link: Link, name: string): void {
  if (info.shape.join() !== link.ggufShape.join()) {
    throw wrongTensor(
      name,
      link.ggufName,
      `is [${info.shape.join(", ")}], its metadata makes it [${link.ggufShape.join(", ")}]`,
    );
  }
  if (link.rowLength === 1 && TENSOR_TYPES[info.type].blockLength > 1) {
    throw wrongTensor(name, link.ggufName, `is a vector of ${info.type}, expected F32, F16 or BF16`);
  }
}

/** Each row of the embedding is a token's; an engine takes no other file either. Throws `DONOR_GGUF_METADATA`. */
function refuseOtherVocabulary({ metadata }: GgufFile, rows: number | undefined, name: string): void {
  const key = "tokenizer.ggml.tokens";
  const tokens = metadata.get(key);
  if (tokens === undefined || rows === undefined) return;
  const found = tokens.type !== "array" ? tokens.type : `${tokens.values.length} of type ${tokens.of}`;
  if (found === `${rows} of type string`) return;
  throw new PhysariumError(
    "DONOR_GGUF_METADATA",
    `${name}: "${key}" is ${found}, expected ${rows} strings, as many as the embedding has rows`,
    { key, rows },
  );
}

/**
 * A hostile count would make a layout larger than memory: each layer has more tensors than one, and heads and experts
 * are rows of some tensor.
 */
function refuseAbsurdCounts(configText: string, file: GgufFile, name: string): void {
  const config = ModelConfig.parse(configText, `${name}: config`).decoder;
  const numberOf = (...fields: string[]): number => Number(fields.map((field) => config.raw(field)).find(Boolean) ?? 0);
  const layers = numberOf("num_hidden_layers", "n_layer");
  if (layers > file.tensors.length) {
    throw new PhysariumError(
      "DONOR_GGUF_METADATA",
      `${name}: ${layers} layers announced, but only ${file.tensors.length} tensors are there`,
    );
  }
  const largest = file.tensors.reduce((most, { shape }) => Math.max(most, ...shape), 0);
  const heads = numberOf("num_attention_heads", "n_head");
  const counts = {
    "attention heads": heads,
    "channels of all heads": heads * numberOf("head_dim"),
    experts: numberOf("num_local_experts", "num_experts", "n_routed_experts"),
  };
  for (const [what, count] of Object.entries(counts)) {
    if (count <= largest) continue;
    throw new PhysariumError(
      "DONOR_GGUF_METADATA",
      `${name}: ${count} ${what} announced, but no tensor has a dimension above ${largest}`,
    );
  }
}

function wrongTensor(file: string, tensor: string, what: string): PhysariumError {
  return new PhysariumError("DONOR_GGUF_TENSOR", `${file}: tensor "${tensor.slice(0, 120)}" ${what}`, { file, tensor });
}
