import type { Donor } from "./donor.js";

/** Bytes of each tensor in memory at once. */
const PIECE_BYTES = 4 << 20;

/**
 * Whether two tensors of a model have one dtype, one shape and the same bytes (`mostBytes`: as far as they are looked
 * at). False where either is missing.
 */
export async function isSameTensor(
  donor: Donor,
  first: string,
  second: string,
  mostBytes = Number.POSITIVE_INFINITY,
): Promise<boolean> {
  const [a, b] = [first, second].map((name) => {
    const shard = donor.shards.find(({ tensors }) => tensors.some((tensor) => tensor.name === name));
    return { file: shard?.file, info: shard?.tensors.find((tensor) => tensor.name === name) };
  });
  if (a.file === undefined || b.file === undefined || a.info === undefined || b.info === undefined) return false;
  if (a.info.dtype !== b.info.dtype || a.info.shape.join() !== b.info.shape.join()) return false;
  const [left, right] = [await donor.source.open(a.file), await donor.source.open(b.file)];
  try {
    const byteLength = Math.min(a.info.byteLength, mostBytes);
    for (let begin = 0; begin < byteLength; begin += PIECE_BYTES) {
      const end = Math.min(begin + PIECE_BYTES, byteLength);
      const one = await left.read(a.info.byteOffset + begin, a.info.byteOffset + end);
      const other = await right.read(b.info.byteOffset + begin, b.info.byteOffset + end);
      if (Buffer.compare(one, other) !== 0) return false;
    }
    return true;
  } finally {
    await left.close();
    await right.close();
  }
}
