import { type Donor, elementCount } from "../checkpoint/donor.js";
import { classifyTensor } from "../checkpoint/projections.js";
import type { FormatName, FormatWorth, KindWorth, MemoryWorth, ZerosWorth } from "../record/worth.js";
import { type FloatDtype, isFloatDtype } from "../safetensors/dtypes.js";
import type { TensorInfo } from "../safetensors/header.js";
import type { ByteSource } from "../safetensors/source.js";
import { blockCount, elementBytes } from "./band-format.js";
import { bandByteLength, bandCount } from "./bands.js";
import type { PackedModel } from "./packed-model.js";
import { measureWords } from "./statistics.js";

/** One tensor's part of the answer, measured or estimated. */
export interface TensorWorth {
  readonly tensor: TensorInfo;
  readonly zeroWeights: number;
  readonly packedByteLength: number;
  readonly boundByteLength: number;
  readonly sampledWeights: number;
}

/** Sampling reads at most about this much of a model, spread over its tensors: cold reads that surgery waits for. */
const SAMPLE_BUDGET_BYTES = 16 << 20;
const MIN_SAMPLE_BYTES = 16 << 10;
const MAX_SAMPLE_BYTES = 1 << 20;
/** A tensor's sample is taken in this many places, evenly spread: rows differ more than neighbours do. */
const SAMPLE_PLACES = 8;
/** Tensors that are sampled side by side: cold reads wait for the disk, not for each other. */
const SAMPLES_AT_ONCE = 4;

/** 8, 12, 16 and 24 GB are the cards and laptops people have. */
const MEMORIES_GB = [8, 12, 16, 24];
/** Room for activations, the key-value cache of a few thousand tokens, and the engine. */
const RESERVED_FRACTION = 0.1;

/**
 * Estimate what packing and export would make of a model: every tensor is sampled in eight places, and the codec's own
 * code lengths are computed on the sample. Reads at most about 16 MiB.
 */
export async function estimateWorth(donor: Donor): Promise<ZerosWorth> {
  return summariseWorth(await estimateTensors(donor), "estimated");
}

/** The same for a packed folder: its sizes as they are, zeros and entropy bound from samples. */
export async function worthOfPacked(model: PackedModel): Promise<ZerosWorth> {
  const sampled = await sampleTensors(model.donor);
  const rows = sampled.map((row) => ({ ...row, packedByteLength: model.packedByteLength(row.tensor.name) }));
  return summariseWorth(rows, "exact");
}

/** Per tensor, in the order of the files: what the packer would make of it, from samples. */
export function estimateTensors(donor: Donor): Promise<TensorWorth[]> {
  return sampleTensors(donor);
}

async function sampleTensors(donor: Donor): Promise<TensorWorth[]> {
  const share = SAMPLE_BUDGET_BYTES / Math.max(donor.tensorCount, 1);
  const sampleBytes = Math.min(Math.max(share, MIN_SAMPLE_BYTES), MAX_SAMPLE_BYTES);
  const rows: TensorWorth[] = [];
  const atOnce = donor.source.localPath === undefined ? 1 : SAMPLES_AT_ONCE;
  for (const shard of donor.shards) {
    const source = await donor.source.open(shard.file);
    try {
      const pending: Promise<TensorWorth>[] = [];
      for (const tensor of shard.tensors) {
        const { dtype } = tensor;
        if (!isFloatDtype(dtype)) pending.push(Promise.resolve(storedTensor(tensor)));
        else
          pending.push(
            sample(tensor, dtype, source, sampleBytes).then((words) => estimateTensor(tensor, dtype, words)),
          );
        pending.at(-1)?.catch(() => {});
        if (pending.length >= atOnce) rows.push(await pending.shift()!);
      }
      for (const row of pending) rows.push(await row);
    } finally {
      await source.close();
    }
  }
  return rows;
}

