import { basename } from "node:path";
import { elementCount } from "../../checkpoint/donor.js";
import { attempt, type FileLayer, FileSource, nodeFiles, writeFully } from "../../checkpoint/file-layer.js";
import { PhysariumError, refuseStopped } from "../../errors.js";
import { nothingKept } from "../../output/nothing-kept.js";
import { StagedFolder } from "../../output/staged-folder.js";
import type { FloatDtype } from "../../safetensors/dtypes.js";
import { decodeFloats, encodeFloats } from "../../safetensors/float-bits.js";
import type { ByteSource } from "../../safetensors/source.js";
import { serializeHeader } from "../../safetensors/writer.js";
import { dequantise } from "../dequantise.js";
import { type ModelConfig, parseModelConfig } from "../model-config.js";
import { BAND_WEIGHTS } from "../weight-band.js";
import { rebuildConfig } from "./config-rebuild.js";
import { layoutTensors, permuteRows, ROPE_FACTORS_TENSOR, type TensorPair } from "./layout.js";
import { type GgufFile, type GgufTensorInfo, readGguf } from "./reader.js";
import { type RebuiltTokenizer, rebuildTokenizer } from "./tokenizer-rebuild.js";
import { TENSOR_TYPES, type TensorType } from "./types.js";

export interface GgufImportOptions {
  /** The dtype of every tensor of the new folder; BF16 where not given. */
  readonly dtype?: FloatDtype;
  readonly files?: FileLayer;
  /** Aborted, the run stops after the band in hand and leaves nothing. */
  readonly signal?: AbortSignal;
  /** Called before each tensor. */
  readonly onTensor?: (name: string, position: number, total: number) => void;
}

export interface ImportedTensor {
  readonly name: string;
  readonly ggufName: string;
  readonly type: TensorType;
  readonly weights: number;
  readonly zeros: number;
  /** Weights that the dtype could not hold exactly. */
  readonly rounded: number;
}

export interface GgufImport {
  readonly path: string;
  readonly modelType: string;
  readonly dtype: FloatDtype;
  readonly files: readonly string[];
  readonly tensors: readonly ImportedTensor[];
  readonly warnings: readonly string[];
}

/** Everything decided before the first write. */
export interface ImportPlan {
  readonly config: ModelConfig;
  readonly configJson: Readonly<Record<string, unknown>>;
  readonly tokenizer: RebuiltTokenizer;
  readonly pairs: readonly { readonly pair: TensorPair; readonly info: GgufTensorInfo }[];
}

const WEIGHTS_FILE = "model.safetensors";

/**
 * Write a GGUF file as a model folder: config.json, tokenizer and model.safetensors, tensor by tensor in bounded
 * memory.
 *
 * The folder appears under its name only when it is whole and synced. Throws `DONOR_GGUF_*` for what is wrong with the
 * file, `DONOR_NON_FINITE` and `DONOR_IMPORT_RANGE` for weights no donor should have.
 */
export async function importGguf(
  ggufPath: string,
  outputPath: string,
  options: GgufImportOptions = {},
): Promise<GgufImport> {
  const files = options.files ?? nodeFiles;
  const dtype = options.dtype ?? "BF16";
  const source = await FileSource.open(ggufPath, files);
  try {
    const name = basename(ggufPath);
    const plan = await planImport(source, name, dtype);
    const header = serializeHeader(
      plan.pairs.map(({ pair }) => ({ name: pair.name, dtype, shape: pair.shape })),
      new Map([["format", "pt"]]),
    );
    const neededBytes = header.fileByteLength;
    const place = { inputs: [ggufPath], output: outputPath, command: "import", neededBytes, files };
    const folder = await StagedFolder.open(place);
    try {
      const tensors: ImportedTensor[] = [];
      await folder.write(WEIGHTS_FILE, async (file, path) => {
        await writeFully(file, header.bytes, 0, path);
        for (const [position, { pair, info }] of plan.pairs.entries()) {
          options.onTensor?.(pair.name, position, plan.pairs.length);
          let at = header.tensors[position].byteOffset;
          const tally = { zeros: 0, rounded: 0 };
          for await (const weights of readWeights(source, info, pair, plan.config.headLength)) {
            refuseStopped(options.signal);
            const bytes = narrow(weights, dtype, pair.name, tally);
            await writeFully(file, bytes, at, path);
            at += bytes.byteLength;
          }
          const weights = elementCount(pair.shape);
          tensors.push({ name: pair.name, ggufName: info.name, type: info.type, weights, ...tally });
        }
      });
      const written = [WEIGHTS_FILE, ...(await writeSideFiles(folder, plan))];
      await folder.commit();
      const { modelType } = plan.config;
      return { path: outputPath, modelType, dtype, files: written, tensors, warnings: plan.tokenizer.warnings };
    } catch (error) {
      await folder.discard();
      throw nothingKept(error, outputPath);
    }
  } finally {
    await attempt("closing", ggufPath, () => source.close());
  }
}

