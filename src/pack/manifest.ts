import { join } from "node:path";
import * as v from "valibot";
import { PACK_MANIFEST_FILE } from "../checkpoint/donor.js";
import { type FileLayer, nodeFiles, readSmallFile } from "../checkpoint/file-layer.js";
import { PhysariumError } from "../errors.js";
import { PACK_FORMAT, packedFileName } from "./packed-shard.js";

/** Lies in every packed folder, and makes it one. */
export const MANIFEST_FILE = PACK_MANIFEST_FILE;

/**
 * A plain file name, or one in the donor's `physarium/` folder (reports of a surgery): nothing that leads out of the
 * folder.
 */
const FilePath = v.pipe(
  v.string(),
  v.check((path) => isSafePath(path), "a plain file name, or one under physarium/"),
);
const ByteLength = v.pipe(v.number(), v.safeInteger(), v.minValue(0));
const ChecksumText = v.pipe(v.string(), v.regex(/^[0-9a-f]{16}$/));

const Manifest = v.object({
  format: v.literal(PACK_FORMAT),
  version: v.literal(1),
  physarium_version: v.string(),
  /** In the order of the donor's file names. */
  shards: v.pipe(
    v.array(
      v.object({
        file: FilePath,
        original_file: FilePath,
        byte_length: ByteLength,
        original_byte_length: ByteLength,
      }),
    ),
    v.minLength(1),
    v.check(
      (shards) => shards.every((shard) => isShardName(shard.original_file, shard.file)),
      "packed shards named after the donor's",
    ),
  ),
  side_files: v.array(v.object({ file: FilePath, byte_length: ByteLength, xxh64: ChecksumText })),
});

/** `physarium-pack.json`: which files the folder is made of. */
export type Manifest = v.InferOutput<typeof Manifest>;

export async function isPackedFolder(path: string, files: FileLayer = nodeFiles): Promise<boolean> {
  return files.stat(join(path, MANIFEST_FILE)).then(
    (stat) => stat.isFile(),
    () => false,
  );
}

/** Throws `DONOR_NOT_PACKED` where there is no manifest and `DONOR_PACK_MANIFEST` where it is malformed. */
export async function readManifest(folder: string, files: FileLayer = nodeFiles): Promise<Manifest> {
  const path = join(folder, MANIFEST_FILE);
  if (!(await isPackedFolder(folder, files))) {
    throw new PhysariumError(
      "DONOR_NOT_PACKED",
      `${folder}: expected a folder that physarium pack made, found no ${MANIFEST_FILE} in it`,
      { path: folder },
    );
  }
  const bytes = await readSmallFile(path, files);
  try {
    return v.parse(Manifest, JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes)));
  } catch (error) {
    throw new PhysariumError(
      "DONOR_PACK_MANIFEST",
      `${path}: ${error instanceof Error ? error.message : String(error)}; the file is damaged, copy or download ` +
        "it again",
      { path },
      error,
    );
  }
}

function isShardName(original: string, packed: string): boolean {
  return original.endsWith(".safetensors") && !original.includes("/") && packedFileName(original) === packed;
}

function isSafePath(path: string): boolean {
  const parts = path.split("/");
  if (parts.length > 1 && parts[0] !== "physarium") return false;
  return (
    parts.length <= 16 &&
    parts.every((part) => part !== "" && part !== "." && part !== ".." && !/[\\:\p{Cc}]/u.test(part))
  );
}