async function sample(
  tensor: TensorInfo,
  dtype: FloatDtype,
  source: ByteSource,
  sampleBytes: number,
): Promise<Uint8Array> {
  const size = elementBytes(dtype);
  const total = tensor.byteLength / size;
  // A copy: a view into somebody's memory may begin at an odd byte.
  const read = async (begin: number, byteLength: number) =>
    (await source.read(tensor.byteOffset + begin, tensor.byteOffset + begin + byteLength)).slice();
  if (tensor.byteLength <= sampleBytes) return read(0, tensor.byteLength);
  // Multiples of eight elements: the mask bytes of a place stay its own.
  const placeElements = 8 * Math.floor(sampleBytes / size / SAMPLE_PLACES / 8);
  const bytes = new Uint8Array(SAMPLE_PLACES * placeElements * size);
  const parts = Array.from({ length: SAMPLE_PLACES }, (_, place) => {
    const first = 8 * Math.floor(((total - placeElements) * place) / (SAMPLE_PLACES - 1) / 8);
    return read(first * size, placeElements * size);
  });
  for (const [place, part] of (await Promise.all(parts)).entries()) {
    bytes.set(part, place * placeElements * size);
  }
  return bytes;
}

function estimateTensor(tensor: TensorInfo, dtype: FloatDtype, words: Uint8Array): TensorWorth {
  const total = elementCount(tensor.shape);
  if (total === 0) return storedTensor(tensor);
  const measured = measureWords(dtype, words);
  const scale = total / measured.elementCount;
  const bands = bandCount(tensor);
  const bandElements = bandByteLength(tensor) / elementBytes(dtype);
  const heads = bands * (measured.headBytes + measured.blockBytes * blockCount(Math.min(bandElements, total)));
  const coded = Math.round((measured.codedBits * scale) / 8) + heads;
  return {
    tensor,
    zeroWeights: Math.round(measured.zeros * scale),
    packedByteLength: Math.min(coded, tensor.byteLength),
    boundByteLength: Math.min(Math.round((measured.boundBits * scale) / 8), tensor.byteLength),
    sampledWeights: measured.elementCount,
  };
}

function storedTensor(tensor: TensorInfo): TensorWorth {
  const { byteLength } = tensor;
  return { tensor, zeroWeights: 0, packedByteLength: byteLength, boundByteLength: byteLength, sampledWeights: 0 };
}

/** Add up tensors to the section's data. */
export function summariseWorth(rows: readonly TensorWorth[], packedIs: ZerosWorth["packed_is"]): ZerosWorth {
  const kinds = new Map<string, KindWorth>();
  const total = { weights: 0, zero_weights: 0, size_now: 0, size_packed: 0, size_entropy_bound: 0, sampled_weights: 0 };
  for (const row of rows) {
    const { tensor } = row;
    const kind = kindOf(tensor);
    const entry = kinds.get(kind) ?? emptyKind(kind);
    kinds.set(kind, entry);
    const weights = elementCount(tensor.shape);
    entry.tensors++;
    for (const sums of [entry, total]) {
      sums.weights += weights;
      sums.zero_weights += row.zeroWeights;
      sums.size_now += tensor.byteLength;
      sums.size_packed += row.packedByteLength;
    }
    total.size_entropy_bound += row.boundByteLength;
    total.sampled_weights += row.sampledWeights;
  }
  const byKind = [...kinds.values()].sort((a, b) => b.size_now - a.size_now || (a.kind < b.kind ? -1 : 1));
  for (const entry of byKind) {
    entry.sparsity = fraction(entry.zero_weights, entry.weights);
    entry.packed_fraction = fraction(entry.size_packed, entry.size_now);
  }
  const formats = formatsOf(rows, total.size_packed);
  return {
    packed_is: packedIs,
    ...total,
    sparsity: fraction(total.zero_weights, total.weights),
    packed_fraction: fraction(total.size_packed, total.size_now),
    by_kind: byKind,
    formats,
    memories: MEMORIES_GB.map((gigabytes) => memoryWorth(gigabytes, formats)),
    reserved_fraction: RESERVED_FRACTION,
  };
}

function emptyKind(kind: string): KindWorth {
  return {
    kind,
    tensors: 0,
    weights: 0,
    zero_weights: 0,
    sparsity: 0,
    size_now: 0,
    size_packed: 0,
    packed_fraction: 0,
  };
}

