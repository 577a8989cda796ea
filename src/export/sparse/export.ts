import { join } from "node:path";
import type { DecoderStructure } from "../../checkpoint/decoder-structure.js";
import { elementCount, openDonor, type Shard } from "../../checkpoint/donor.js";
import { type FileLayer, FileSource, nodeFiles, type OpenFile, writeFully } from "../../checkpoint/file-layer.js";
import { classifyTensor } from "../../checkpoint/projections.js";
import { parsePythonJson } from "../../checkpoint/python-json.js";
import { refuseQuantised } from "../../checkpoint/quantised.js";
import { PhysariumError, refuseStopped } from "../../errors.js";
import { copyFile, copyRange } from "../../output/copy.js";
import { nothingKept } from "../../output/nothing-kept.js";
import { StagedFolder } from "../../output/staged-folder.js";
import { bitsPerElement, bytesPerFloat, type FloatDtype } from "../../safetensors/dtypes.js";
import type { TensorInfo } from "../../safetensors/header.js";
import { INDEX_FILE } from "../../safetensors/shard-index.js";
import { type SerializedHeader, serializeHeader, type TensorSpec } from "../../safetensors/writer.js";
import { BAND_WEIGHTS } from "../weight-band.js";
import { bitmaskRowBytes, countSurvivors, moduleOf, packBand } from "./bitmask.js";

export interface SparseExportOptions {
  readonly files?: FileLayer;
  /** Aborted, the run stops after the band in hand and leaves nothing. */
  readonly signal?: AbortSignal;
  /** Called before each tensor of the second pass. */
  readonly onTensor?: (name: string, position: number, total: number) => void;
}

export interface SparseTensor {
  readonly name: string;
  readonly weights: number;
  readonly survivors: number;
  readonly bytesBefore: number;
  readonly bytesAfter: number;
}

export interface SparseExport {
  readonly path: string;
  readonly files: readonly string[];
  /** The projections, compressed or not. */
  readonly tensors: readonly (SparseTensor & { readonly compressed: boolean })[];
  readonly bytesBefore: number;
  readonly bytesAfter: number;
}

interface PlannedWeight extends SparseTensor {
  readonly info: TensorInfo;
  readonly rows: number;
  readonly cols: number;
  readonly rowOffsets: BigInt64Array;
  readonly compressed: boolean;
}

/**
 * Write a model folder in the sparse-bitmask layout of compressed-tensors, shard by shard in bounded memory.
 *
 * Decoder projections that shrink are compressed; everything else keeps its bytes. Two passes: one counts survivors,
 * which the headers need, one writes. Throws `USAGE_*`, `DONOR_*` before the first write. source: see bitmask.ts;
 * config.json as llm-compressor writes it
 */
