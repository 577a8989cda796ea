import { tensorByteLength } from "../safetensors/header.js";
import type { TensorSpec } from "../safetensors/writer.js";

export interface ShardLayout {
  readonly file: string;
  /** In the order of their data. */
  readonly tensors: readonly TensorSpec[];
}

/**
 * Shards of at most 5 GB. source: huggingface_hub `split_torch_state_dict_into_shards`, `MAX_SHARD_SIZE = "5GB"` (10^9
 * bytes each)
 */
const MAX_SHARD_BYTES = 5_000_000_000;

/** As Hugging Face writes a model: filled one behind the other up to 5 GB, a larger tensor in a shard of its own. */
export function splitBySize(tensors: readonly TensorSpec[], maxShardBytes = MAX_SHARD_BYTES): ShardLayout[] {
  const shards: TensorSpec[][] = [];
  let bytes = Number.POSITIVE_INFINITY;
  for (const tensor of tensors) {
    const byteLength = byteLengthOf(tensor);
    if (bytes + byteLength > maxShardBytes) {
      shards.push([]);
      bytes = 0;
    }
    shards[shards.length - 1].push(tensor);
    bytes += byteLength;
  }
  return named(shards);
}

/**
 * `count` shards of about equal size (fewer where there are too few tensors): a shrunken model keeps the number of
 * files of the real one.
 */
export function splitByCount(tensors: readonly TensorSpec[], count: number): ShardLayout[] {
  const total = tensors.reduce((sum, tensor) => sum + byteLengthOf(tensor), 0);
  const shards: TensorSpec[][] = Array.from({ length: count }, () => []);
  let before = 0;
  for (const tensor of tensors) {
    const byteLength = byteLengthOf(tensor);
    const middle = before + byteLength / 2;
    shards[Math.min(count - 1, Math.floor((middle / Math.max(total, 1)) * count))].push(tensor);
    before += byteLength;
  }
  return named(shards.filter((shard) => shard.length > 0));
}

/** The shards an index names, each with its tensors; the caller has checked that index and tensors name the same. */
export function splitByIndex(tensors: readonly TensorSpec[], weightMap: ReadonlyMap<string, string>): ShardLayout[] {
  const shards = new Map<string, TensorSpec[]>([...new Set(weightMap.values())].sort().map((file) => [file, []]));
  for (const tensor of tensors) shards.get(weightMap.get(tensor.name) as string)?.push(tensor);
  return [...shards].map(([file, inShard]) => ({ file, tensors: byName(inShard) }));
}

/** The text of a `model.safetensors.index.json` for these shards, laid out as transformers writes it. */
export function indexText(shards: readonly ShardLayout[]): string {
  const entries = shards
    .flatMap(({ file, tensors }) => tensors.map((tensor) => [tensor.name, file] as const))
    .sort(([a], [b]) => compareNames(a, b))
    .map(([name, file]) => `    ${JSON.stringify(name)}: ${JSON.stringify(file)}`);
  return (
    `{\n  "metadata": {\n    "total_size": ${totalBytes(shards)}\n  },\n  "weight_map": {\n${entries.join(",\n")}\n  ` +
    "}\n}\n"
  );
}

export function totalBytes(shards: readonly ShardLayout[]): number {
  return shards.reduce(
    (sum, { tensors }) => sum + tensors.reduce((bytes, tensor) => bytes + byteLengthOf(tensor), 0),
    0,
  );
}

export function byteLengthOf(tensor: TensorSpec): number {
  return tensorByteLength(tensor.dtype, tensor.shape, tensor.name, "new donor");
}

function named(shards: readonly TensorSpec[][]): ShardLayout[] {
  const number = (value: number) => String(value).padStart(5, "0");
  return shards.map((tensors, position) => ({
    file:
      shards.length === 1
        ? "model.safetensors"
        : `model-${number(position + 1)}-of-${number(shards.length)}.safetensors`,
    tensors: byName(tensors),
  }));
}

/** The reference writer lays tensors of one dtype by name (`prepare` in tensor.rs). */
function byName(tensors: readonly TensorSpec[]): TensorSpec[] {
  return [...tensors].sort((a, b) => compareNames(a.name, b.name));
}

/** By code unit: `localeCompare` would depend on the machine. */
function compareNames(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
