import { type Evidence, evidenceOf } from "../record/evidence.js";
import { type Piece, piecesOf } from "../record/pieces.js";
import type { PieceFindings } from "./audit-jobs.js";
import type { AuditedTensor } from "./audited-tensor.js";

/** Collects the pieces of one tensor, in any order. */
export class TensorRecount {
  readonly pieces: readonly Piece[];
  readonly digests: string[];
  remaining: number;
  dead = 0;
  killed = 0;
  alreadyZero = 0;
  wrong = 0;
  firstWrong = Number.POSITIVE_INFINITY;
  unlike = 0;
  firstUnlike = Number.POSITIVE_INFINITY;
  private readonly rows: (readonly Float64Array[] | undefined)[];
  /** Rows seen of each band of each matrix. */
  private readonly rowsSeen: Uint32Array;
  private readonly bandsPerMatrix: number;

  constructor(
    readonly tensor: AuditedTensor,
    private readonly blockSize: number,
  ) {
    const { info, target } = tensor;
    this.pieces = [...piecesOf(info.byteLength, target, blockSize)];
    this.digests = new Array(this.pieces.length);
    this.rows = new Array(this.pieces.length);
    this.remaining = this.pieces.length;
    this.bandsPerMatrix = target === undefined ? 0 : Math.ceil(target.rows / blockSize);
    this.rowsSeen = new Uint32Array(target === undefined ? 0 : this.bandsPerMatrix * target.matrixCount);
  }

  add(index: number, found: PieceFindings): void {
    const piece = this.pieces[index];
    this.digests[index] = found.digest;
    this.rows[index] = found.evidence;
    this.remaining--;
    this.dead += found.dead;
    this.killed += found.killed;
    this.alreadyZero += found.alreadyZero;
    this.wrong += found.wrong;
    this.unlike += found.unlike;
    if (found.firstWrong >= 0) this.firstWrong = Math.min(this.firstWrong, found.firstWrong);
    if (found.firstUnlike >= 0) this.firstUnlike = Math.min(this.firstUnlike, found.firstUnlike);
    for (let row = piece.rowStart; row < piece.rowStart + piece.rows; row++) {
      this.rowsSeen[piece.matrix * this.bandsPerMatrix + Math.floor(row / this.blockSize)]++;
    }
  }

  /** What ties it to the donor, where that was looked for in every piece. */
  get evidence(): Evidence | undefined {
    return this.rows.includes(undefined) ? undefined : evidenceOf(this.rows.flatMap((piece) => piece!));
  }

  /** Tiles whose every row was seen exactly once, and their weights. */
  coverage(): { tiles: number; weights: number } {
    const { rows, cols } = this.tensor.target!;
    let tiles = 0;
    let weights = 0;
    for (let band = 0; band < this.rowsSeen.length; band++) {
      const height = Math.min(this.blockSize, rows - (band % this.bandsPerMatrix) * this.blockSize);
      if (this.rowsSeen[band] !== height) continue;
      tiles += Math.ceil(cols / this.blockSize);
      weights += height * cols;
    }
    return { tiles, weights };
  }
}
