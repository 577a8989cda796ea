import { join } from "node:path";
import { attempt, type FileLayer, nodeFiles, writeFully } from "../checkpoint/file-layer.js";
import { readPassage, writePassage } from "../checkpoint/passage.js";
import { PhysariumError } from "../errors.js";
import { StagedFolder } from "../output/staged-folder.js";
import { runJobs } from "../threads/run-jobs.js";
import { MAX_ROOM_BANDS } from "./band-encoder.js";
import type { CodedBand, DecodeTask } from "./band-protocol.js";
import { type BandPool, bandPool } from "./band-tasks.js";
import { Checksum, checksumText } from "./checksum.js";
import { copyFile } from "./copied-file.js";
import { defaultWorkers, type Progress, withResumeAdvice } from "./pack-model.js";
import { openPacked, type PackedModel } from "./packed-model.js";
import { damaged, type PackedShard } from "./packed-shard.js";
import { bandsOf, codedBand, holdsModel, holdsShard } from "./same-bytes.js";
import { jobByteLength } from "./shard-packer.js";

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
  let pool: BandPool | undefined;
  try {
    const bandElements = Math.max(1, ...shards.map((shard) => shard.bandElements));
    const setup = { direct: await directFiles(model, staged.path, files), jobBytes: jobByteLength(bandElements) };
    pool = await bandPool(workers, setup, files);
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
  pool: BandPool,
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

/** Bands that follow one another in both files, as many a job as a thread's room holds. */
function* decodeJobs(shard: PackedShard, packedPath: string, outputPath: string, advance: (bytes: number) => void) {
  interface Job extends Omit<DecodeTask, "bands"> {
    byteLength: number;
    rawByteLength: number;
    readonly bands: CodedBand[];
  }
  const runnable = (job: Job) => ({ job, done: () => advance(job.rawByteLength) });
  let job: Job | undefined;
  for (const { tensor, band } of bandsOf(shard)) {
    const coded = codedBand(shard, tensor, band);
    const outputByteOffset = tensor.info.byteOffset + band * tensor.bandByteLength;
    const fits =
      job !== undefined &&
      job.rawByteLength + coded.rawByteLength <= jobByteLength(shard.bandElements) &&
      job.bands.length < MAX_ROOM_BANDS &&
      job.byteOffset + job.byteLength === coded.byteOffset &&
      job.outputByteOffset + job.rawByteLength === outputByteOffset;
    if (job === undefined || !fits) {
      if (job !== undefined) yield runnable(job);
      const begin = { byteOffset: coded.byteOffset, byteLength: 0, outputByteOffset, rawByteLength: 0 };
      job = { kind: "decode", path: packedPath, outputPath, bands: [], ...begin };
    }
    job.byteLength += coded.byteLength + coded.padding;
    job.rawByteLength += coded.rawByteLength;
    job.bands.push(coded);
  }
  if (job !== undefined) yield runnable(job);
}

/** Large shards go past the page cache. Asked while nothing of this process reads. */
async function directFiles({ path, shards }: PackedModel, folder: string, files: FileLayer): Promise<string[]> {
  const direct: string[] = [];
  for (const { file, byteLength, original } of shards) {
    const packed = join(path, file);
    if ((await readPassage(packed, byteLength, files)) === "direct") direct.push(packed);
    if (writePassage(original.byteLength) === "direct") direct.push(join(folder, original.file));
  }
  return direct;
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
