import { DirectFiles, placeOf } from "../checkpoint/direct-files.js";
import { type FileLayer, nodeFiles } from "../checkpoint/file-layer.js";
import { inlinePool, type Pool, threadPool } from "../threads/pool.js";
import { BandDecoder } from "./band-decoder.js";
import { BandEncoder } from "./band-encoder.js";
import { elementBytes } from "./band-format.js";
import type { BandSetup, BandTask, DecodeTask, EncodedBands, EncodeTask } from "./band-protocol.js";
import { CodedRoom } from "./coded-room.js";
import { PackedPlaces } from "./packed-places.js";
import { paddingError } from "./packed-shard.js";

/** One job is coded while others are read and written. */
const JOBS_PER_THREAD = 4;
/** The shard that is read and the one that is written, each past the page cache and through it, twice over. */
const MAX_OPEN_FILES = 8;

export type BandPool = Pool<BandTask, EncodedBands | undefined>;

/** Threads that code and decode bands; with 0 the calling thread does it, and every call of `files` is seen. */
export async function bandPool(workers: number, setup: BandSetup, files: FileLayer = nodeFiles): Promise<BandPool> {
  if (workers > 0) return threadPool(new URL("./band-worker.js", import.meta.url), setup, workers, JOBS_PER_THREAD);
  const tasks = new BandTasks(setup, 1, files);
  return inlinePool(tasks.handle, 1, () => tasks.close());
}

/**
 * Does band tasks, with its own reading and writing: each in a room of its own, from and to the disk without a copy
 * where files go past the page cache.
 */
export class BandTasks {
  private readonly files: DirectFiles;
  private encoder: BandEncoder | undefined;
  private decoder: BandDecoder | undefined;

  constructor(
    private readonly setup: BandSetup,
    private readonly rooms = JOBS_PER_THREAD,
    files: FileLayer = nodeFiles,
  ) {
    const direct = new Set(setup.direct);
    this.files = new DirectFiles(files, MAX_OPEN_FILES, (path) => direct.has(path));
  }

  readonly handle = async (task: BandTask, slot: number): Promise<EncodedBands | undefined> => {
    if (task.kind === "encode") return this.encode(task, slot);
    if (task.kind === "decode") await this.decode(task, slot);
    else await this.close();
    return undefined;
  };

  close(): Promise<void> {
    return this.files.close();
  }

  private async encode(task: EncodeTask, slot: number): Promise<EncodedBands> {
    const places = new PackedPlaces(task.places);
    try {
      this.encoder ??= new BandEncoder(this.rooms, this.setup.jobBytes);
      const raw = await this.files.read(task.path, this.encoder.inputRoom(slot), task.byteOffset, task.byteLength);
      const coded = new CodedRoom(this.encoder.outputRoom(slot));
      const checksums = encodeBands(task, raw, coded, this.encoder);
      const begin = await places.of(task.index);
      const bytes = coded.placedAt(begin);
      places.tell(task.index + 1, begin + bytes.byteLength);
      await this.files.write(task.outputPath, bytes, begin);
      return { byteLengths: coded.byteLengths, checksums };
    } catch (error) {
      places.fail(task.index + 1);
      throw error;
    }
  }

  private async decode(task: DecodeTask, slot: number): Promise<void> {
    const { path, byteOffset, byteLength, outputPath, outputByteOffset, rawByteLength } = task;
    this.decoder ??= new BandDecoder({ rooms: this.rooms, roomBytes: this.setup.jobBytes });
    const { input, output } = this.decoder.room(slot);
    const packed = await this.files.read(path, input, byteOffset, byteLength);
    const raw = placeOf(output, outputByteOffset, rawByteLength);
    let from = 0;
    let to = 0;
    for (const band of task.bands) {
      this.decoder.decodeBand(packed.subarray(from, from + band.byteLength), raw.subarray(to), band);
      from += band.byteLength;
      const padding = packed.subarray(from, from + band.padding);
      if (padding.some((byte) => byte !== 0)) throw paddingError(band.where);
      from += band.padding;
      to += band.rawByteLength;
    }
    await this.files.write(outputPath, raw, outputByteOffset);
  }
}

/** Code the bands of a job, whose raw bytes lie in the encoder's memory; returns their checksums. */
function encodeBands(task: EncodeTask, raw: Uint8Array, coded: CodedRoom, encoder: BandEncoder): bigint[] {
  let from = raw.byteOffset;
  return task.bands.map(({ byteLength, dtype, isLast }) => {
    const checksum = encoder.checksumAt(from, byteLength);
    const to = coded.bytes.byteOffset + coded.end;
    const shrunk = dtype && encoder.encodeAt(dtype, from, byteLength / elementBytes(dtype), to);
    if (shrunk === undefined) coded.bytes.set(raw.subarray(from - raw.byteOffset).subarray(0, byteLength), coded.end);
    coded.add(shrunk ?? byteLength, isLast);
    from += byteLength;
    return checksum;
  });
}
