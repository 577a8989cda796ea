import { PhysariumError } from "../errors.js";
import { readHeader, type TensorInfo } from "../safetensors/header.js";
import { INDEX_FILE, parseShardIndex, type ShardIndex } from "../safetensors/shard-index.js";
import { type ConfigFacts, configFacts, DecoderStructure, NO_FACTS } from "./decoder-structure.js";
import { type FileLayer, nodeFiles } from "./file-layer.js";
import { sourceOf } from "./folder-source.js";
import { chooseLayout, type Layout, mayBePointer, refusePointer } from "./layout.js";
import { modelFolder } from "./model-path.js";
import { type ModelSource, readWhole } from "./model-source.js";
import { parsePythonJson } from "./python-json.js";

/** A safetensors file of a model with its header, read and checked; its weights are not in memory. */
export interface Shard {
  readonly file: string;
  readonly byteLength: number;
  /** Modification time in nanoseconds: a donor that changes during the run is an error. */
  readonly modifiedNs: bigint;
  /** Bytes before the data section, carried over verbatim. */
  readonly dataByteOffset: number;
  readonly metadata: ReadonlyMap<string, string>;
  /** In the order of their data. */
  readonly tensors: readonly TensorInfo[];
}

/** A file beside a model's weights (configuration, tokenizer, licence); lengths in bytes. */
export interface SideFile {
  readonly file: string;
  readonly byteLength: number;
  readonly modifiedNs: bigint;
}

/** A model as the public API takes it: the path of a folder, a source, or one that is open already. */
export type Model = string | ModelSource | Donor;

export interface LeftOut {
  readonly file: string;
  readonly reason: string;
}

/** A model, opened for reading: everything about it except the weights themselves, and where to read those. */
export interface Donor {
  readonly source: ModelSource;
  /** Where it is, for messages and records. */
  readonly path: string;
  /** The index as parsed; absent for a single file. */
  readonly index: ShardIndex | undefined;
  /** Sorted by file name, the order of the run. */
  readonly shards: readonly Shard[];
  /** Copied byte for byte, the index among them. */
  readonly sideFiles: readonly SideFile[];
  readonly leftOut: readonly LeftOut[];
  /** What is to be said of the folder before anything is read of it. */
  readonly warnings: Layout["warnings"];
  /** What names, shapes and config.json say of the decoder as a whole. */
  readonly structure: DecoderStructure;
  readonly tensorCount: number;
  /** Bytes of all tensors. */
  readonly totalSize: number;
  /** Elements of all tensors. */
  readonly modelWeights: number;
}

/** All headers of a donor together stay under this: it bounds the memory of everything that follows. */
export const MAX_TOTAL_HEADER_BYTES = 256_000_000;

/** Headers read at once: enough to hide latency, few enough that file handles stay bounded with hundreds of shards. */
const HEADERS_IN_FLIGHT = { folder: 8, wire: 4 };

/** Lies in a folder that `physarium pack` made; its safetensors files hold coded bytes, no weights. */
export const PACK_MANIFEST_FILE = "physarium-pack.json";

/** Weights in formats that would be the unoperated donor. */
const WEIGHT_FILE = /\.(safetensors|bin|pth?|ckpt|gguf|ggml|h5|msgpack|onnx|onnx_data|npz|tflite|mlmodel|ot)$/i;

/**
 * Open a Hugging Face model: its index or single file, all headers, side files and what is left out.
 *
 * model  a source, or the path of a folder, which is read through `files`; a donor that is open already comes back as
 *        it is
 *
 * Nothing is written. Throws `DONOR_*` for what is wrong with the model and `IO_*` for what the system refuses.
 */
