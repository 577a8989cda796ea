import type { TargetShape } from "../checkpoint/projections.js";
import { bytesPerFloat } from "../safetensors/dtypes.js";

/**
 * A piece is what one worker takes at a time: whole bands of tiles of one matrix, or a stretch of a carried-over
 * tensor. The partition depends on shape, dtype and block size alone, so the digests built on it are the same for any
 * worker count.
 */
export interface Piece {
  /** From the tensor's first byte. */
  readonly byteOffset: number;
  readonly byteLength: number;
  /** Rows of the matrix in this piece; 0 for a carried-over stretch. */
  readonly rows: number;
  /** Index of the matrix in its stack, and the first row in it: for messages. */
  readonly matrix: number;
  readonly rowStart: number;
}

/**
 * How a tensor is cut: `matrixByteLength` bytes a matrix, each into pieces of `pieceByteLength` and a shorter last one.
 */
export interface Partition {
  readonly matrixByteLength: number;
  readonly pieceByteLength: number;
}

/**
 * Large enough that a call's cost vanishes, small enough that a few in flight fit half a gigabyte
 * (docs/performance.md).
 */
const PIECE_BYTES = 8 << 20;

export function partitionOf(byteLength: number, target: TargetShape | undefined, blockSize: number): Partition {
  if (target === undefined) return { matrixByteLength: byteLength, pieceByteLength: PIECE_BYTES };
  const rowByteLength = target.cols * bytesPerFloat(target.dtype);
  const bandByteLength = Math.min(blockSize, target.rows) * rowByteLength;
  const bands = Math.max(1, Math.floor(PIECE_BYTES / bandByteLength));
  return { matrixByteLength: target.rows * rowByteLength, pieceByteLength: bands * bandByteLength };
}

export function* piecesOf(byteLength: number, target: TargetShape | undefined, blockSize: number): Generator<Piece> {
  const { matrixByteLength, pieceByteLength } = partitionOf(byteLength, target, blockSize);
  const rowByteLength = target === undefined ? 0 : target.cols * bytesPerFloat(target.dtype);
  for (let start = 0, matrix = 0; start < byteLength; start += matrixByteLength, matrix++) {
    for (let offset = 0; offset < matrixByteLength; offset += pieceByteLength) {
      const length = Math.min(pieceByteLength, matrixByteLength - offset);
      yield {
        byteOffset: start + offset,
        byteLength: length,
        rows: target === undefined ? 0 : length / rowByteLength,
        matrix,
        rowStart: target === undefined ? 0 : offset / rowByteLength,
      };
    }
  }
}

/** Pieces of a tensor, without walking them. */
export function countPieces(byteLength: number, { matrixByteLength, pieceByteLength }: Partition): number {
  return byteLength === 0 ? 0 : (byteLength / matrixByteLength) * Math.ceil(matrixByteLength / pieceByteLength);
}

/** Tiles of a target: every weight lies in exactly one. */
export function countTiles({ matrixCount, rows, cols }: TargetShape, blockSize: number): number {
  return matrixCount * Math.ceil(rows / blockSize) * Math.ceil(cols / blockSize);
}
