import type { BandKernel } from "../flow/kernels.js";
import { magnitudeFormat, weightPatterns } from "../flow/magnitudes.js";
import { piecesOf } from "../record/pieces.js";
import type { PlannedTensor } from "./plan.js";
import type { PieceResult } from "./protocol.js";

/** The result of a piece in which nothing was counted. */
export const NOTHING_COUNTED: Readonly<PieceResult> = {
  digest: "",
  weights: 0,
  dead: 0,
  zeros: 0,
  nonFinite: 0,
  tiles: 0,
  minTileSparsity: 1,
  maxTileSparsity: 0,
};

/** Adds up what the tiles of a piece lost. */
export class TileTally {
  private readonly sums = { ...NOTHING_COUNTED };

  /** A tile of so many weights, `dead` of which are ±0 now. */
  addTile(weights: number, dead: number): void {
    const { sums } = this;
    const sparsity = dead / weights;
    sums.weights += weights;
    sums.dead += dead;
    sums.tiles++;
    sums.minTileSparsity = Math.min(sums.minTileSparsity, sparsity);
    sums.maxTileSparsity = Math.max(sums.maxTileSparsity, sparsity);
  }

  /** A band of tiles as a kernel counted it. */
  addBand(kernel: BandKernel, rows: number, cols: number, blockSize: number): void {
    for (let tile = 0; tile < kernel.dead.length; tile++) {
      this.addTile(rows * Math.min(blockSize, cols - tile * blockSize), kernel.dead[tile]);
      this.sums.zeros += kernel.zeros[tile];
      this.sums.nonFinite += kernel.nonFinite[tile];
    }
  }

  result(digest: string): PieceResult {
    return { ...this.sums, digest };
  }
}

/**
 * Results of a target's pieces, counted from its bytes as they are written; digests are left to the caller, zeros of
 * the donor are not known here.
 */
export function* countPieces(
  { byteLength, target }: PlannedTensor,
  bytes: Uint8Array,
  blockSize: number,
  digest: (piece: Uint8Array) => string,
): Generator<PieceResult> {
  const { dtype, cols } = target!;
  const { magnitudeMask, bytes: elementBytes } = magnitudeFormat(dtype);
  const patterns = weightPatterns(bytes, dtype);
  for (const piece of piecesOf(byteLength, target, blockSize)) {
    const tally = new TileTally();
    const first = piece.byteOffset / elementBytes;
    for (let top = 0; top < piece.rows; top += blockSize) {
      const rows = Math.min(blockSize, piece.rows - top);
      for (let left = 0; left < cols; left += blockSize) {
        const width = Math.min(blockSize, cols - left);
        let dead = 0;
        for (let row = top; row < top + rows; row++) {
          for (let at = first + row * cols + left, end = at + width; at < end; at++) {
            if ((patterns[at] & magnitudeMask) === 0) dead++;
          }
        }
        tally.addTile(rows * width, dead);
      }
    }
    yield tally.result(digest(bytes.subarray(piece.byteOffset, piece.byteOffset + piece.byteLength)));
  }
}
