import type { Shard } from "../checkpoint/donor.js";
import { attempt, type FileLayer, FileSource, writeFully } from "../checkpoint/file-layer.js";
import { PhysariumError } from "../errors.js";
import { isFloatDtype } from "../safetensors/dtypes.js";
import { type RunnableJob, runJobs } from "../threads/run-jobs.js";
import { MAX_ROOM_BANDS } from "./band-encoder.js";
import type { BandTask, EncodedBands, EncodeTask, RawBand } from "./band-protocol.js";
import type { BandPool } from "./band-tasks.js";
import { bandByteLength } from "./bands.js";
import { type Checksum, checksumText } from "./checksum.js";
import { PackedPlaces } from "./packed-places.js";
import { frontByteLength, type PackedTensorData, padTo8, reservedHeaderBytes, serializeFront } from "./packed-shard.js";

/** Raw bytes a job, for bands of so many elements: reads and writes long enough for any disk. */
export function jobByteLength(bandElements: number): number {
  return 8 * bandElements;
}

export interface ShardPacking {
  readonly shard: Shard;
  /** The donor's shard and the packed one. */
  readonly from: string;
  readonly path: string;
  readonly bandElements: number;
  readonly pool: BandPool;
  readonly checksum: Checksum;
  readonly files: FileLayer;
  readonly signal: AbortSignal | undefined;
  /** So many more bytes of the donor's shard are packed. */
  readonly advance: (bytes: number) => void;
}

/** What a finished packed shard is known by. */
export interface PackedFile {
  readonly byteLength: number;
  readonly dataOffset: number;
  /** Checksum of everything before the data; that has checksums of its own. */
  readonly frontChecksum: string;
}

/** Pack one shard into a new file, flushed. Throws `DONOR_CHANGED`, `STOPPED`, `IO_*`. */
export async function packShard(packing: ShardPacking): Promise<PackedFile> {
  const { shard, from, path, bandElements, pool, checksum, files, advance } = packing;
  const headerBytes = await readHeaderBytes(from, shard, files);
  const reserved = reservedHeaderBytes(shard, headerBytes, bandElements);
  const dataOffset = reserved + frontByteLength(shard, headerBytes, bandElements);
  advance(shard.dataByteOffset);

  const file = await attempt("creating", path, () => files.open(path, "w+"));
  try {
    // Room for the worst case, so that no write moves the file's end: that would make others wait.
    const worst = shard.tensors.reduce((sum, tensor) => sum + padTo8(tensor.byteLength), dataOffset);
    await attempt("extending", path, () => file.truncate(worst));
    const jobs = jobsOf(shard, bandElements);
    const places = PackedPlaces.begin(jobs.length, dataOffset);
    const results: EncodedBands[] = [];
    await runJobs(encodeJobs(packing, jobs, places, results), pool, packing.signal);
    const end = await places.of(jobs.length);
    const packed = tensorData(shard, bandElements, results);
    const front = serializeFront(shard, headerBytes, packed, reserved, bandElements, checksum);
    await writeFully(file, front, 0, path);
    await attempt("shortening", path, () => file.truncate(end));
    await refuseChanged(shard, from, files);
    await attempt("flushing", path, () => file.datasync());
    return { byteLength: end, dataOffset, frontChecksum: checksumText(checksum.of(front)) };
  } finally {
    await pool.runOnEach({ kind: "close" }).catch(() => {});
    await file.close();
  }
}

type Job = Pick<EncodeTask, "byteOffset" | "byteLength" | "bands">;

/** The bands of a shard in the order of its data, as many a job as a thread's room holds. */
function jobsOf(shard: Shard, bandElements: number): Job[] {
  const jobs: { byteOffset: number; byteLength: number; bands: RawBand[] }[] = [];
  for (const { dtype, byteOffset, band } of rawBands(shard, bandElements)) {
    const last = jobs.at(-1);
    const fits =
      last !== undefined &&
      last.byteLength + band.byteLength <= jobByteLength(bandElements) &&
      last.bands.length < MAX_ROOM_BANDS;
    const job = fits ? last : { byteOffset, byteLength: 0, bands: [] };
    if (!fits) jobs.push(job);
    job.byteLength += band.byteLength;
    job.bands.push(isFloatDtype(dtype) ? { ...band, dtype } : band);
  }
  return jobs;
}

function* rawBands(shard: Shard, bandElements: number) {
  for (const tensor of shard.tensors) {
    const step = bandByteLength(tensor, bandElements);
    for (let begin = 0; begin < tensor.byteLength; begin += step) {
      const byteLength = Math.min(step, tensor.byteLength - begin);
      const band = { byteLength, isLast: begin + byteLength === tensor.byteLength };
      yield { dtype: tensor.dtype, byteOffset: tensor.byteOffset + begin, band };
    }
  }
}

function* encodeJobs(
  { from, path, advance }: ShardPacking,
  jobs: readonly Job[],
  { shared }: PackedPlaces,
  results: EncodedBands[],
): Generator<RunnableJob<BandTask, EncodedBands | undefined>> {
  for (const [index, { byteOffset, byteLength, bands }] of jobs.entries()) {
    const places = { outputPath: path, places: shared, index };
    yield {
      job: { kind: "encode", path: from, byteOffset, byteLength, bands, ...places },
      done: (result) => {
        results[index] = result!;
        advance(byteLength);
      },
    };
  }
}

/** The tables of a shard's tensors from what became of their bands, in order. */
function tensorData(shard: Shard, bandElements: number, results: readonly EncodedBands[]): PackedTensorData[] {
  const lengths = results.flatMap(({ byteLengths }) => byteLengths);
  const checksums = results.flatMap((result) => result.checksums);
  let band = 0;
  return shard.tensors.map((tensor) => {
    const count = Math.ceil(tensor.byteLength / bandByteLength(tensor, bandElements));
    const table = new BigUint64Array(2 * count);
    let byteLength = 0;
    for (let row = 0; row < count; row++, band++) {
      byteLength += lengths[band];
      table[2 * row] = BigInt(byteLength);
      table[2 * row + 1] = checksums[band];
    }
    return { table, byteLength };
  });
}

async function readHeaderBytes(path: string, shard: Shard, files: FileLayer): Promise<Uint8Array> {
  const source = await FileSource.open(path, files);
  try {
    return await source.read(0, shard.dataByteOffset);
  } finally {
    await source.close();
  }
}

async function refuseChanged(shard: Shard, path: string, files: FileLayer): Promise<void> {
  const stat = await attempt("examining", path, () => files.stat(path, { bigint: true }));
  if (stat.mtimeNs === shard.modifiedNs && Number(stat.size) === shard.byteLength) return;
  throw new PhysariumError("DONOR_CHANGED", `${path}: the shard changed while it was being packed; pack again`, {
    path,
  });
}
