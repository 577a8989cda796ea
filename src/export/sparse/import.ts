import { join } from "node:path";
import { openDonor, type Shard } from "../../checkpoint/donor.js";
import {
  type FileLayer,
  FileSource,
  nodeFiles,
  type OpenFile,
  readSmallFile,
  writeFully,
} from "../../checkpoint/file-layer.js";
import { parsePythonJson } from "../../checkpoint/python-json.js";
import { PhysariumError, refuseStopped } from "../../errors.js";
import { copyFile, copyRange } from "../../output/copy.js";
import { nothingKept } from "../../output/nothing-kept.js";
import { StagedFolder } from "../../output/staged-folder.js";
import { bytesPerFloat, type FloatDtype, isFloatDtype } from "../../safetensors/dtypes.js";
import type { TensorInfo } from "../../safetensors/header.js";
import { INDEX_FILE } from "../../safetensors/shard-index.js";
import { serializeHeader, type TensorSpec } from "../../safetensors/writer.js";
import { BAND_WEIGHTS } from "../weight-band.js";
import { bitmaskRowBytes, countBits, PART_NAMES, type PartName, unpackBand } from "./bitmask.js";

export interface SparseImportOptions {
  readonly files?: FileLayer;
  /** Aborted, the run stops after the band in hand and leaves nothing. */
  readonly signal?: AbortSignal;
  readonly onTensor?: (name: string, position: number, total: number) => void;
}

export interface SparseImport {
  readonly path: string;
  readonly files: readonly string[];
  /** Names of the weights that were put back together. */
  readonly decompressed: readonly string[];
}

interface CompressedWeight {
  readonly name: string;
  readonly dtype: FloatDtype;
  readonly rows: number;
  readonly cols: number;
  readonly parts: Readonly<Record<PartName, TensorInfo>>;
}

/**
 * Write a sparse-bitmask folder of compressed-tensors as a plain one: dense weights, `quantization_config` taken out of
 * config.json.
 *
 * Every count is checked: bits against row offsets, their sum against the survivors stored. Throws `DONOR_SPARSE_*`.
 */
export async function importSparse(
  inputPath: string,
  outputPath: string,
  options: SparseImportOptions = {},
): Promise<SparseImport> {
  const files = options.files ?? nodeFiles;
  const donor = await openDonor(inputPath, files);
  const config = await readSparseConfig(inputPath, files);
  const plans: { shard: Shard; weights: CompressedWeight[]; others: TensorInfo[] }[] = [];
  for (const shard of donor.shards) plans.push(await planShard(inputPath, shard, files));

  const shards = plans.map(({ shard, weights, others }) => {
    const dense = weights.map(({ name, dtype, rows, cols }): TensorSpec => ({ name, dtype, shape: [rows, cols] }));
    return { shard, weights, others, header: serializeHeader([...others, ...dense], shard.metadata) };
  });
  const neededBytes = shards.reduce((sum, { header }) => sum + header.fileByteLength, 0);
  const place = { inputs: [inputPath], output: outputPath, command: "import", neededBytes, files };
  const checkSignal = () => refuseStopped(options.signal);
  const folder = await StagedFolder.open(place);
  try {
    const written: string[] = [];
    const weightMap: [string, string][] = [];
    let totalSize = 0;
    let position = 0;
    for (const { shard, weights, others, header } of shards) {
      totalSize += header.fileByteLength - header.bytes.byteLength;
      const source = await FileSource.open(join(inputPath, shard.file), files);
      try {
        await folder.write(shard.file, async (file, path) => {
          await writeFully(file, header.bytes, 0, path);
          for (const [index, place] of header.tensors.entries()) {
            checkSignal();
            options.onTensor?.(place.name, position++, donor.tensorCount);
            weightMap.push([place.name, shard.file]);
            const other = others[index];
            if (other !== undefined) {
              await copyRange(source, other.byteOffset, other.byteLength, file, place.byteOffset, path, checkSignal);
            } else {
              await writeDense(source, weights[index - others.length], file, place.byteOffset, path, checkSignal);
            }
          }
        });
      } finally {
        await source.close();
      }
      written.push(shard.file);
    }
    for (const { file } of donor.sideFiles) {
      if (file === INDEX_FILE || file === "config.json") continue;
      await copyFile(join(inputPath, file), join(folder.path, file), files);
      written.push(file);
    }
    await folder.writeText("config.json", `${JSON.stringify(config, null, 2)}\n`);
    written.push("config.json");
    if (donor.index !== undefined) {
      const index = { metadata: { total_size: totalSize }, weight_map: Object.fromEntries(weightMap) };
      await folder.writeText(INDEX_FILE, `${JSON.stringify(index, null, 2)}\n`);
      written.push(INDEX_FILE);
    }
    await folder.commit();
    return {
      path: outputPath,
      files: written.sort(),
      decompressed: plans.flatMap(({ weights }) => weights.map(({ name }) => name)),
    };
  } catch (error) {
    await folder.discard();
    throw nothingKept(error, outputPath);
  }
}

