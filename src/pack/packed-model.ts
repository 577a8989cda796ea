import { join } from "node:path";
import { NO_FACTS } from "../checkpoint/decoder-structure.js";
import { type Donor, elementCount, parseFacts, type Shard, type SideFile, structureOf } from "../checkpoint/donor.js";
import { attempt, type FileLayer, FileSource, nodeFiles, readSmallFile } from "../checkpoint/file-layer.js";
import { PhysariumError } from "../errors.js";
import { isFloatDtype } from "../safetensors/dtypes.js";
import { INDEX_FILE, parseShardIndex } from "../safetensors/shard-index.js";
import type { ByteSource } from "../safetensors/source.js";
import { BandReader } from "./band-reader.js";
import { Checksum } from "./checksum.js";
import { MANIFEST_FILE, type Manifest, readManifest } from "./manifest.js";
import { bandRange, damaged, type PackedShard, type PackedTensor, readPackedShard } from "./packed-shard.js";
import { PackedSource } from "./packed-source.js";

/** Decoded bands kept for the next read: readers go forward in steps that seldom end where bands end. */
const KEPT_BANDS = 4;

/**
 * A packed folder, opened for reading: `donor` describes the folder it stands for, and its tensors are read as if it
 * were that folder. Every read is decoded and checked against the band's checksum.
 */
export class PackedModel {
  /** The unpacked folder: shards, tensors and positions are the original's, `path` is the packed folder's. */
  readonly donor: Donor;
  private readonly open = new Map<string, Promise<FileSource>>();
  private readonly kept = new Map<string, Uint8Array>();
  /** Bands are decoded one after the other: there is one decoder. */
  private turn: Promise<unknown> = Promise.resolve();

  private constructor(
    readonly path: string,
    readonly manifest: Manifest,
    described: Omit<Donor, "source">,
    readonly shards: readonly PackedShard[],
    private readonly shardOfTensor: ReadonlyMap<string, PackedShard>,
    private readonly reader: BandReader,
    private readonly files: FileLayer,
  ) {
    this.donor = { ...described, source: new PackedSource(this, files) };
  }

  /**
   * Reads the manifest, all headers and tables, no weights. Throws `DONOR_NOT_PACKED`, `DONOR_PACK_*`,
   * `DONOR_HEADER_*`, `IO_*`.
   */
  static async open(path: string, files: FileLayer = nodeFiles): Promise<PackedModel> {
    const manifest = await readManifest(path, files);
    const checksum = await Checksum.create();
    const shards: PackedShard[] = [];
    const rows: Shard[] = [];
    for (const row of manifest.shards) {
      await requireFile(path, row.file, files);
      const source = await FileSource.open(join(path, row.file), files);
      try {
        if (source.byteLength !== row.byte_length) {
          throw damaged(
            row.file,
            `it has ${source.byteLength} bytes, ${row.byte_length} are listed`,
            "DONOR_PACK_LENGTH",
          );
        }
        const shard = await readPackedShard(source, row.file, checksum);
        const { original } = shard;
        if (original.file !== row.original_file || original.byteLength !== row.original_byte_length) {
          throw damaged(row.file, `it stands for ${original.file}, ${row.original_file} is listed`);
        }
        shards.push(shard);
        rows.push({
          file: original.file,
          byteLength: original.byteLength,
          modifiedNs: source.modifiedNs,
          ...original.header,
        });
      } finally {
        await source.close();
      }
    }
    const shardOfTensor = new Map<string, PackedShard>();
    for (const shard of shards) {
      for (const name of shard.tensors.keys()) {
        if (shardOfTensor.has(name)) throw damaged(shard.file, `tensor "${name}" stands in another shard too`);
        shardOfTensor.set(name, shard);
      }
    }
    const described = await describeDonor(path, manifest, rows, files);
    return new PackedModel(path, manifest, described, shards, shardOfTensor, await BandReader.create(), files);
  }

  /** Raw bytes of a whole tensor. */
  async readTensor(name: string): Promise<Uint8Array> {
    return this.readBytes(name, 0, this.find(name).tensor.info.byteLength);
  }

  /**
   * Raw bytes of rows [rowStart, rowEnd) of a matrix, or of a stack of matrices taken as one; a vector's rows are its
   * elements.
   */
  async readBand(name: string, rowStart: number, rowEnd: number): Promise<Uint8Array> {
    const { info } = this.find(name).tensor;
    const rows = info.shape.length < 2 ? elementCount(info.shape) : elementCount(info.shape.slice(0, -1));
    const rowBytes = rows === 0 ? 0 : info.byteLength / rows;
    if (!(0 <= rowStart && rowStart <= rowEnd && rowEnd <= rows) || !Number.isInteger(rowBytes)) {
      throw new RangeError(`rows ${rowStart} to ${rowEnd} of "${name}", which has ${rows} rows`);
    }
    return this.readBytes(name, rowStart * rowBytes, rowEnd * rowBytes);
  }

  /** Raw bytes [begin, end) of a tensor; only the bands that hold them are read. */
  async readBytes(name: string, begin: number, end: number): Promise<Uint8Array> {
    const { tensor, shard } = this.find(name);
    if (!(0 <= begin && begin <= end && end <= tensor.info.byteLength)) {
      throw new RangeError(`bytes ${begin} to ${end} of "${name}", which has ${tensor.info.byteLength}`);
    }
    const bytes = new Uint8Array(end - begin);
    for (let at = begin; at < end; ) {
      const band = Math.floor(at / tensor.bandByteLength);
      const raw = await this.rawBand(shard, tensor, band);
      const bandBegin = band * tensor.bandByteLength;
      const part = raw.subarray(at - bandBegin, Math.min(end - bandBegin, raw.byteLength));
      bytes.set(part, at - begin);
      at += part.byteLength;
    }
    return bytes;
  }

