import { elementCount, type Model } from "../../checkpoint/donor.js";
import { type FileLayer, FileSource, nodeFiles } from "../../checkpoint/file-layer.js";
import { isSameTensor } from "../../checkpoint/same-tensor.js";
import { PhysariumError, refuseStopped } from "../../errors.js";
import { ModelConfig as ModelFields } from "../../model/config.js";
import { refuseImpossibleCounts } from "../../model/counts.js";
import { requireDiskSpace } from "../../output/disk-space.js";
import { writeOutputFile } from "../../output/output-file.js";
import { bytesPerFloat, type FloatDtype, isFloatDtype } from "../../safetensors/dtypes.js";
import { decodeFloats, encodeFloats } from "../../safetensors/float-bits.js";
import { type ModelConfig, parseModelConfig } from "../model-config.js";
import { type LocatedTensor, ModelFolder } from "../model-folder.js";
import { Quantiser } from "../quantiser.js";
import { BAND_WEIGHTS, type ConversionTally, convertBand, type ExportType, newTally } from "../weight-band.js";
import { type GgufHeader, type GgufTensorSpec, serializeGgufHeader } from "./header.js";
import {
  architectureOf,
  describeModel,
  layoutTensors,
  llama3RopeFactors,
  permuteRows,
  ROPE_FACTORS_TENSOR,
  type TensorPair,
} from "./layout.js";
import { chooseTypes, type ExportRecipe, FILE_TYPE } from "./tensor-types.js";
import { describeTokenizer } from "./tokenizer.js";
import { GGUF_MAGIC, type GgufValue, TENSOR_TYPES } from "./types.js";

/** What an export would write, known from headers alone. */
export interface GgufLayout {
  readonly config: ModelConfig;
  readonly byteLength: number;
  /** `name` is the one in the GGUF file. */
  readonly tensors: readonly { readonly name: string; readonly type: ExportType; readonly byteLength: number }[];
  readonly warnings: readonly string[];
}

/** The layout of an export that is not written. Throws what `exportGguf` throws before its first write. */
export async function layoutGguf(model: Model, type: ExportRecipe, files: FileLayer = nodeFiles): Promise<GgufLayout> {
  const folder = await ModelFolder.open(model, files);
  try {
    const { config, tensors, header, warnings } = await planGguf(folder, type);
    return {
      config,
      byteLength: header.fileByteLength,
      tensors: tensors.map(({ spec }, at) => ({
        name: spec.name,
        type: spec.type,
        byteLength: header.places[at].byteLength,
      })),
      warnings,
    };
  } finally {
    await folder.close();
  }
}

export interface GgufExportOptions {
  /** One type for all matrices, or a mixture by its name. */
  readonly type: ExportRecipe;
  /** Replace an existing file, if it is a GGUF file. */
  readonly overwrite?: boolean;
  readonly files?: FileLayer;
  /** Aborted, the run stops after the band in hand and leaves nothing. */
  readonly signal?: AbortSignal;
  /** Called before each tensor. */
  readonly onTensor?: (name: string, position: number, total: number) => void;
}

export interface ExportedTensor extends Readonly<ConversionTally> {
  readonly name: string;
  readonly ggufName: string;
  readonly dtype: string;
  readonly type: ExportType;
  /** Vectors (norms, biases, rope factors) are F32 whatever was asked for. */
  readonly isMatrix: boolean;
  /** Why the tensor has another type than the one asked for; undefined where it has that or is no matrix. */
  readonly fallback: string | undefined;
  readonly byteLength: number;
}

export interface GgufExport {
  readonly path: string;
  readonly architecture: string;
  readonly type: ExportRecipe;
  /** Whether every matrix's type keeps zeros zero. */
  readonly holdsExactZeros: boolean;
  readonly byteLength: number;
  readonly tensors: readonly ExportedTensor[];
  /** Tensors of the donor that the file does not hold, and why. */
  readonly leftOut: readonly { readonly name: string; readonly reason: string }[];
  readonly warnings: readonly string[];
}