export async function openDonor(model: Model, files: FileLayer = nodeFiles): Promise<Donor> {
  // A source may have shards of its own; only a donor has their structure.
  if (typeof model === "object" && "structure" in model) return model;
  const source = sourceOf(typeof model === "string" ? await modelFolder(model, files) : model, files);
  const path = source.place;
  const entries = await source.list();
  const present = new Set(entries.filter((entry) => entry.kind === "file").map((entry) => entry.name));
  if (present.has(PACK_MANIFEST_FILE)) {
    throw new PhysariumError(
      "DONOR_PACKED",
      `${path}: this is a packed model (${PACK_MANIFEST_FILE}); run physarium unpack and use the folder it writes`,
      { path },
    );
  }
  const read = (file: string) => readWhole(source, file);
  for (const { name, kind, byteLength } of entries) {
    // git leaves pointers in folders; elsewhere a look at every small file is a request of its own.
    if (source.localPath === undefined) break;
    if (kind === "file" && mayBePointer(byteLength)) refusePointer(await read(name), path, name);
  }
  const readIndex = async () => parseShardIndex(await read(INDEX_FILE), INDEX_FILE);
  const layout = await chooseLayout({ path, present, read, readIndex });
  const { index, shardFiles } = layout;
  const shards = await readShards(source, shardFiles);
  if (index !== undefined) checkIndexAgainstHeaders(index, shards);

  const sideFiles: SideFile[] = [];
  const leftOut: LeftOut[] = [];
  const isShard = new Set(shardFiles);
  for (const entry of entries) {
    if (isShard.has(entry.name)) continue;
    const other = layout.leftOut.get(entry.name);
    if (other !== undefined) leftOut.push({ file: entry.name, reason: other });
    else if (entry.kind === "folder") leftOut.push({ file: `${entry.name}/`, reason: "a sub-folder" });
    else if (entry.name.toLowerCase() === "physarium")
      leftOut.push({ file: entry.name, reason: "the output keeps its records in a folder of that name" });
    else if (WEIGHT_FILE.test(entry.name))
      leftOut.push({ file: entry.name, reason: "weights outside the index: they would be the unoperated donor" });
    else sideFiles.push({ file: entry.name, byteLength: entry.byteLength, modifiedNs: entry.modifiedNs });
  }

  const facts = present.has(CONFIG_FILE) ? parseFacts(await readWhole(source, CONFIG_FILE)) : NO_FACTS;
  const structure = structureOf(shards, facts);
  let tensorCount = 0;
  let totalSize = 0;
  let modelWeights = 0;
  for (const shard of shards) {
    tensorCount += shard.tensors.length;
    totalSize += shard.byteLength - shard.dataByteOffset;
    for (const tensor of shard.tensors) modelWeights += elementCount(tensor.shape);
  }
  return {
    source,
    path,
    index,
    shards,
    sideFiles,
    leftOut,
    warnings: layout.warnings,
    structure,
    tensorCount,
    totalSize,
    modelWeights,
  };
}

const CONFIG_FILE = "config.json";

/** A configuration that cannot be read is no hindrance here: those who need it refuse it. */
export function parseFacts(config: Uint8Array): ConfigFacts {
  try {
    return configFacts(parsePythonJson(config));
  } catch {
    return NO_FACTS;
  }
}

export function structureOf(shards: readonly Shard[], facts: ConfigFacts): DecoderStructure {
  function* tensors() {
    for (const shard of shards) yield* shard.tensors;
  }
  return new DecoderStructure(tensors(), facts);
}

export function elementCount(shape: readonly number[]): number {
  return shape.reduce((product, dimension) => product * dimension, 1);
}

async function readShards(source: ModelSource, shardFiles: readonly string[]): Promise<Shard[]> {
  const shards: Shard[] = new Array(shardFiles.length);
  let next = 0;
  let headerBytes = 0;
  const reserve = (byteLength: number): void => {
    headerBytes += byteLength;
    if (headerBytes <= MAX_TOTAL_HEADER_BYTES) return;
    throw new PhysariumError(
      "DONOR_HEADERS_TOO_LARGE",
      `${source.place}: the headers of its ${shardFiles.length} shards take over ${MAX_TOTAL_HEADER_BYTES} bytes; ` +
        "that is more than Physarium keeps in memory",
      { path: source.place },
    );
  };
  const readNext = async (): Promise<void> => {
    while (next < shardFiles.length) {
      const position = next++;
      const file = shardFiles[position];
      const opened = await source.open(file);
      try {
        const header = await readHeader(opened, file, reserve);
        shards[position] = { file, byteLength: opened.byteLength, modifiedNs: opened.modifiedNs, ...header };
      } finally {
        await opened.close();
      }
    }
  };
  const atOnce = HEADERS_IN_FLIGHT[source.localPath === undefined ? "wire" : "folder"];
  await Promise.all(Array.from({ length: Math.min(atOnce, shardFiles.length) }, readNext));
  return shards;
}

/** The index and the headers must tell the same story: every tensor once, in the shard the index names. */
function checkIndexAgainstHeaders(index: ShardIndex, shards: readonly Shard[]): void {
  const shardOf = new Map<string, string>();
  for (const shard of shards) {
    for (const { name } of shard.tensors) {
      const other = shardOf.get(name);
      if (other !== undefined) {
        throw new PhysariumError(
          "DONOR_TENSOR_TWICE",
          `tensor "${name}" stands in ${other} and in ${shard.file}; a loader would take either`,
          {
            tensor: name,
            shards: [other, shard.file],
          },
        );
      }
      shardOf.set(name, shard.file);
      const expected = index.weightMap.get(name);
      if (expected !== shard.file) {
        const said = expected === undefined ? "does not list it" : `puts it in ${expected}`;
        throw new PhysariumError(
          "DONOR_INDEX_MISMATCH",
          `${shard.file}: tensor "${name}" stands there, but ${INDEX_FILE} ${said}; files of two models may be mixed`,
          {
            tensor: name,
            shard: shard.file,
          },
        );
      }
    }
  }
  for (const [name, file] of index.weightMap) {
    if (!shardOf.has(name)) {
      throw new PhysariumError(
        "DONOR_INDEX_MISMATCH",
        `${INDEX_FILE}: tensor "${name}" should stand in ${file}, but that shard does not hold it; download the ` +
          "shard again",
        {
          tensor: name,
          shard: file,
        },
      );
    }
  }
}
