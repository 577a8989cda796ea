import { join } from "node:path";
import { attempt, type FileLayer, nodeFiles, writeFully } from "../checkpoint/file-layer.js";
import { PhysariumError } from "../errors.js";
import { StagedFolder } from "../output/staged-folder.js";
import { isFloatDtype } from "../safetensors/dtypes.js";
import type { Pool } from "../threads/pool.js";
import { runJobs } from "../threads/run-jobs.js";
import type { BandTask, EncodedBand } from "./band-protocol.js";
import { bandPool } from "./band-tasks.js";
import { Checksum, checksumText } from "./checksum.js";
import { copyFile } from "./copied-file.js";
import { defaultWorkers, type Progress, withResumeAdvice } from "./pack-model.js";
import { openPacked, type PackedModel } from "./packed-model.js";
import { bandRange, damaged, type PackedShard } from "./packed-shard.js";
import { bandsOf, holdsModel, holdsShard } from "./same-bytes.js";

export interface UnpackOptions {
  readonly workers?: number;
  /** Continue a stopped run where there is one. */
  readonly resume?: boolean;
  /** Replace a folder that holds nothing but files that this run writes, or a stopped run. */
  readonly overwrite?: boolean;
  /** Bytes of the unpacked shards. */
  readonly onProgress?: (progress: Progress) => void;
  /** Aborted, the run stops after the bands in flight and can be resumed. */
  readonly signal?: AbortSignal;
  readonly files?: FileLayer;
}

export interface UnpackResult {
  readonly output: string;
  /** `already finished`: `resume` found the whole output and did nothing. */
  readonly state: "finished" | "already finished";
  readonly shards: readonly string[];
  readonly sideFiles: readonly string[];
  readonly packedBytes: number;
  readonly originalBytes: number;
  readonly resumedShards: number;
  readonly seconds: number;
}

/**
 * Unpack a packed folder to the model folder it was made from, byte for byte. Every band is checked before it is
 * written.
 *
 * Bounded memory, any number of threads. Throws `USAGE_*` before the first write, `DONOR_*` for a damaged packed
 * folder, `IO_*`.
 */
export async function unpackModel(
  packedPath: string,
  output: string,
  options: UnpackOptions = {},
): Promise<UnpackResult> {
  const started = performance.now();
  const { files = nodeFiles, resume = false, overwrite = false, onProgress } = options;
  const { workers = defaultWorkers() } = options;
  if (!Number.isInteger(workers) || workers < 0 || workers > 256) {
    throw new PhysariumError("USAGE_PARAM", `--workers is ${workers}, expected a whole number from 0 to 256`);
  }
  const model = await openPacked(packedPath, files);
  await model.close();
  const { manifest, shards } = model;
  const originalBytes = manifest.shards.reduce((sum, shard) => sum + shard.original_byte_length, 0);
  const sideBytes = manifest.side_files.reduce((sum, side) => sum + side.byte_length, 0);
  const staged = await StagedFolder.open({
    inputs: [packedPath],
    output,
    command: "unpack",
    fingerprint: fingerprintOf(model),
    neededBytes: originalBytes + sideBytes,
    resume,
    isFinished: (path) => holdsModel(model, path, files),
    ...(overwrite ? { mayReplace: (names: readonly string[]) => names.every((name) => isOurs(name, model)) } : {}),
    files,
  });
  let pool: Pool<BandTask, EncodedBand | undefined> | undefined;
  try {
    pool = await bandPool(workers);
    let bytesDone = 0;
    const advance = (bytes: number) => {
      bytesDone += bytes;
      onProgress?.({ bytesDone, bytesTotal: originalBytes });
    };
    const checksum = await Checksum.create();
    let resumedShards = 0;
    for (const shard of staged.isComplete ? [] : shards) {
      const path = join(staged.path, shard.original.file);
      if (staged.finished.has(shard.original.file) && (await holdsShard(shard, path, checksum, files))) {
        resumedShards++;
        advance(shard.original.byteLength);
        continue;
      }
      await unpackShard(shard, join(packedPath, shard.file), path, pool, advance, options.signal, files);
      await staged.record({ file: shard.original.file, byte_length: shard.original.byteLength });
    }
    for (const side of staged.isComplete ? [] : manifest.side_files) {
      const copied = await copyFile(join(packedPath, side.file), join(staged.path, side.file), checksum, files);
      if (checksumText(copied.checksum) !== side.xxh64) {
        throw damaged(side.file, "it does not have its checksum", "DONOR_PACK_CHECKSUM");
      }
    }
    await pool.close();
    await staged.commit();
    return {
      output,
      state: staged.isComplete ? "already finished" : "finished",
      shards: shards.map((shard) => shard.original.file),
      sideFiles: manifest.side_files.map((side) => side.file),
      packedBytes: shards.reduce((sum, shard) => sum + shard.byteLength, 0),
      originalBytes,
      resumedShards: staged.isComplete ? shards.length : resumedShards,
      seconds: (performance.now() - started) / 1000,
    };
  } catch (error) {
    await pool?.close();
    await staged.release().catch(() => {});
    throw withResumeAdvice(error, staged.path);
  }
}

/** Threads write the bands where they belong, in any order; the file has its full length from the start. */
async function unpackShard(
  shard: PackedShard,
  packedPath: string,
  path: string,
  pool: Pool<BandTask, EncodedBand | undefined>,
  advance: (bytes: number) => void,
  signal: AbortSignal | undefined,
  files: FileLayer,
): Promise<void> {
  const file = await attempt("creating", path, () => files.open(path, "w"));
  try {
    await attempt("extending", path, () => file.truncate(shard.original.byteLength));
    await writeFully(file, shard.headerBytes, 0, path);
    advance(shard.headerBytes.byteLength);
    await runJobs(decodeJobs(shard, packedPath, path, advance), pool, signal);
    await pool.runOnEach({ kind: "close" });
    await attempt("flushing", path, () => file.datasync());
  } finally {
    await file.close();
  }
}

function* decodeJobs(shard: PackedShard, packedPath: string, outputPath: string, advance: (bytes: number) => void) {
  for (const { tensor, band } of bandsOf(shard)) {
    const range = bandRange(tensor, band);
    const { name, dtype, byteOffset } = tensor.info;
    const job: BandTask = {
      kind: "decode",
      path: packedPath,
      ...range,
      ...(isFloatDtype(dtype) ? { dtype } : {}),
      outputPath,
      outputByteOffset: byteOffset + range.rawBegin,
      where: `${shard.file}: tensor "${name}", band ${band}`,
    };
    yield { job, done: () => advance(range.rawByteLength) };
  }
}

function isOurs(name: string, { manifest }: PackedModel): boolean {
  return (
    manifest.shards.some((shard) => shard.original_file === name) ||
    manifest.side_files.some((side) => side.file === name || side.file.startsWith(`${name}/`))
  );
}

/** Every finished shard is held against the checksums of the packed one: the same lengths are enough to begin with. */
function fingerprintOf({ manifest }: PackedModel): unknown {
  return { kind: "unpack", shards: manifest.shards };
}
