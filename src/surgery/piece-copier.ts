import { createXXHash128 } from "hash-wasm";
import { FileCache } from "../checkpoint/file-cache.js";
import { type FileLayer, READ_ONLY, readFully, writeFully } from "../checkpoint/file-layer.js";
import { PhysariumError } from "../errors.js";
import { createDigester, type Digester } from "../record/digest.js";
import { inlinePool } from "../threads/pool.js";
import type { PiecePool } from "./piece-pool.js";
import type { HeldBytes, PieceJob, PieceResult } from "./protocol.js";
import { NOTHING_COUNTED } from "./tile-tally.js";

/** More than twice the files that a worker's slots can be in at once: jobs come in file order. */
export const MAX_OPEN_FILES = 16;

/** One is read while one is digested and one is written. */
const BUFFERS = 3;
const BUFFER_BYTES = 8 << 20;

/** A pool that copies and checks pieces in this thread, for flows without kernels: three buffers are all it holds. */
export async function copyingPool(files: FileLayer): Promise<PiecePool> {
  const digester = await createDigester();
  const cache = new FileCache(files, MAX_OPEN_FILES);
  const buffers: Uint8Array[] = [];
  return inlinePool(
    async (job, slot) => {
      if (job.kind === "take histogram" || job.kind === "operate") {
        throw new PhysariumError("INTERNAL", `a pool without kernels was asked to ${job.kind}`);
      }
      buffers[slot] ??= new Uint8Array(BUFFER_BYTES);
      return copyPiece(job, buffers[slot], cache, digester);
    },
    BUFFERS,
    () => cache.close(),
  );
}

/** Fill `bytes` with those of the donor's file from `byteOffset` on, out of a stretch that is in memory. */
export function copyHeld({ buffer, firstByte }: HeldBytes, bytes: Uint8Array, byteOffset: number): void {
  bytes.set(new Uint8Array(buffer, byteOffset - firstByte, bytes.byteLength));
}

/** Copy a piece from the donor, or read it where it stands in the output, through `buffer`; returns its digest. */
export async function copyPiece(
  { kind, donorPath, outputPath, byteOffset, outputByteOffset, byteLength, held }: PieceJob,
  buffer: Uint8Array,
  files: FileCache,
  digester: Digester,
): Promise<PieceResult> {
  const [path, start] = kind === "check" ? [outputPath, outputByteOffset] : [donorPath, byteOffset];
  const move = async (bytes: Uint8Array, done: number): Promise<void> => {
    if (held !== undefined) copyHeld(held, bytes, start + done);
    else await files.use(path, READ_ONLY, (file) => readFully(file, bytes, start + done, path));
    if (kind !== "copy") return;
    await files.use(outputPath, "r+", (file) => writeFully(file, bytes, outputByteOffset + done, outputPath));
  };
  if (byteLength <= buffer.byteLength) {
    const bytes = buffer.subarray(0, byteLength);
    await move(bytes, 0);
    return { ...NOTHING_COUNTED, digest: digester.digest(bytes) };
  }
  // A band that fits no buffer passes through it; the digest is one of its own, for others may be taken between two
  // stretches.
  const hasher = (await createXXHash128()).init();
  for (let done = 0; done < byteLength; done += buffer.byteLength) {
    const bytes = buffer.subarray(0, Math.min(buffer.byteLength, byteLength - done));
    await move(bytes, done);
    hasher.update(bytes);
  }
  return { ...NOTHING_COUNTED, digest: hasher.digest("hex") };
}
