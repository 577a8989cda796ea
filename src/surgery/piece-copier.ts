import { createXXHash128 } from "hash-wasm";
import { BLOCK_BYTES, BLOCK_MARGIN, blockBuffer, DirectFiles, placeOf } from "../checkpoint/direct-files.js";
import type { FileLayer } from "../checkpoint/file-layer.js";
import { PhysariumError } from "../errors.js";
import { createDigester, type Digester } from "../record/digest.js";
import { inlinePool } from "../threads/pool.js";
import type { PiecePool } from "./piece-pool.js";
import { COPY_BUFFER_BYTES, COPY_BUFFERS } from "./plan.js";
import type { PieceJob, PieceResult } from "./protocol.js";
import { NOTHING_COUNTED } from "./tile-tally.js";

/** More than twice the files that a worker's slots can be in at once: jobs come in file order. */
const MAX_OPEN_FILES = 16;

/** The files that pieces come from and go to; `direct` are those to go past the page cache. */
export function openPieces(files: FileLayer, direct: readonly string[]): DirectFiles {
  const paths = new Set(direct);
  return new DirectFiles(files, MAX_OPEN_FILES, (path) => paths.has(path));
}

/** A pool that copies and checks pieces in this thread, for flows without kernels: the plan's buffers are all it holds. */
export async function copyingPool(files: FileLayer, direct: readonly string[]): Promise<PiecePool> {
  const digester = await createDigester();
  const pieces = openPieces(files, direct);
  const buffers: Uint8Array[] = [];
  return inlinePool(
    async (job, slot) => {
      if (job.kind === "take histogram" || job.kind === "operate") {
        throw new PhysariumError("INTERNAL", `a pool without kernels was asked to ${job.kind}`);
      }
      buffers[slot] ??= blockBuffer(COPY_BUFFER_BYTES + BLOCK_MARGIN);
      return copyPiece(job, buffers[slot], pieces, digester);
    },
    COPY_BUFFERS,
    () => pieces.close(),
  );
}

/**
 * Bytes of the donor's file from `byteOffset` on, in `room` where `DirectFiles` would place them: read, or taken out of
 * a stretch that is in memory.
 */
export async function donorBytes(
  { donorPath, held }: PieceJob,
  room: Uint8Array,
  files: DirectFiles,
  byteOffset: number,
  byteLength: number,
): Promise<Uint8Array> {
  if (held === undefined) return files.read(donorPath, room, byteOffset, byteLength);
  const bytes = placeOf(room, byteOffset, byteLength);
  bytes.set(new Uint8Array(held.buffer, byteOffset - held.firstByte, byteLength));
  return bytes;
}

/** Write bytes of a piece and take their digest while the disk has them: both only read. */
export async function writeDigested<T>(
  files: DirectFiles,
  path: string,
  bytes: Uint8Array,
  byteOffset: number,
  digest: (bytes: Uint8Array) => T,
): Promise<T> {
  const written = files.write(path, bytes, byteOffset);
  const result = digest(bytes);
  await written;
  return result;
}

/**
 * Copy a piece from the donor, or read it where it stands in the output, through `room` (a buffer on a block, with its
 * margin); returns its digest.
 */
export async function copyPiece(
  job: PieceJob,
  room: Uint8Array,
  files: DirectFiles,
  digester: Digester,
): Promise<PieceResult> {
  const { kind, outputPath, byteOffset, outputByteOffset, byteLength } = job;
  const move = async <T>(done: number, length: number, digest: (bytes: Uint8Array) => T): Promise<T> => {
    if (kind === "check") return digest(await files.read(outputPath, room, outputByteOffset + done, length));
    const bytes = await donorBytes(job, room, files, byteOffset + done, length);
    return writeDigested(files, outputPath, bytes, outputByteOffset + done, digest);
  };
  if (byteLength <= room.byteLength - BLOCK_MARGIN) {
    return { ...NOTHING_COUNTED, digest: await move(0, byteLength, (bytes) => digester.digest(bytes)) };
  }
  // A band that fits no buffer passes through it; the digest is one of its own, for others may be taken between two
  // stretches.
  const hasher = (await createXXHash128()).init();
  const stretch = Math.floor((room.byteLength - BLOCK_MARGIN) / BLOCK_BYTES) * BLOCK_BYTES;
  for (let done = 0; done < byteLength; done += stretch) {
    await move(done, Math.min(stretch, byteLength - done), (bytes) => hasher.update(bytes));
  }
  return { ...NOTHING_COUNTED, digest: hasher.digest("hex") };
}
