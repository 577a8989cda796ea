import { type FileLayer, FileSource, nodeFiles } from "../checkpoint/file-layer.js";
import type { Plan } from "./plan.js";

/** Small enough to be over before anyone waits. */
const SAMPLE_BYTES = 64 << 20;
const CHUNK_BYTES = 8 << 20;

/** Bytes a second at which the donor's largest shard reads just now, from its middle; part of it may be cached. */
export async function measureReadRate(plan: Plan, files: FileLayer = nodeFiles): Promise<number> {
  const shard = plan.shards.reduce((largest, other) => (other.byteLength > largest.byteLength ? other : largest));
  const sample = Math.min(SAMPLE_BYTES, shard.byteLength);
  const begin = Math.floor((shard.byteLength - sample) / 2);
  const source = await FileSource.open(shard.path, files);
  try {
    const buffer = new Uint8Array(Math.min(CHUNK_BYTES, sample));
    const started = performance.now();
    for (let done = 0; done < sample; done += buffer.byteLength) {
      await source.readInto(buffer.subarray(0, Math.min(buffer.byteLength, sample - done)), begin + done);
    }
    return sample / Math.max((performance.now() - started) / 1000, 1e-4);
  } finally {
    await source.close();
  }
}