/** config.json without its description of the compression, which must be sparse-bitmask and nothing else. */
async function readSparseConfig(path: string, files: FileLayer): Promise<Record<string, unknown>> {
  const text = new TextDecoder().decode(await readSmallFile(join(path, "config.json"), files));
  let config: Record<string, unknown>;
  try {
    config = parsePythonJson(text) as typeof config;
  } catch (error) {
    throw new PhysariumError("DONOR_CONFIG", `${path}: config.json is not valid JSON`, {}, error);
  }
  const { quantization_config: quantization, ...rest } = config;
  const described = quantization as { sparsity_config?: { format?: string }; config_groups?: object } | undefined;
  const format = described?.sparsity_config?.format;
  const isQuantised = Object.keys(described?.config_groups ?? {}).length > 0;
  if (format !== "sparse-bitmask" || isQuantised) {
    throw new PhysariumError(
      "DONOR_SPARSE_FORMAT",
      `${path}: config.json describes ` +
        `${isQuantised ? "a quantised model" : `sparsity format ${JSON.stringify(format ?? null)}`}, expected ` +
        `"sparse-bitmask" alone`,
      { format },
    );
  }
  return rest;
}

async function planShard(path: string, shard: Shard, files: FileLayer) {
  const source = await FileSource.open(join(path, shard.file), files);
  try {
    const byName = new Map(shard.tensors.map((info) => [info.name, info]));
    const weights: CompressedWeight[] = [];
    for (const info of shard.tensors) {
      if (!info.name.endsWith(".bitmask")) continue;
      const module = info.name.slice(0, -".bitmask".length);
      weights.push(await planWeight(source, module, byName, shard.file));
      for (const part of PART_NAMES) byName.delete(`${module}.${part}`);
    }
    const others = shard.tensors.filter((info) => byName.has(info.name));
    return { shard, weights, others };
  } finally {
    await source.close();
  }
}

async function planWeight(
  source: FileSource,
  module: string,
  byName: ReadonlyMap<string, TensorInfo>,
  file: string,
): Promise<CompressedWeight> {
  const part = (name: PartName, dtype?: string): TensorInfo => {
    const info = byName.get(`${module}.${name}`);
    if (info === undefined || (dtype !== undefined && info.dtype !== dtype)) {
      const found = info === undefined ? "is missing" : `is ${info.dtype}, expected ${dtype}`;
      throw damaged(file, `${module}.${name}`, found);
    }
    return info;
  };
  const parts = {
    compressed: part("compressed"),
    bitmask: part("bitmask", "U8"),
    row_offsets: part("row_offsets", "I64"),
    shape: part("shape", "I64"),
  };
  const { dtype } = parts.compressed;
  if (!isFloatDtype(dtype)) throw damaged(file, parts.compressed.name, `is ${dtype}, expected BF16, F16 or F32`);
  if (parts.shape.byteLength !== 16) throw damaged(file, parts.shape.name, "does not hold two numbers");
  const [rows, cols] = [...(await readInt64(source, parts.shape, 0, 2))].map(Number);
  const isPossible = [rows, cols].every((each) => Number.isSafeInteger(each) && each > 0);
  const bitmaskShape = [rows, isPossible ? bitmaskRowBytes(cols) : 0].join();
  if (!isPossible || parts.bitmask.shape.join() !== bitmaskShape || parts.row_offsets.shape.join() !== `${rows}`) {
    throw damaged(
      file,
      parts.shape.name,
      `says [${rows}, ${cols}], but the bitmask is [${parts.bitmask.shape.join(", ")}] and the row offsets ` +
        `[${parts.row_offsets.shape.join(", ")}]`,
    );
  }
  return { name: `${module}.weight`, dtype, rows, cols, parts };
}

async function readInt64(source: FileSource, info: TensorInfo, from: number, to: number): Promise<BigInt64Array> {
  const bytes = await source.read(info.byteOffset + from * 8, info.byteOffset + to * 8);
  return new BigInt64Array(bytes.buffer, bytes.byteOffset, to - from);
}

/** Put one weight back together, band by band; every count is checked before it is used. */
async function writeDense(
  source: FileSource,
  weight: CompressedWeight,
  file: OpenFile,
  byteOffset: number,
  path: string,
  checkSignal: () => void,
): Promise<void> {
  const { name, dtype, rows, cols, parts } = weight;
  const width = bytesPerFloat(dtype);
  const rowBytes = bitmaskRowBytes(cols);
  const stored = parts.compressed.byteLength / width;
  const bandRows = Math.max(1, Math.floor(BAND_WEIGHTS / cols));
  let survivors = 0;
  for (let row = 0; row < rows; row += bandRows) {
    checkSignal();
    const end = Math.min(rows, row + bandRows);
    const maskAt = parts.bitmask.byteOffset;
    const bitmask = await source.read(maskAt + row * rowBytes, maskAt + end * rowBytes);
    const offsets = await readInt64(source, parts.row_offsets, row, end);
    const first = survivors;
    for (const [index, count] of countBits(bitmask, cols, name).entries()) {
      if (offsets[index] !== BigInt(survivors)) {
        throw damaged(
          path,
          parts.row_offsets.name,
          `row ${row + index} says ${offsets[index]}, the bits say ${survivors}`,
        );
      }
      survivors += count;
    }
    if (survivors > stored)
      throw damaged(path, parts.compressed.name, `holds ${stored} weights, the bits announce more`);
    const valuesAt = parts.compressed.byteOffset;
    const values = await source.read(valuesAt + first * width, valuesAt + survivors * width);
    await writeFully(file, unpackBand({ values, bitmask }, dtype, cols), byteOffset + row * cols * width, path);
  }
  if (survivors !== stored) {
    throw damaged(path, parts.compressed.name, `holds ${stored} weights, the bits announce ${survivors}`);
  }
}

function damaged(file: string, tensor: string, what: string): PhysariumError {
  return new PhysariumError("DONOR_SPARSE_TENSOR", `${file}: tensor "${tensor}" ${what}; the file is damaged`, {
    tensor,
  });
}
