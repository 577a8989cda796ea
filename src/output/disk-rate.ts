import { randomBytes } from "node:crypto";
import { join } from "node:path";
import {
  attempt,
  closeQuietly,
  type FileLayer,
  nodeFiles,
  READ_ONLY,
  readFully,
  writeFully,
} from "../checkpoint/file-layer.js";

const PROBE_BYTES = 64 << 20;
const PIECE_BYTES = 8 << 20;

/**
 * Bytes a second that a folder's disk takes, flushed, and gives back (from the system's memory, most likely): by a file
 * of random bytes that is removed. Throws `IO_*`.
 */
export async function diskRate(
  folder: string,
  files: FileLayer = nodeFiles,
): Promise<{ readonly write: number; readonly read: number }> {
  const path = join(folder, `.physarium-doctor-${process.pid}-${randomBytes(4).toString("hex")}`);
  const piece = randomBytes(PIECE_BYTES);
  const seconds = async (work: () => Promise<void>): Promise<number> => {
    const started = performance.now();
    await work();
    return Math.max((performance.now() - started) / 1000, 1e-4);
  };
  const file = await attempt("creating", path, () => files.open(path, "wx"));
  try {
    const write = await seconds(async () => {
      for (let at = 0; at < PROBE_BYTES; at += PIECE_BYTES) await writeFully(file, piece, at, path);
      await attempt("flushing", path, () => file.sync());
    });
    const back = await attempt("opening", path, () => files.open(path, READ_ONLY));
    try {
      const read = await seconds(async () => {
        for (let at = 0; at < PROBE_BYTES; at += PIECE_BYTES) await readFully(back, piece, at, path);
      });
      return { write: PROBE_BYTES / write, read: PROBE_BYTES / read };
    } finally {
      await closeQuietly(back);
    }
  } finally {
    await closeQuietly(file);
    await files.rm(path, { force: true }).catch(() => {});
  }
}
