import type { Passage } from "./direct-files.js";
import { attempt, closeQuietly, type FileLayer, READ_ONLY } from "./file-layer.js";

/** Files under this are through the page cache in no time, and are likely to be read again. */
const LARGE_BYTES = 64 << 20;

/** Places of a file that are looked at. */
const SAMPLES = 16;
const SAMPLE_BYTES = 4096;

/** What the user says: `PHYSARIUM_IO=cached` or `direct` for every file; otherwise it is found out. */
function told(): Passage | undefined {
  const said = process.env.PHYSARIUM_IO;
  return said === "cached" || said === "direct" ? said : undefined;
}

/**
 * How to read a file: what lies in the page cache already comes from there, at the speed of memory; a large file that
 * does not goes past it. Asks the system how many blocks this process had to fetch from disks for a few small reads, so
 * nothing else of this process may read meanwhile. Where the system counts none, files are read through the cache.
 */
export async function readPassage(path: string, byteLength: number, files: FileLayer): Promise<Passage> {
  const choice = told();
  if (choice !== undefined) return choice;
  if (byteLength < LARGE_BYTES || process.platform !== "linux") return "cached";
  const file = await attempt("opening", path, () => files.open(path, READ_ONLY));
  try {
    const buffer = new Uint8Array(SAMPLE_BYTES);
    let cold = 0;
    for (let sample = 0; sample < SAMPLES; sample++) {
      const position = Math.floor(((sample + 0.5) * byteLength) / SAMPLES / SAMPLE_BYTES) * SAMPLE_BYTES;
      const before = process.resourceUsage().fsRead;
      await attempt("reading", path, () => file.read(buffer, 0, SAMPLE_BYTES, position));
      if (process.resourceUsage().fsRead > before) cold++;
    }
    return cold > SAMPLES / 4 ? "direct" : "cached";
  } finally {
    await closeQuietly(file);
  }
}

/** How to write a file that is flushed at the end anyway. */
export function writePassage(byteLength: number): Passage {
  return told() ?? (byteLength < LARGE_BYTES ? "cached" : "direct");
}