/** A tensor to write: from the donor, or computed. */
interface PlannedTensor {
  readonly spec: GgufTensorSpec & { readonly type: ExportType };
  readonly source: { readonly located: LocatedTensor; readonly pair: TensorPair } | { readonly values: Float32Array };
  readonly fallback: string | undefined;
}

interface GgufPlan {
  readonly config: ModelConfig;
  readonly tensors: readonly PlannedTensor[];
  readonly header: GgufHeader;
  readonly leftOut: readonly { name: string; reason: string }[];
  readonly warnings: readonly string[];
}

/**
 * Write a model folder as one GGUF file, tensor by tensor in bounded memory.
 *
 * Vectors are F32; matrices have the asked type, or llama.cpp's fallback where its blocks do not divide their rows.
 * The file appears under its name only when it is whole and synced. Throws `USAGE_*` and `DONOR_*` before the first
 * write, except for weights that the type cannot hold.
 */
export async function exportGguf(
  donorPath: string,
  outputPath: string,
  options: GgufExportOptions,
): Promise<GgufExport> {
  const files = options.files ?? nodeFiles;
  const folder = await ModelFolder.open(donorPath, files);
  try {
    const plan = await planGguf(folder, options.type);
    const mayReplace = (path: string) => mayReplaceGguf(path, options.overwrite === true, files);
    const tensors = await writeOutputFile(outputPath, { inputs: [donorPath], mayReplace, files }, async (output) => {
      await requireDiskSpace(outputPath, plan.header.fileByteLength, files);
      await output.write(plan.header.bytes, 0);
      const written: ExportedTensor[] = [];
      const quantiser = new Quantiser();
      for (const [position, tensor] of plan.tensors.entries()) {
        options.onTensor?.(tensor.spec.name, position, plan.tensors.length);
        const { byteOffset, byteLength } = plan.header.places[position];
        const tally = newTally();
        let at = byteOffset;
        for await (const bytes of convertTensor(folder, tensor, plan.config, quantiser, tally)) {
          refuseStopped(options.signal);
          await output.write(bytes, at);
          at += bytes.byteLength;
        }
        if (at !== byteOffset + byteLength) {
          throw new PhysariumError("INTERNAL", `${tensor.spec.name}: wrote ${at - byteOffset} of ${byteLength} bytes`);
        }
        // Padding is written out, so that the last tensor too ends on the alignment.
        const end = plan.header.places[position + 1]?.byteOffset ?? plan.header.fileByteLength;
        if (end > at) await output.write(new Uint8Array(end - at), at);
        written.push(describeTensor(tensor, byteLength, tally));
      }
      return written;
    });
    return {
      path: outputPath,
      architecture: architectureOf(plan.config.modelType),
      type: options.type,
      holdsExactZeros: tensors.every(({ isMatrix, type }) => !isMatrix || TENSOR_TYPES[type].holdsExactZeros),
      byteLength: plan.header.fileByteLength,
      tensors,
      leftOut: plan.leftOut,
      warnings: plan.warnings,
    };
  } finally {
    await folder.close();
  }
}

function describeTensor({ spec, source, fallback }: PlannedTensor, byteLength: number, tally: ConversionTally) {
  const info = "located" in source ? source.located.info : { name: spec.name, dtype: "F32" };
  return {
    name: info.name,
    ggufName: spec.name,
    dtype: info.dtype,
    type: spec.type,
    isMatrix: spec.shape.length > 1,
    fallback,
    byteLength,
    ...tally,
  };
}