/**
 * `mlp.down_proj`, `embed_tokens`, `self_attn.q_proj.bias`: a name without its layer, expert numbers, `model.` and
 * `.weight`.
 */
function kindOf(tensor: TensorInfo): string {
  return classifyTensor(tensor).projection.replace(/^model\./, "");
}

function fraction(part: number, whole: number): number {
  return whole === 0 ? 0 : part / whole;
}

interface ExportType {
  readonly format: FormatName;
  /** Weights of a row that share scales, and their bytes. */
  readonly block: number;
  readonly blockBytes: number;
  /** Bytes of 32 weights where a row is no multiple of `block`, of the type that llama.cpp takes then; else F16. */
  readonly fallbackBytes?: number;
  readonly lossy: (dtype: string) => boolean;
  readonly holdsExactZeros: boolean;
}

/**
 * Sizes of GGUF's types. source: ggml-common.h, `block_q8_0` and so on.
 * Q4_K scales by `d·q − m`: only with m = 0 is a zero exactly zero again; the other types have a code for it.
 */
const EXPORT_TYPES: readonly ExportType[] = [
  { format: "F16", block: 1, blockBytes: 2, lossy: (dtype) => dtype !== "F16", holdsExactZeros: true },
  { format: "BF16", block: 1, blockBytes: 2, lossy: (dtype) => dtype !== "BF16", holdsExactZeros: true },
  { format: "Q8_0", block: 32, blockBytes: 34, lossy: () => true, holdsExactZeros: true },
  { format: "Q6_K", block: 256, blockBytes: 210, fallbackBytes: 34, lossy: () => true, holdsExactZeros: true },
  { format: "Q4_K", block: 256, blockBytes: 144, fallbackBytes: 22, lossy: () => true, holdsExactZeros: false },
  { format: "Q4_0", block: 32, blockBytes: 18, lossy: () => true, holdsExactZeros: true },
];

/** Bytes of a tensor in a GGUF file: vectors stay F32 there, integers stay what they are. */
function exportByteLength(tensor: TensorInfo, type: ExportType): number {
  const weights = elementCount(tensor.shape);
  if (!isFloatDtype(tensor.dtype)) return tensor.byteLength;
  if (tensor.shape.length < 2) return 4 * weights;
  const rowLength = tensor.shape[tensor.shape.length - 1];
  if (rowLength % type.block !== 0) {
    return type.fallbackBytes !== undefined && rowLength % 32 === 0 ? (weights / 32) * type.fallbackBytes : 2 * weights;
  }
  return (weights / type.block) * type.blockBytes;
}

function formatsOf(rows: readonly TensorWorth[], packedSize: number): FormatWorth[] {
  const weights = rows.reduce((sum, { tensor }) => sum + elementCount(tensor.shape), 0);
  const sizeNow = rows.reduce((sum, { tensor }) => sum + tensor.byteLength, 0);
  const entry = (format: FormatName, size: number, lossy: boolean, holdsExactZeros: boolean): FormatWorth => ({
    format,
    bits_per_weight: fraction(8 * size, weights),
    size,
    lossy,
    holds_exact_zeros: holdsExactZeros,
  });
  return [
    entry("as_is", sizeNow, false, true),
    entry("packed", packedSize, false, true),
    ...EXPORT_TYPES.map((type) => {
      const size = rows.reduce((sum, { tensor }) => sum + exportByteLength(tensor, type), 0);
      const lossy = rows.some(({ tensor }) => tensor.shape.length >= 2 && type.lossy(tensor.dtype));
      return entry(type.format, size, lossy, type.holdsExactZeros);
    }),
  ];
}

function memoryWorth(gigabytes: number, formats: readonly FormatWorth[]): MemoryWorth {
  const bytes = gigabytes * 2 ** 30;
  const fits = formats.filter(({ size }) => size <= bytes * (1 - RESERVED_FRACTION)).map(({ format }) => format);
  return { gigabytes, bytes, fits };
}