/** Read a GGUF file's header and decide what each tensor becomes. Writes nothing; throws `DONOR_GGUF_*`. */
export async function planImport(source: ByteSource, name: string, dtype: FloatDtype): Promise<ImportPlan> {
  const file = await readGguf(source, name);
  const configJson = rebuildConfig(file, await readRopeFactors(source, file), TORCH_DTYPE[dtype], name);
  const config = parseModelConfig(JSON.stringify(configJson), `${name}: config`);
  refuseAbsurdLayers(config, file, name);
  const byName = new Map(file.tensors.map((tensor) => [tensor.name, tensor]));
  const pairs: { pair: TensorPair; info: GgufTensorInfo }[] = [];
  for (const pair of layoutTensors(config)) {
    const info = byName.get(pair.ggufName);
    if (info === undefined) {
      if (pair.optional) continue;
      throw wrongTensor(name, pair.ggufName, "is missing");
    }
    byName.delete(pair.ggufName);
    if (info.shape.join() !== pair.shape.join()) {
      throw wrongTensor(
        name,
        pair.ggufName,
        `is [${info.shape.join(", ")}], its metadata makes it [${pair.shape.join(", ")}]`,
      );
    }
    if (pair.shape.length === 1 && TENSOR_TYPES[info.type].blockLength > 1) {
      throw wrongTensor(name, pair.ggufName, `is a vector of ${info.type}, expected F32, F16 or BF16`);
    }
    pairs.push({ pair, info });
  }
  byName.delete(ROPE_FACTORS_TENSOR);
  for (const extra of byName.keys()) throw wrongTensor(name, extra, `has no place in a ${config.modelType} model`);
  return { config, configJson, tokenizer: rebuildTokenizer(file.metadata), pairs };
}

const TORCH_DTYPE: Readonly<Record<FloatDtype, string>> = { BF16: "bfloat16", F16: "float16", F32: "float32" };

/** A hostile layer count would make a layout larger than memory: each layer has more tensors than one. */
function refuseAbsurdLayers(config: ModelConfig, file: GgufFile, name: string): void {
  if (config.layerCount <= file.tensors.length) return;
  throw new PhysariumError(
    "DONOR_GGUF_METADATA",
    `${name}: ${config.layerCount} layers announced, but only ${file.tensors.length} tensors are there`,
  );
}

async function readRopeFactors(source: ByteSource, file: GgufFile): Promise<Float32Array | undefined> {
  const info = file.tensors.find((tensor) => tensor.name === ROPE_FACTORS_TENSOR);
  // No head has more channels than this; a larger tensor is hostile and no factor list.
  if (info === undefined || info.type !== "F32" || elementCount(info.shape) > 65_536) return undefined;
  const bytes = await source.read(info.byteOffset, info.byteOffset + info.byteLength);
  return dequantise("F32", bytes.slice());
}

/** The weights of one tensor as F32, band by band, rows in the order of Hugging Face. */
async function* readWeights(
  source: ByteSource,
  info: GgufTensorInfo,
  pair: TensorPair,
  headLength: number,
): AsyncGenerator<Float32Array> {
  const { blockLength, blockBytes } = TENSOR_TYPES[info.type];
  const total = elementCount(pair.shape);
  const rowLength = pair.shape.length === 1 ? 1 : pair.shape[1];
  const headWeights = headLength * rowLength;
  const bandWeights =
    pair.permutedHeads > 0 ? headWeights * Math.max(1, Math.floor(BAND_WEIGHTS / headWeights)) : BAND_WEIGHTS;
  for (let begin = 0; begin < total; begin += bandWeights) {
    const end = Math.min(total, begin + bandWeights);
    const from = info.byteOffset + (begin / blockLength) * blockBytes;
    const to = info.byteOffset + (end / blockLength) * blockBytes;
    const weights = dequantise(info.type, await source.read(from, to));
    if (pair.permutedHeads === 0) {
      yield pair.plusOne ? weights.map((weight) => weight - 1) : weights;
      continue;
    }
    const bytes = new Uint8Array(weights.buffer, weights.byteOffset, weights.byteLength);
    yield new Float32Array(permuteRows(bytes, rowLength * 4, headLength, false).buffer);
  }
}

/** Round F32 weights to the folder's dtype and count what that changed. */
function narrow(
  weights: Float32Array,
  dtype: FloatDtype,
  tensor: string,
  tally: { zeros: number; rounded: number },
): Uint8Array {
  const bytes = encodeFloats(weights, dtype);
  const stored = decodeFloats(bytes, dtype);
  const limit = Number.POSITIVE_INFINITY;
  for (let i = 0; i < weights.length; i++) {
    if (!(Math.abs(weights[i]) < limit)) {
      throw new PhysariumError(
        "DONOR_NON_FINITE",
        `tensor "${tensor}": holds ${weights[i]}; the file is damaged or the model diverged`,
        { tensor },
      );
    }
    if (!(Math.abs(stored[i]) < limit)) {
      throw new PhysariumError(
        "DONOR_IMPORT_RANGE",
        `tensor "${tensor}": holds ${weights[i]}, too large for ${dtype}; import with --dtype f32`,
        { tensor },
      );
    }
    if (stored[i] === 0) tally.zeros++;
    if (stored[i] !== weights[i]) tally.rounded++;
  }
  return bytes;
}

async function writeSideFiles(folder: StagedFolder, plan: ImportPlan): Promise<string[]> {
  const { tokenizerJson, tokenizerConfig } = plan.tokenizer;
  const written: string[] = ["config.json"];
  await folder.writeText("config.json", `${JSON.stringify(plan.configJson, null, 2)}\n`);
  if (tokenizerJson !== undefined) {
    await folder.writeText("tokenizer.json", tokenizerJson);
    const config = { ...tokenizerConfig, model_max_length: plan.config.contextLength };
    await folder.writeText("tokenizer_config.json", `${JSON.stringify(config, null, 2)}\n`);
    written.push("tokenizer.json", "tokenizer_config.json");
  }
  return written;
}

function wrongTensor(file: string, tensor: string, what: string): PhysariumError {
  return new PhysariumError("DONOR_GGUF_TENSOR", `${file}: tensor "${tensor.slice(0, 120)}" ${what}`, { file, tensor });
}
