// A plain copy of one large file by positional reads and writes, as bench/copy-shape.mjs and bench/io-forms.mjs time it:
// no arithmetic, no digest.
import { randomFillSync } from "node:crypto";
import { open } from "node:fs/promises";
import { timed } from "./cold.mjs";

export const MIB = 1 << 20;
const FILL_BYTES = 64 * MIB;

/** About so many gigabytes, in whole pieces of what `fill` writes at once. */
export function totalOf(gigabytes) {
  return Math.round((Number(gigabytes) * 1e9) / FILL_BYTES) * FILL_BYTES;
}

/** A file of `total` random bytes, on the disk. */
export async function fill(path, total) {
  const file = await open(path, "w");
  const bytes = randomFillSync(new Uint8Array(FILL_BYTES));
  for (let position = 0; position < total; position += bytes.length) await file.write(bytes, 0, bytes.length, position);
  await file.sync();
  await file.close();
}

/** The reference: what the system copies, flushed. */
export function cp(from, to) {
  return timed("sh", ["-c", 'cp "$0" "$1" && sync "$1"', from, to]);
}

/**
 * Copy `total` bytes between two open files, a piece of each of `buffers` under way; closes both, flushed. `wrote` is
 * told how many bytes each write took, and may return what is to end before the last flush.
 */
export async function copyPieces(source, target, total, buffers, wrote = () => {}) {
  await target.truncate(total);
  let next = 0;
  let aside;
  const lane = async (buffer) => {
    while (next < total) {
      const position = next;
      next += buffer.length;
      const length = Math.min(buffer.length, total - position);
      await all(source, "read", buffer, length, position);
      await all(target, "write", buffer, length, position);
      aside = wrote(length) ?? aside;
    }
  };
  await Promise.all(buffers.map(lane));
  await aside;
  await target.sync();
  await Promise.all([source.close(), target.close()]);
}

async function all(file, operation, buffer, length, position) {
  for (let done = 0; done < length; ) {
    const { bytesRead, bytesWritten } = await file[operation](buffer, done, length - done, position + done);
    const moved = bytesRead ?? bytesWritten;
    if (moved === 0) throw new Error(`${operation} of ${length} bytes ended after ${done}`);
    done += moved;
  }
}
