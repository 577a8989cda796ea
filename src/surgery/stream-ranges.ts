import { piecesOf } from "../record/pieces.js";
import type { PlannedShard } from "./plan.js";

/** Bytes that are asked for at once: enough for any distance, few enough to hold several. */
export const MIN_RANGE_BYTES = 32 << 20;
export const MAX_RANGE_BYTES = 64 << 20;

export interface ShardRange {
  readonly begin: number;
  readonly end: number;
  /** Ends of tensors within it, ascending: where a hash can be taken up again. */
  readonly tensorEnds: readonly number[];
}

/** A shard from byte `from` on in ranges that end where pieces end, so that each piece lies in one. */
export function* rangesOf(
  { tensors, byteLength }: PlannedShard,
  blockSize: number,
  from: number,
): Generator<ShardRange> {
  let begin = from;
  let end = from;
  let tensorEnds: number[] = [];
  for (const tensor of tensors) {
    for (const piece of piecesOf(tensor.byteLength, tensor.target, blockSize)) {
      const pieceEnd = tensor.byteOffset + piece.byteOffset + piece.byteLength;
      if (pieceEnd <= from) continue;
      if (end > begin && (end - begin >= MIN_RANGE_BYTES || pieceEnd - begin > MAX_RANGE_BYTES)) {
        yield { begin, end, tensorEnds };
        [begin, tensorEnds] = [end, []];
      }
      end = pieceEnd;
    }
    if (tensor.byteOffset + tensor.byteLength > from) tensorEnds.push(tensor.byteOffset + tensor.byteLength);
  }
  // A file without tensors is all header.
  if (byteLength > begin) yield { begin, end: byteLength, tensorEnds };
}
