import { decodeFloats } from "../../safetensors/float-bits.js";
import type { StoredTensor } from "./weights.js";

/**
 * Rows of an embedding by token id, f32 (ids, width), read where they lie: each distinct one once, in the order of the
 * file, so that what decodes bands decodes none of them twice.
 */
export async function tokenRows({ info, dtype, read }: StoredTensor, ids: BigInt64Array): Promise<Float32Array> {
  const [, width] = info.shape;
  const rowBytes = info.byteLength / info.shape[0];
  const found = new Map<number, Float32Array>();
  for (const id of [...new Set(ids)].map(Number).sort((a, b) => a - b)) {
    found.set(id, decodeFloats(await read(id * rowBytes, (id + 1) * rowBytes), dtype, "copy"));
  }
  const rows = new Float32Array(ids.length * width);
  for (const [place, id] of ids.entries()) rows.set(found.get(Number(id))!, place * width);
  return rows;
}
