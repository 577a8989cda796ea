import { availableParallelism } from "node:os";
import { join } from "node:path";
import { type Donor, openDonor, type Shard } from "../checkpoint/donor.js";
import { type FileLayer, nodeFiles } from "../checkpoint/file-layer.js";
import { readPassage, writePassage } from "../checkpoint/passage.js";
import { isPhysariumError, PhysariumError } from "../errors.js";
import { writeSmallFile } from "../output/small-file.js";
import { StagedFolder } from "../output/staged-folder.js";
import { createDigester } from "../record/digest.js";
import { type DonorIdentity, identityOf } from "../record/donor-identity.js";
import { PHYSARIUM_VERSION } from "../version.js";
import { MAX_BAND_ELEMENTS } from "./band-format.js";
import { type BandPool, bandPool } from "./band-tasks.js";
import { Checksum, checksumText } from "./checksum.js";
import { copyFile, filesToKeep } from "./copied-file.js";
import { isPackedFolder, MANIFEST_FILE, type Manifest, readManifest } from "./manifest.js";
import { finishedShard, isPackOf, packFingerprint, whatIsKnown } from "./pack-resume.js";
import { PACK_FORMAT, packedFileName } from "./packed-shard.js";
import { jobByteLength, packShard } from "./shard-packer.js";
import { estimateTensors } from "./worth.js";

export interface Progress {
  readonly bytesDone: number;
  readonly bytesTotal: number;
}

export interface PackOptions {
  /** Threads that code bands; default: one a core, at most 8. 0: the calling thread does it. */
  readonly workers?: number;
  /** Continue a stopped run where there is one. */
  readonly resume?: boolean;
  /** Replace a packed folder that stands at the output, or a stopped run. */
  readonly overwrite?: boolean;
  /** Bytes of the donor's shards that are packed. */
  readonly onProgress?: (progress: Progress) => void;
  /** Aborted, the run stops after the bands in flight and can be resumed. */
  readonly signal?: AbortSignal;
  readonly files?: FileLayer;
  /** Elements a band at most; for tests, which want many bands of few weights. */
  readonly bandElements?: number;
}

export interface PackResult {
  readonly output: string;
  /** `already finished`: `resume` found the whole output and did nothing. */
  readonly state: "finished" | "already finished";
  readonly shards: Manifest["shards"];
  readonly keptFiles: readonly string[];
  readonly leftOut: Donor["leftOut"];
  /** Bytes of the shards before and after, and after / before. */
  readonly originalBytes: number;
  readonly packedBytes: number;
  readonly packedFraction: number;
  /** Shannon's bound for zero-or-exponent without context a tensor, all else raw: bytes of the shards, from samples. */
  readonly entropyBoundBytes: number;
  /** Shards that an earlier run had finished. */
  readonly resumedShards: number;
  readonly seconds: number;
}

/** More threads than this wait for the one that writes. */
const MAX_WORKERS = 8;

export function defaultWorkers(): number {
  return Math.min(availableParallelism(), MAX_WORKERS);
}

/**
 * Pack a model folder without loss: one packed shard a shard, side files as they are, `physarium-pack.json`.
 *
 * Bounded memory: four rooms of 8 MiB a thread. The donor is only read. Throws `USAGE_*` before the first
 * write, `DONOR_*` for what is wrong with the donor or changes meanwhile, `IO_*`.
 */
export async function packModel(donorPath: string, output: string, options: PackOptions = {}): Promise<PackResult> {
  const started = performance.now();
  const { files = nodeFiles, bandElements = MAX_BAND_ELEMENTS, resume = false, overwrite = false } = options;
  const { workers = defaultWorkers() } = options;
  if (await isPackedFolder(donorPath, files)) {
    throw new PhysariumError("USAGE_ALREADY_PACKED", `${donorPath}: this folder is packed already (${MANIFEST_FILE})`, {
      path: donorPath,
    });
  }
  const donor = await openDonor(donorPath, files);
  if (!Number.isInteger(workers) || workers < 0 || workers > 256) {
    throw new PhysariumError("USAGE_PARAM", `--workers is ${workers}, expected a whole number from 0 to 256`);
  }
  const rows = await estimateTensors(donor);
  const headers = donor.shards.reduce((sum, shard) => sum + shard.dataByteOffset, 0);
  const estimate = rows.reduce((sum, row) => sum + row.packedByteLength, headers);
  const identity = await identityOf(donor, await createDigester());
  const staged = await StagedFolder.open({
    inputs: [donorPath],
    output,
    command: "pack",
    fingerprint: packFingerprint(identity, bandElements),
    // Two per cent for headers, tables and the error of the estimate.
    neededBytes: Math.ceil(1.02 * estimate),
    resume,
    isFinished: (path) => isPackOf(path, donor, bandElements, files),
    ...(overwrite ? { mayReplace: (names: readonly string[]) => names.includes(MANIFEST_FILE) } : {}),
    files,
  });
  try {
    const run = await PackRun.start(donor, identity, staged, bandElements, options, files);
    const manifest = staged.isComplete ? await readManifest(output, files) : await run.write();
    await staged.commit();
    const { shards } = manifest;
    const sum = (key: "byte_length" | "original_byte_length") => shards.reduce((total, shard) => total + shard[key], 0);
    return {
      output,
      state: staged.isComplete ? "already finished" : "finished",
      shards,
      keptFiles: manifest.side_files.map((side) => side.file),
      leftOut: donor.leftOut.filter((entry) => entry.file !== "physarium/"),
      originalBytes: sum("original_byte_length"),
      packedBytes: sum("byte_length"),
      packedFraction: sum("byte_length") / sum("original_byte_length"),
      entropyBoundBytes: rows.reduce((total, row) => total + row.boundByteLength, headers),
      resumedShards: staged.isComplete ? shards.length : run.resumedShards,
      seconds: (performance.now() - started) / 1000,
    };
  } catch (error) {
    await staged.release().catch(() => {});
    throw withResumeAdvice(error, staged.path);
  }
}

