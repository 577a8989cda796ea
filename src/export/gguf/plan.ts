import { refuseAdapter, unwrapped } from "../../checkpoint/adapter-names.js";
import { partBeside, placeInLayer } from "../../checkpoint/decoder-structure.js";
import { elementCount } from "../../checkpoint/donor.js";
import { isSameTensor } from "../../checkpoint/same-tensor.js";
import { PhysariumError } from "../../errors.js";
import { ModelConfig as ModelFields } from "../../model/config.js";
import { refuseImpossibleCounts } from "../../model/counts.js";
import { bytesPerFloat, type FloatDtype, isFloatDtype } from "../../safetensors/dtypes.js";
import { decodeFloats } from "../../safetensors/float-bits.js";
import type { LocatedTensor, ModelFolder } from "../model-folder.js";
import type { ExportType } from "../weight-band.js";
import { type GgufHeader, type GgufTensorSpec, serializeGgufHeader } from "./header.js";
import { type GgufModel, ggufModelOf } from "./model.js";
import type { Piece } from "./segments.js";
import { chooseTypes, type ExportRecipe, FILE_TYPE } from "./tensor-types.js";
import { describeTokenizer } from "./tokenizer.js";
import type { GgufValue } from "./types.js";

/** A tensor to write: from the donor, or computed. */
export interface PlannedTensor {
  readonly spec: GgufTensorSpec & { readonly type: ExportType };
  readonly source: { readonly pieces: readonly Piece[] } | { readonly values: Float32Array };
  readonly fallback: string | undefined;
}

export interface GgufPlan {
  readonly model: GgufModel;
  readonly tensors: readonly PlannedTensor[];
  readonly header: GgufHeader;
  readonly leftOut: readonly { name: string; reason: string }[];
  readonly warnings: readonly string[];
}

/** config.json as it stood, so that an import gives back what metadata cannot say. */
export const EMBEDDED_CONFIG = "physarium.config.json";

/** Decide everything about a file before the first write. Throws `DONOR_*`. */
export async function planGguf(folder: ModelFolder, type: ExportRecipe): Promise<GgufPlan> {
  const configText = await folder.text("config.json");
  if (configText === undefined) {
    throw new PhysariumError("DONOR_CONFIG", `${folder.donor.path}: there is no config.json; GGUF needs its numbers`);
  }
  const tensorsByName = new Map([...folder.tensors].map(([name, located]) => [unwrapped(name), located]));
  for (const name of tensorsByName.keys()) refuseAdapter(name);
  const named = [...tensorsByName].map(([name, { info }]) => ({ name, shape: info.shape }));
  refuseImpossibleCounts(ModelFields.parse(configText, "config.json"), named);
  const said = ggufModelOf(configText, "config.json", [...tensorsByName.keys()]);
  const head = await tiedHead(folder, said);
  // The file wins: loaders keep a head that differs from the embedding, whatever the configuration says.
  const model = head === "another" ? { ...said, tiedEmbeddings: false } : said;
  if (model.mustTie && !model.tiedEmbeddings && tensorsByName.has(model.headName)) {
    throw new PhysariumError(
      "DONOR_ARCHITECTURE",
      `tensor "${model.headName}": llama.cpp's ${model.architecture} takes the embedding for the output matrix, and ` +
        "the donor has another",
      { tensor: model.headName },
    );
  }
  const tokenizer = describeTokenizer(
    {
      tokenizerJson: await folder.text("tokenizer.json"),
      tokenizerConfig: await folder.text("tokenizer_config.json"),
      chatTemplate: await folder.text("chat_template.jinja"),
    },
    model.vocabSize,
  );
  const warnings = [...tokenizer.warnings];
  if (head === "another") {
    warnings.push(
      `config.json ties the head to the embedding, and the file holds another ${model.headName}: it is written`,
    );
  }
  warnings.push(...model.warnings);
  const metadata = new Map<string, GgufValue>([
    ["general.architecture", { type: "string", value: model.architecture }],
    ["general.type", { type: "string", value: "model" }],
    ["general.name", { type: "string", value: loadableName(folder.donor.source.name, tokenizer.metadata) }],
    ["general.file_type", { type: "u32", value: FILE_TYPE[type] }],
    ["general.quantization_version", { type: "u32", value: 2 }],
    ...model.metadata,
    ...tokenizer.metadata,
  ]);
  if (
    !metadata.has("tokenizer.ggml.eos_token_id") &&
    model.eosTokenId !== undefined &&
    metadata.has("tokenizer.ggml.tokens")
  )
    metadata.set("tokenizer.ggml.eos_token_id", { type: "u32", value: model.eosTokenId });
  if (model.embedsConfig) metadata.set(EMBEDDED_CONFIG, { type: "string", value: configText });

  for (const [key, value] of await listedNumbers(folder, tensorsByName, model)) metadata.set(key, value);
  const { matched, leftOut } = matchTensors(tensorsByName, model);
  const shaped = [...matched].map(([name, pieces]) => ({ name, shape: pieces[0].link.ggufShape }));
  const types = chooseTypes(type, shaped, model.mix);
  const tensors: PlannedTensor[] = [...matched].map(([name, pieces]) => {
    const chosen = types.get(name)!;
    const spec = { name, shape: pieces[0].link.ggufShape, type: chosen.type };
    return { spec, source: { pieces }, fallback: chosen.fallback };
  });
  const factors = model.ropeFactors.map(({ name, values }): PlannedTensor => {
    return { spec: { name, shape: [values.length], type: "F32" }, source: { values }, fallback: undefined };
  });
  tensors.splice(1, 0, ...factors);
  const header = serializeGgufHeader(
    metadata,
    tensors.map(({ spec }) => spec),
  );
  return { model, tensors, header, leftOut, warnings };
}

