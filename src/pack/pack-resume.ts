import { join } from "node:path";
import type { Donor, Shard } from "../checkpoint/donor.js";
import { type FileLayer, FileSource } from "../checkpoint/file-layer.js";
import { isPhysariumError } from "../errors.js";
import type { StagedFolder } from "../output/staged-folder.js";
import type { DonorIdentity } from "../record/donor-identity.js";
import { type Checksum, checksumText } from "./checksum.js";
import { filesToKeep } from "./copied-file.js";
import { openPacked } from "./packed-model.js";
import { packedFileName, readPackedShard } from "./packed-shard.js";
import { decodes, holdsModel, holdsShard } from "./same-bytes.js";

/** What a pack is made from and how; equal for a run that may resume another. */
export function packFingerprint({ index_digest, config_digest, shards }: DonorIdentity, bandElements: number): unknown {
  return {
    kind: "pack",
    band_elements: bandElements,
    index_digest,
    config_digest,
    shards: shards.map(({ file, byte_length, header_digest }) => [file, byte_length, header_digest]),
  };
}

/** What the record of a finished shard says of the donor's: the time it was last changed, and what its source knows. */
export function whatIsKnown({ file, modifiedNs }: Shard, { shards }: DonorIdentity): Record<string, string> {
  const content = shards.find((each) => each.file === file)?.content;
  return { modified_ns: String(modifiedNs), ...(content === undefined ? {} : { content }) };
}

/** Bytes of a packed shard that an earlier run finished, that still is what it was then, and of what the donor is. */
export async function finishedShard(
  staged: StagedFolder,
  donor: Donor,
  shard: Shard,
  identity: DonorIdentity,
  checksum: Checksum,
  files: FileLayer,
): Promise<number | undefined> {
  const file = packedFileName(shard.file);
  const record = staged.finished.get(file);
  if (record === undefined) return undefined;
  const source = await FileSource.open(join(staged.path, file), files).catch(() => undefined);
  if (source === undefined) return undefined;
  try {
    if (source.byteLength !== record.byte_length) return undefined;
    const front = await source.read(0, Math.min(Number(record.data_offset), source.byteLength));
    if (checksumText(checksum.of(front)) !== record.front_xxh64) return undefined;
    const packed = await readPackedShard(source, file, checksum);
    if (!(await decodes(source, packed))) return undefined;
    const { modified_ns, content } = whatIsKnown(shard, identity);
    const isKnown = content !== undefined && record.content !== undefined;
    if (isKnown ? content === record.content : modified_ns === record.modified_ns) return source.byteLength;
    // A copy, or a touched file: its bytes say whether they are the ones that were packed.
    return (await holdsShard(packed, join(donor.path, shard.file), checksum, files)) ? source.byteLength : undefined;
  } catch (error) {
    if (isPhysariumError(error, "DONOR_")) return undefined;
    throw error;
  } finally {
    await source.close();
  }
}

/** True for a packed folder that holds this donor, byte for byte: `--resume` has nothing to do then. */
export async function isPackOf(path: string, donor: Donor, bandElements: number, files: FileLayer): Promise<boolean> {
  try {
    const packed = await openPacked(path, files);
    await packed.close();
    const shardFiles = packed.shards.map(({ original }) => original.file).join("/");
    if (shardFiles !== donor.shards.map(({ file }) => file).join("/")) return false;
    if (packed.shards.some((shard) => shard.bandElements !== bandElements)) return false;
    const kept = packed.manifest.side_files.map(({ file }) => file).join("/");
    if (kept !== (await filesToKeep(donor, files)).join("/")) return false;
    return await holdsModel(packed, donor.path, files);
  } catch (error) {
    if (isPhysariumError(error, "DONOR_") || isPhysariumError(error, "USAGE_")) return false;
    throw error;
  }
}