async function planGguf(folder: ModelFolder, type: ExportRecipe): Promise<GgufPlan> {
  const configText = await folder.text("config.json");
  if (configText === undefined) {
    throw new PhysariumError("DONOR_CONFIG", `${folder.donor.path}: there is no config.json; GGUF needs its numbers`);
  }
  const said = parseModelConfig(configText, "config.json");
  const head = await tiedHead(folder, said);
  // The file wins: loaders keep a head that differs from the embedding, whatever the configuration says.
  const config = head === "another" ? { ...said, tiedEmbeddings: false } : said;
  const named = [...folder.tensors].map(([name, { info }]) => ({ name, shape: info.shape }));
  refuseImpossibleCounts(ModelFields.parse(configText), named);
  const tokenizer = describeTokenizer(
    {
      tokenizerJson: await folder.text("tokenizer.json"),
      tokenizerConfig: await folder.text("tokenizer_config.json"),
      chatTemplate: await folder.text("chat_template.jinja"),
    },
    config.vocabSize,
  );
  const warnings = [...tokenizer.warnings];
  if (head === "another") {
    warnings.push(`config.json ties the head to the embedding, and the file holds another ${HEAD}: it is written`);
  }
  const hasOwnWindow = ["phi3", "gemma2", "gemma3_text"].includes(config.modelType);
  if (config.slidingWindow !== undefined && !hasOwnWindow) {
    warnings.push(
      `attention windows of ${config.slidingWindow} tokens are not part of llama.cpp's ` +
        `${architectureOf(config.modelType)}: longer contexts see more than the donor does`,
    );
  }

  const metadata = new Map<string, GgufValue>([
    ["general.architecture", { type: "string", value: architectureOf(config.modelType) }],
    ["general.type", { type: "string", value: "model" }],
    ["general.name", { type: "string", value: folder.donor.source.name }],
    ["general.file_type", { type: "u32", value: FILE_TYPE[type] }],
    ["general.quantization_version", { type: "u32", value: 2 }],
    ...describeModel(config),
    ...tokenizer.metadata,
  ]);
  if (
    !metadata.has("tokenizer.ggml.eos_token_id") &&
    config.eosTokenId !== undefined &&
    metadata.has("tokenizer.ggml.tokens")
  )
    metadata.set("tokenizer.ggml.eos_token_id", { type: "u32", value: config.eosTokenId });

  const tensors: PlannedTensor[] = [];
  const { pairs, leftOut } = matchTensors(folder, config);
  const shaped = pairs.map(({ pair }) => ({ name: pair.ggufName, shape: pair.shape }));
  const architecture = architectureOf(config.modelType);
  const types = chooseTypes(type, shaped, { ...config, architecture, expertCount: 0 });
  for (const { pair, located } of pairs) {
    const chosen = types.get(pair.ggufName)!;
    tensors.push({
      spec: { name: pair.ggufName, shape: pair.shape, type: chosen.type },
      source: { located, pair },
      fallback: chosen.fallback,
    });
  }
  if (config.ropeScaling.kind === "llama3") {
    const values = llama3RopeFactors(config.ropeScaling, config.ropeLength, config.ropeTheta);
    const spec = { name: ROPE_FACTORS_TENSOR, shape: [values.length], type: "F32" } as const;
    tensors.splice(1, 0, { spec, source: { values }, fallback: undefined });
  }
  const header = serializeGgufHeader(
    metadata,
    tensors.map(({ spec }) => spec),
  );
  return { config, tensors, header, leftOut, warnings };
}

const HEAD = "lm_head.weight";

/** What the file holds of a head that the configuration ties to the embedding. */
async function tiedHead({ donor, tensors }: ModelFolder, config: ModelConfig): Promise<"none" | "a copy" | "another"> {
  if (!config.tiedEmbeddings || !tensors.has(HEAD)) return "none";
  return (await isSameTensor(donor, HEAD, "model.embed_tokens.weight")) ? "a copy" : "another";
}