/** What stopped a run of pack or unpack, with what is kept and how to go on. */
export function withResumeAdvice(error: unknown, partialPath: string): unknown {
  if (!isPhysariumError(error)) return error;
  if (error.code !== "STOPPED" && error.code !== "IO_DISK_FULL") return error;
  const message = error.code === "STOPPED" ? "stopped" : error.message;
  return new PhysariumError(
    error.code,
    `${message}; what is done is kept in ${partialPath}; go on with --resume`,
    error.details,
    error,
  );
}

class PackRun {
  resumedShards = 0;
  private bytesDone = 0;
  private readonly bytesTotal: number;

  private constructor(
    private readonly donor: Donor,
    private readonly identity: DonorIdentity,
    private readonly staged: StagedFolder,
    private readonly bandElements: number,
    private readonly options: PackOptions,
    private readonly files: FileLayer,
    private readonly checksum: Checksum,
  ) {
    this.bytesTotal = donor.shards.reduce((sum, shard) => sum + shard.byteLength, 0);
  }

  static async start(
    donor: Donor,
    identity: DonorIdentity,
    staged: StagedFolder,
    bandElements: number,
    options: PackOptions,
    files: FileLayer,
  ) {
    return new PackRun(donor, identity, staged, bandElements, options, files, await Checksum.create());
  }

  async write(): Promise<Manifest> {
    const manifest: Manifest = {
      format: PACK_FORMAT,
      version: 1,
      physarium_version: PHYSARIUM_VERSION,
      shards: await this.packShards(),
      side_files: await this.copySideFiles(),
    };
    await writeSmallFile(join(this.staged.path, MANIFEST_FILE), `${JSON.stringify(manifest, null, 2)}\n`, this.files);
    return manifest;
  }

  private async packShards(): Promise<Manifest["shards"]> {
    const setup = { direct: await this.directFiles(), jobBytes: jobByteLength(this.bandElements) };
    const pool = await bandPool(this.options.workers ?? defaultWorkers(), setup, this.files);
    try {
      const rows: Manifest["shards"] = [];
      for (const shard of this.donor.shards) {
        const done = await finishedShard(this.staged, this.donor, shard, this.identity, this.checksum, this.files);
        const byteLength = done ?? (await this.packShard(shard, pool));
        if (done !== undefined) {
          this.resumedShards++;
          this.advance(shard.byteLength);
        }
        rows.push({
          file: packedFileName(shard.file),
          original_file: shard.file,
          byte_length: byteLength,
          original_byte_length: shard.byteLength,
        });
      }
      return rows;
    } finally {
      await pool.close();
    }
  }

  private async packShard(shard: Shard, pool: BandPool): Promise<number> {
    const { byteLength, dataOffset, frontChecksum } = await packShard({
      shard,
      from: join(this.donor.path, shard.file),
      path: join(this.staged.path, packedFileName(shard.file)),
      bandElements: this.bandElements,
      pool,
      checksum: this.checksum,
      files: this.files,
      signal: this.options.signal,
      advance: (bytes) => this.advance(bytes),
    });
    await this.staged.record({
      file: packedFileName(shard.file),
      byte_length: byteLength,
      data_offset: dataOffset,
      front_xxh64: frontChecksum,
      ...whatIsKnown(shard, this.identity),
    });
    return byteLength;
  }

  /** Large shards go past the page cache. Asked while nothing of this process reads. */
  private async directFiles(): Promise<string[]> {
    const direct: string[] = [];
    for (const { file, byteLength } of this.donor.shards) {
      const path = join(this.donor.path, file);
      if ((await readPassage(path, byteLength, this.files)) === "direct") direct.push(path);
      if (writePassage(byteLength) === "direct") direct.push(join(this.staged.path, packedFileName(file)));
    }
    return direct;
  }

  private async copySideFiles(): Promise<Manifest["side_files"]> {
    const rows: Manifest["side_files"] = [];
    for (const file of await filesToKeep(this.donor, this.files)) {
      const copied = await copyFile(
        join(this.donor.path, file),
        join(this.staged.path, file),
        this.checksum,
        this.files,
      );
      rows.push({ file, byte_length: copied.byteLength, xxh64: checksumText(copied.checksum) });
    }
    return rows;
  }

  private advance(bytes: number): void {
    this.bytesDone += bytes;
    this.options.onProgress?.({ bytesDone: this.bytesDone, bytesTotal: this.bytesTotal });
  }
}