/** Tokens that llama.cpp asks for by name where a model is called Phi-3. source: llama-vocab.cpp, `_set_token_attr` */
const PHI3_TOKENS = ["</s>", "<unk>", "<s>", "<|endoftext|>"];

/** The folder's name; one that would make llama.cpp look for tokens that are not there gets a space in it. */
function loadableName(name: string, tokenizer: ReadonlyMap<string, GgufValue>): string {
  const list = tokenizer.get("tokenizer.ggml.tokens");
  const tokens = new Set<unknown>(list?.type === "array" ? list.values : []);
  if (PHI3_TOKENS.every((token) => tokens.has(token))) return name;
  return name.replace(/(phi)-?(?=3)/gi, "$1 ");
}

/** What the file holds of a head that the configuration ties to the embedding. */
async function tiedHead({ donor, tensors }: ModelFolder, model: GgufModel): Promise<"none" | "a copy" | "another"> {
  if (!model.tiedEmbeddings || !tensors.has(model.headName)) return "none";
  return (await isSameTensor(donor, model.headName, model.embeddingName)) ? "a copy" : "another";
}

/** Numbers that the metadata lists, read from their tensors. Throws `DONOR_EXPORT_TENSOR`, `_SHAPE`, `_DTYPE`. */
async function listedNumbers(
  folder: ModelFolder,
  tensors: ReadonlyMap<string, LocatedTensor>,
  { layerNumbers, modelType }: GgufModel,
): Promise<Map<string, GgufValue>> {
  const lists = new Map<string, GgufValue>();
  for (const { key, names, shape, usual } of layerNumbers) {
    const values: number[] = [];
    for (const name of names) {
      const located = tensors.get(name);
      if (located === undefined) {
        if (usual === undefined) throw missing(name, `a ${modelType} model has one in each layer`);
        values.push(usual);
        continue;
      }
      // One number is one number, whether its tensor says [] or [1].
      if (elementCount(located.info.shape) !== 1) refuseOtherTensor(located, name, shape);
      refuseOtherTensor({ ...located, info: { ...located.info, shape } }, name, shape);
      const bytes = await folder.read(located, 0, bytesPerFloat(located.info.dtype as FloatDtype));
      values.push(decodeFloats(bytes, located.info.dtype as FloatDtype)[0]);
    }
    lists.set(key, { type: "array", of: "f32", values });
  }
  return lists;
}

function missing(name: string, why: string): PhysariumError {
  return new PhysariumError("DONOR_EXPORT_TENSOR", `tensor "${name}" is missing; ${why}`, { tensor: name });
}

/** Find every tensor of the layout in the donor and account for every tensor of the donor. */
function matchTensors(tensors: ReadonlyMap<string, LocatedTensor>, model: GgufModel) {
  const matched = new Map<string, Piece[]>();
  const leftOut: { name: string; reason: string }[] = [];
  const used = new Set<string>(model.layerNumbers.flatMap(({ names }) => names));
  for (const link of model.links) {
    const located = tensors.get(link.name);
    if (located === undefined) {
      if (link.optional) continue;
      throw missing(link.name, `a ${model.modelType} model of ${model.layerCount} layers has it`);
    }
    const isFirst = !used.has(link.name);
    used.add(link.name);
    if (link.name === model.headName && model.tiedEmbeddings) {
      leftOut.push({ name: link.name, reason: "an equal copy of the embedding, to which the output head is tied" });
      continue;
    }
    if (isFirst) refuseOtherTensor(located, link.name, link.shape);
    const pieces = matched.get(link.ggufName) ?? [];
    matched.set(link.ggufName, pieces);
    pieces.push({ link, located });
  }
  for (const name of tensors.keys()) {
    if (used.has(name)) continue;
    const reason = reasonToLeave(name, model.layerCount);
    if (reason !== undefined) {
      leftOut.push({ name, reason });
      continue;
    }
    throw new PhysariumError(
      "DONOR_EXPORT_TENSOR",
      `tensor "${name}" has no place in llama.cpp's ${model.architecture} architecture; leaving it out would change ` +
        "the model",
      { tensor: name },
    );
  }
  return { matched, leftOut };
}

/** Why a tensor that no place is for may stay behind; undefined where it may not. */
function reasonToLeave(name: string, layerCount: number): string | undefined {
  if (/\.rotary_emb\.inv_freq$/.test(name)) return "follows from rope_theta";
  if (/\.(?:attn|attention)\.(?:masked_)?bias$/.test(name)) return "a table that engines compute anew";
  const beside = partBeside(name);
  if (beside !== undefined) return `of ${beside}: the file holds the text model`;
  const layer = placeInLayer(name)?.layer ?? -1;
  if (layer >= layerCount) return `of a layer after the last of ${layerCount}: a draft head, or unused`;
  return undefined;
}

function refuseOtherTensor({ info, shard }: LocatedTensor, name: string, shape: readonly number[]): void {
  if (info.shape.join() !== shape.join()) {
    throw new PhysariumError(
      "DONOR_EXPORT_SHAPE",
      `${shard}: tensor "${name}" is [${info.shape.join(", ")}], config.json makes it [${shape.join(", ")}]; they do ` +
        "not belong together",
      { tensor: name, shape: info.shape, expected: shape },
    );
  }
  if (!isFloatDtype(info.dtype)) {
    throw new PhysariumError(
      "DONOR_EXPORT_DTYPE",
      `${shard}: tensor "${name}" is ${info.dtype}, expected BF16, F16 or F32`,
      { tensor: name, dtype: info.dtype },
    );
  }
}