/** Find every tensor of the layout in the donor and account for every tensor of the donor. */
function matchTensors(folder: ModelFolder, config: ModelConfig) {
  const pairs: { pair: TensorPair; located: LocatedTensor }[] = [];
  const leftOut: { name: string; reason: string }[] = [];
  const used = new Set<string>();
  for (const pair of layoutTensors(config)) {
    const located = folder.tensors.get(pair.name);
    if (located === undefined) {
      if (pair.optional) continue;
      throw new PhysariumError(
        "DONOR_EXPORT_TENSOR",
        `tensor "${pair.name}" is missing; a ${config.modelType} model of ${config.layerCount} layers has it`,
        { tensor: pair.name },
      );
    }
    used.add(pair.name);
    const { info, shard } = located;
    if (pair.name === HEAD && config.tiedEmbeddings) {
      leftOut.push({ name: pair.name, reason: "an equal copy of the embedding, to which the output head is tied" });
      continue;
    }
    if (info.shape.join() !== pair.shape.join()) {
      throw new PhysariumError(
        "DONOR_EXPORT_SHAPE",
        `${shard}: tensor "${pair.name}" is [${info.shape.join(", ")}], config.json makes it ` +
          `[${pair.shape.join(", ")}]; they do not belong together`,
        { tensor: pair.name, shape: info.shape, expected: pair.shape },
      );
    }
    if (!isFloatDtype(info.dtype)) {
      throw new PhysariumError(
        "DONOR_EXPORT_DTYPE",
        `${shard}: tensor "${pair.name}" is ${info.dtype}, expected BF16, F16 or F32`,
        { tensor: pair.name, dtype: info.dtype },
      );
    }
    pairs.push({ pair, located });
  }
  for (const name of folder.tensors.keys()) {
    if (used.has(name)) continue;
    if (name.endsWith(".rotary_emb.inv_freq")) {
      leftOut.push({ name, reason: "follows from rope_theta" });
      continue;
    }
    throw new PhysariumError(
      "DONOR_EXPORT_TENSOR",
      `tensor "${name}" has no place in llama.cpp's ${architectureOf(config.modelType)} architecture; leaving it ` +
        "out would change the model",
      { tensor: name },
    );
  }
  return { pairs, leftOut };
}

/** The bands of one tensor, converted, in the order of the file. */
async function* convertTensor(
  folder: ModelFolder,
  tensor: PlannedTensor,
  config: ModelConfig,
  quantiser: Quantiser,
  tally: ConversionTally,
): AsyncGenerator<Uint8Array> {
  const { spec, source } = tensor;
  if ("values" in source) {
    tally.weights += source.values.length;
    yield new Uint8Array(source.values.buffer, source.values.byteOffset, source.values.byteLength);
    return;
  }
  const { located, pair } = source;
  const dtype = located.info.dtype as FloatDtype;
  const width = bytesPerFloat(dtype);
  const total = elementCount(pair.shape);
  const rowLength = pair.shape.length === 1 ? 1 : pair.shape[1];
  const headWeights = config.headLength * rowLength;
  // A permutation stays within a head, so bands of whole heads can be reordered one by one.
  const bandWeights =
    pair.permutedHeads > 0 ? headWeights * Math.max(1, Math.floor(BAND_WEIGHTS / headWeights)) : BAND_WEIGHTS;
  for (let begin = 0; begin < total; begin += bandWeights) {
    const end = Math.min(total, begin + bandWeights);
    let bytes = await folder.read(located, begin * width, end * width);
    if (pair.permutedHeads > 0) bytes = permuteRows(bytes, rowLength * width, config.headLength, true);
    if (pair.plusOne) {
      const sums = decodeFloats(bytes, dtype).map((weight) => weight + 1);
      tally.weights += sums.length;
      yield encodeFloats(sums, "F32");
      continue;
    }
    yield convertBand(bytes, dtype, spec.type, quantiser, tally, pair.name);
  }
}

/** With `--overwrite` a GGUF file gives way; where it may not, what to do. */
async function mayReplaceGguf(path: string, overwrite: boolean, files: FileLayer): Promise<true | string> {
  if (!overwrite) return "use --overwrite";
  return (await isGguf(path, files)) || "it is no GGUF file";
}

async function isGguf(path: string, files: FileLayer): Promise<boolean> {
  const source = await FileSource.open(path, files);
  try {
    if (source.byteLength < 4) return false;
    const bytes = await source.read(0, 4);
    return new DataView(bytes.buffer).getUint32(0, true) === GGUF_MAGIC;
  } finally {
    await source.close();
  }
}