  /** Bytes that a tensor takes in its packed shard, without its table. */
  packedByteLength(name: string): number {
    return this.find(name).tensor.dataByteLength;
  }

  /**
   * The donor's shard as a file: what unpacking would write, without writing it. `file` is a name of `donor.shards`.
   */
  shardSource(file: string): ByteSource {
    const shard = this.shards.find((candidate) => candidate.original.file === file);
    if (shard === undefined) {
      throw new PhysariumError("DONOR_SHARD_MISSING", `${this.path}: it stands for no shard ${file}`, { file });
    }
    return {
      byteLength: shard.original.byteLength,
      read: (begin, end) => this.readShardBytes(shard, begin, end),
    };
  }

  async close(): Promise<void> {
    const sources = [...this.open.values()];
    this.open.clear();
    this.kept.clear();
    await Promise.all(sources.map((source) => source.then((file) => file.close())));
  }

  private async readShardBytes(shard: PackedShard, begin: number, end: number): Promise<Uint8Array> {
    const bytes = new Uint8Array(end - begin);
    const header = shard.headerBytes.subarray(Math.min(begin, shard.headerBytes.byteLength), end);
    bytes.set(header);
    for (const info of shard.original.tensors) {
      const from = Math.max(begin, info.byteOffset);
      const to = Math.min(end, info.byteOffset + info.byteLength);
      if (from < to)
        bytes.set(await this.readBytes(info.name, from - info.byteOffset, to - info.byteOffset), from - begin);
    }
    return bytes;
  }

  private rawBand(shard: PackedShard, tensor: PackedTensor, band: number): Promise<Uint8Array> {
    const key = `${band} ${tensor.info.name}`;
    const read = async (): Promise<Uint8Array> => {
      const kept = this.kept.get(key);
      if (kept !== undefined) return kept;
      const { dtype } = tensor.info;
      const raw = await this.reader.read(await this.source(shard), {
        ...bandRange(tensor, band),
        ...(isFloatDtype(dtype) ? { dtype } : {}),
        where: `${shard.file}: tensor "${tensor.info.name}", band ${band}`,
      });
      if (this.kept.size >= KEPT_BANDS) this.kept.delete(this.kept.keys().next().value!);
      this.kept.set(key, raw.slice());
      return this.kept.get(key)!;
    };
    const result = this.turn.then(read);
    this.turn = result.catch(() => {});
    return result;
  }

  private source(shard: PackedShard): Promise<FileSource> {
    let source = this.open.get(shard.file);
    if (source === undefined) {
      source = FileSource.open(join(this.path, shard.file), this.files);
      source.catch(() => this.open.delete(shard.file));
      this.open.set(shard.file, source);
    }
    return source;
  }

  private find(name: string): { shard: PackedShard; tensor: PackedTensor } {
    const shard = this.shardOfTensor.get(name);
    const tensor = shard?.tensors.get(name);
    if (shard === undefined || tensor === undefined) {
      throw new PhysariumError("DONOR_TENSOR_MISSING", `${this.path}: it holds no tensor "${name}"`, { tensor: name });
    }
    return { shard, tensor };
  }
}

/** Open a folder that `physarium pack` made. */
export function openPacked(path: string, files: FileLayer = nodeFiles): Promise<PackedModel> {
  return PackedModel.open(path, files);
}

async function requireFile(folder: string, file: string, files: FileLayer): Promise<void> {
  try {
    await files.stat(join(folder, file));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT")
      await attempt("examining", file, () => Promise.reject(error));
    throw new PhysariumError(
      "DONOR_PACK_FILE_MISSING",
      `${folder}: ${MANIFEST_FILE} lists ${file}, which is not there; copy or download the folder again`,
      { path: folder, file },
      error,
    );
  }
}

/** The donor that a packed folder stands for; its side files lie in the packed folder. */
async function describeDonor(
  path: string,
  manifest: Manifest,
  shards: Shard[],
  files: FileLayer,
): Promise<Omit<Donor, "source">> {
  const sideFiles: SideFile[] = [];
  for (const side of manifest.side_files) {
    await requireFile(path, side.file, files);
    const file = join(path, side.file);
    const stat = await attempt("examining", file, () => files.stat(file, { bigint: true }));
    if (Number(stat.size) !== side.byte_length) {
      throw damaged(side.file, `it has ${stat.size} bytes, ${side.byte_length} are listed`, "DONOR_PACK_LENGTH");
    }
    if (!side.file.includes("/")) {
      sideFiles.push({ file: side.file, byteLength: side.byte_length, modifiedNs: stat.mtimeNs });
    }
  }
  const index = sideFiles.some((side) => side.file === INDEX_FILE)
    ? parseShardIndex(await readSmallFile(join(path, INDEX_FILE), files), INDEX_FILE)
    : undefined;
  const facts = sideFiles.some((side) => side.file === "config.json")
    ? parseFacts(await readSmallFile(join(path, "config.json"), files))
    : NO_FACTS;
  const tensors = shards.flatMap((shard) => shard.tensors);
  return {
    path,
    index,
    shards,
    sideFiles,
    leftOut: [],
    warnings: [],
    structure: structureOf(shards, facts),
    tensorCount: tensors.length,
    totalSize: tensors.reduce((sum, tensor) => sum + tensor.byteLength, 0),
    modelWeights: tensors.reduce((sum, tensor) => sum + elementCount(tensor.shape), 0),
  };
}