export async function exportSparse(
  donorPath: string,
  outputPath: string,
  options: SparseExportOptions = {},
): Promise<SparseExport> {
  const files = options.files ?? nodeFiles;
  const donor = await openDonor(donorPath, files);
  refuseQuantised(donor.shards.flatMap((shard) => shard.tensors.map((info) => ({ info, shard: shard.file }))));
  const config = await readConfig(donor.path, files);
  const plans: { shard: Shard; weights: Map<string, PlannedWeight>; header: SerializedHeader }[] = [];
  for (const shard of donor.shards) plans.push(await planShard(donor.path, shard, donor.structure, files));
  const weights = plans.flatMap((plan) => [...plan.weights.values()]);

  const bytesAfter = plans.reduce((sum, { header }) => sum + header.fileByteLength, 0);
  const place = { inputs: [donorPath], output: outputPath, command: "export", neededBytes: bytesAfter, files };
  const folder = await StagedFolder.open(place);
  try {
    const written: string[] = [];
    let position = 0;
    const checkSignal = () => refuseStopped(options.signal);
    for (const { shard, weights: planned, header } of plans) {
      const source = await FileSource.open(join(donor.path, shard.file), files);
      try {
        await folder.write(shard.file, async (file, path) => {
          await writeFully(file, header.bytes, 0, path);
          const placeOf = new Map(header.tensors.map((tensor) => [tensor.name, tensor]));
          for (const info of shard.tensors) {
            refuseStopped(options.signal);
            options.onTensor?.(info.name, position++, donor.tensorCount);
            const weight = planned.get(info.name);
            if (weight?.compressed) await writeWeight(source, weight, placeOf, file, path, checkSignal);
            else {
              const to = placeOf.get(info.name)!.byteOffset;
              await copyRange(source, info.byteOffset, info.byteLength, file, to, path, checkSignal);
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
      await copyFile(join(donor.path, file), join(folder.path, file), files);
      written.push(file);
    }
    await folder.writeText("config.json", `${JSON.stringify({ ...config, ...describe(weights) }, null, 2)}\n`);
    written.push("config.json");
    if (donor.index !== undefined) {
      const entries = plans.flatMap(({ shard, header }) =>
        header.tensors.map(({ name }) => [name, shard.file] as const),
      );
      const totalSize = plans.reduce((sum, { header }) => sum + header.fileByteLength - header.bytes.byteLength, 0);
      const index = { metadata: { total_size: totalSize }, weight_map: Object.fromEntries(entries) };
      await folder.writeText(INDEX_FILE, `${JSON.stringify(index, null, 2)}\n`);
      written.push(INDEX_FILE);
    }
    await folder.commit();
    const bytesBefore = donor.shards.reduce((sum, shard) => sum + shard.byteLength, 0);
    return {
      path: outputPath,
      files: written.sort(),
      tensors: weights.map(
        ({ name, weights: count, survivors, bytesBefore: before, bytesAfter: after, compressed }) => ({
          name,
          weights: count,
          survivors,
          bytesBefore: before,
          bytesAfter: after,
          compressed,
        }),
      ),
      bytesBefore,
      bytesAfter,
    };
  } catch (error) {
    await folder.discard();
    throw nothingKept(error, outputPath);
  }
}

async function readConfig(path: string, files: FileLayer): Promise<Record<string, unknown>> {
  const source = await FileSource.open(join(path, "config.json"), files);
  try {
    const bytes = await source.read(0, Math.min(source.byteLength, 16 << 20));
    const config = parsePythonJson(bytes) as Record<string, unknown>;
    if (config.quantization_config === undefined && config.compression_config === undefined) return config;
  } catch (error) {
    if (error instanceof PhysariumError) throw error;
    throw new PhysariumError("DONOR_CONFIG", `${path}: config.json is not valid JSON`, {}, error);
  } finally {
    await source.close();
  }
  throw new PhysariumError(
    "DONOR_QUANTISED",
    `${path}: config.json describes a quantised or compressed model already; give the plain one`,
  );
}

/** What loaders look for. Projections that stay dense are named, so that no loader expects their parts. */
function describe(weights: readonly PlannedWeight[]) {
  const total = weights.reduce((sum, weight) => sum + weight.weights, 0);
  const survivors = weights.reduce((sum, weight) => sum + weight.survivors, 0);
  const dense = weights.filter((weight) => !weight.compressed).map((weight) => moduleOf(weight.name));
  return {
    quantization_config: {
      quant_method: "compressed-tensors",
      format: "dense",
      quantization_status: "compressed",
      sparsity_config: {
        format: "sparse-bitmask",
        global_sparsity: total === 0 ? 0 : 100 * (1 - survivors / total),
        ignore: ["lm_head", ...dense],
        registry_requires_subclass: false,
        sparsity_structure: "unstructured",
        targets: ["Linear"],
      },
    },
  };
}

async function planShard(path: string, shard: Shard, structure: DecoderStructure, files: FileLayer) {
  const source = await FileSource.open(join(path, shard.file), files);
  try {
    const weights = new Map<string, PlannedWeight>();
    const specs: TensorSpec[] = [];
    for (const info of shard.tensors) {
      const { target } = classifyTensor(info, {}, structure);
      // Loaders look for compressed parts in linear modules: a Conv1D of GPT-2 is none.
      const isMatrix =
        target?.matrixCount === 1 && !target.storedByInput && info.shape.length === 2 && info.name.endsWith(".weight");
      const weight = isMatrix ? await planWeight(source, info) : undefined;
      if (weight !== undefined) weights.set(info.name, weight);
      if (weight?.compressed) specs.push(...partSpecs(weight));
      else specs.push(info);
    }
    // Widest dtype first, as the reference writer orders them: every tensor then starts aligned.
    specs.sort((a, b) => (bitsPerElement(b.dtype) ?? 0) - (bitsPerElement(a.dtype) ?? 0));
    return { shard, weights, header: serializeHeader(specs, shard.metadata) };
  } finally {
    await source.close();
  }
}

function partSpecs({ name, info, rows, cols, survivors }: PlannedWeight): TensorSpec[] {
  const module = moduleOf(name);
  return [
    { name: `${module}.compressed`, dtype: info.dtype, shape: [survivors] },
    { name: `${module}.bitmask`, dtype: "U8", shape: [rows, bitmaskRowBytes(cols)] },
    { name: `${module}.row_offsets`, dtype: "I64", shape: [rows] },
    { name: `${module}.shape`, dtype: "I64", shape: [2] },
  ];
}

async function planWeight(source: FileSource, info: TensorInfo): Promise<PlannedWeight> {
  const [rows, cols] = info.shape;
  const dtype = info.dtype as FloatDtype;
  const rowOffsets = new BigInt64Array(rows);
  let survivors = 0;
  for await (const { bytes, row } of readBands(source, info)) {
    for (const [offset, count] of countSurvivors(bytes, dtype, cols).entries()) {
      rowOffsets[row + offset] = BigInt(survivors);
      survivors += count;
    }
  }
  const bytesAfter = survivors * bytesPerFloat(dtype) + rows * (bitmaskRowBytes(cols) + 8) + 16;
  return {
    name: info.name,
    weights: elementCount(info.shape),
    survivors,
    bytesBefore: info.byteLength,
    bytesAfter,
    info,
    rows,
    cols,
    rowOffsets,
    compressed: bytesAfter < info.byteLength,
  };
}

/** Whole rows of a matrix, some 4 MiB at a time. */
async function* readBands(source: FileSource, info: TensorInfo): AsyncGenerator<{ bytes: Uint8Array; row: number }> {
  const [rows, cols] = info.shape;
  const rowBytes = cols * bytesPerFloat(info.dtype as FloatDtype);
  const bandRows = Math.max(1, Math.floor(BAND_WEIGHTS / cols));
  for (let row = 0; row < rows; row += bandRows) {
    const end = Math.min(rows, row + bandRows);
    yield { bytes: await source.read(info.byteOffset + row * rowBytes, info.byteOffset + end * rowBytes), row };
  }
}

async function writeWeight(
  source: FileSource,
  weight: PlannedWeight,
  placeOf: ReadonlyMap<string, TensorInfo>,
  file: OpenFile,
  path: string,
  checkSignal: () => void,
): Promise<void> {
  const module = moduleOf(weight.name);
  const placeOfPart = (part: string): TensorInfo => placeOf.get(`${module}.${part}`)!;
  const values = placeOfPart("compressed");
  let valuesAt = values.byteOffset;
  let bitmaskAt = placeOfPart("bitmask").byteOffset;
  for await (const { bytes } of readBands(source, weight.info)) {
    checkSignal();
    const band = packBand(bytes, weight.info.dtype as FloatDtype, weight.cols);
    await writeFully(file, band.values, valuesAt, path);
    await writeFully(file, band.bitmask, bitmaskAt, path);
    valuesAt += band.values.byteLength;
    bitmaskAt += band.bitmask.byteLength;
  }
  if (valuesAt !== values.byteOffset + values.byteLength) {
    throw new PhysariumError(
      "DONOR_CHANGED",
      `tensor "${weight.name}": it held ${weight.survivors} survivors when counted and others when written; the ` +
        "donor changed meanwhile",
      { tensor: weight.name },
    );
  }
  const shape = new BigInt64Array([BigInt(weight.rows), BigInt(weight.cols)]);
  await writeFully(file, new Uint8Array(weight.rowOffsets.buffer), placeOfPart("row_offsets").byteOffset, path);
  await writeFully(file, new Uint8Array(shape.buffer), placeOfPart("shape").byteOffset, path);
}
