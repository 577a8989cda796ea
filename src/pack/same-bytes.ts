import { join } from "node:path";
import { type FileLayer, FileSource } from "../checkpoint/file-layer.js";
import { isPhysariumError } from "../errors.js";
import { isFloatDtype } from "../safetensors/dtypes.js";
import { BandReader, type PackedBand } from "./band-reader.js";
import { Checksum, checksumText } from "./checksum.js";
import type { PackedModel } from "./packed-model.js";
import { bandRange, type PackedShard, type PackedTensor } from "./packed-shard.js";

/** Every band of a packed shard, in the order of its data. */
export function* bandsOf(shard: PackedShard): Generator<{ tensor: PackedTensor; band: number }> {
  for (const tensor of shard.tensors.values()) {
    for (let band = 0; 2 * band < tensor.table.length; band++) yield { tensor, band };
  }
}

/** True where every band of a packed shard decodes to its checksum. Reads all of it. Throws `IO_*`. */
export async function decodes(source: FileSource, shard: PackedShard): Promise<boolean> {
  const reader = await BandReader.create();
  try {
    for (const { tensor, band } of bandsOf(shard)) await reader.read(source, codedBand(shard, tensor, band));
    return true;
  } catch (error) {
    if (isPhysariumError(error, "DONOR_")) return false;
    throw error;
  }
}

/** A band of a packed shard as readers and decoders are told of it. */
export function codedBand({ file }: PackedShard, tensor: PackedTensor, band: number): PackedBand {
  const { name, dtype } = tensor.info;
  return {
    ...bandRange(tensor, band),
    ...(isFloatDtype(dtype) ? { dtype } : {}),
    where: `${file}: tensor "${name}", band ${band}`,
  };
}

/** True where the folder holds, byte for byte, what the pack was made from or unpacks to. Reads all of it. */
export async function holdsModel(
  { shards, manifest }: PackedModel,
  folder: string,
  files: FileLayer,
): Promise<boolean> {
  const checksum = await Checksum.create();
  for (const { file, byte_length, xxh64 } of manifest.side_files) {
    if (!(await holdsFile(join(folder, file), byte_length, xxh64, checksum, files))) return false;
  }
  for (const shard of shards) {
    if (!(await holdsShard(shard, join(folder, shard.original.file), checksum, files))) return false;
  }
  return true;
}

/** True where a file is what the packed shard's checksums say. */
export async function holdsShard(
  shard: PackedShard,
  path: string,
  checksum: Checksum,
  files: FileLayer,
): Promise<boolean> {
  const source = await FileSource.open(path, files).catch(() => undefined);
  if (source === undefined) return false;
  try {
    if (source.byteLength !== shard.original.byteLength) return false;
    const header = await source.read(0, shard.headerBytes.byteLength);
    if (Buffer.compare(header, shard.headerBytes) !== 0) return false;
    for (const { tensor, band } of bandsOf(shard)) {
      const range = bandRange(tensor, band);
      const begin = tensor.info.byteOffset + range.rawBegin;
      if (checksum.of(await source.read(begin, begin + range.rawByteLength)) !== range.checksum) return false;
    }
    return true;
  } finally {
    await source.close();
  }
}

async function holdsFile(
  path: string,
  byteLength: number,
  digest: string,
  checksum: Checksum,
  files: FileLayer,
): Promise<boolean> {
  const source = await FileSource.open(path, files).catch(() => undefined);
  if (source === undefined) return false;
  try {
    return source.byteLength === byteLength && checksumText(checksum.of(await source.read(0, byteLength))) === digest;
  } finally {
    await source.close();
  }
}
