import { seededBits } from "../record/evidence.js";
import { bytesPerFloat } from "../safetensors/dtypes.js";
import type { AuditedTensor } from "./audited-tensor.js";

/** A band of tiles and which of its tiles the reference is run on. */
export interface ProbedBand {
  readonly tensor: AuditedTensor;
  /** From the tensor's first byte. */
  readonly byteOffset: number;
  readonly matrix: number;
  readonly rowStart: number;
  readonly rows: number;
  readonly tiles: readonly number[];
}

/** A sample is this many bands, drawn from all of them alike, and as many tiles of each. */
const SAMPLED_BANDS = 16;
const TILES_PER_BAND = 4;
/** Bands are read whole, from both folders. */
const MAX_BAND_BYTES = 48 << 20;

/**
 * The bands to probe, all of them or a sample that nobody who wrote the output could know: it is drawn from `seed`.
 * Yields one after another, since small tiles make many.
 */
export function* chooseBands(
  targets: readonly AuditedTensor[],
  blockSize: number,
  sample: { readonly seed: number } | "all",
): Generator<ProbedBand> {
  const holdable = targets.filter((tensor) => isHoldable(tensor, blockSize));
  if (sample === "all") {
    for (const tensor of holdable) {
      const tiles = Array.from({ length: tileCols(tensor, blockSize) }, (_, tile) => tile);
      for (let band = 0; band < bandCount(tensor, blockSize); band++) yield bandAt(tensor, band, blockSize, tiles);
    }
    return;
  }
  const bits = seededBits(sample.seed);
  const total = holdable.reduce((sum, tensor) => sum + bandCount(tensor, blockSize), 0);
  for (const chosen of draw(bits, total, SAMPLED_BANDS)) {
    let band = chosen;
    let at = 0;
    while (band >= bandCount(holdable[at], blockSize)) band -= bandCount(holdable[at++], blockSize);
    yield bandAt(holdable[at], band, blockSize, draw(bits, tileCols(holdable[at], blockSize), TILES_PER_BAND));
  }
}

/** Tiles in bands too large to be held for the reference. */
export function tilesTooLarge(targets: readonly AuditedTensor[], blockSize: number): number {
  return targets
    .filter((tensor) => !isHoldable(tensor, blockSize))
    .reduce((sum, tensor) => sum + bandCount(tensor, blockSize) * tileCols(tensor, blockSize), 0);
}

function isHoldable({ target }: AuditedTensor, blockSize: number): boolean {
  const { rows, cols, dtype } = target!;
  return Math.min(blockSize, rows) * cols * bytesPerFloat(dtype) <= MAX_BAND_BYTES;
}

function bandCount({ target }: AuditedTensor, blockSize: number): number {
  return target!.matrixCount * Math.ceil(target!.rows / blockSize);
}

function tileCols({ target }: AuditedTensor, blockSize: number): number {
  return Math.ceil(target!.cols / blockSize);
}

function bandAt(tensor: AuditedTensor, band: number, blockSize: number, tiles: readonly number[]): ProbedBand {
  const { rows, cols, dtype } = tensor.target!;
  const perMatrix = Math.ceil(rows / blockSize);
  const matrix = Math.floor(band / perMatrix);
  const rowStart = (band % perMatrix) * blockSize;
  const byteOffset = (matrix * rows + rowStart) * cols * bytesPerFloat(dtype);
  return { tensor, byteOffset, matrix, rowStart, rows: Math.min(blockSize, rows - rowStart), tiles };
}

/** `count` different numbers below `total`, ascending; all of them where there are no more. */
function draw(bits: () => number, total: number, count: number): number[] {
  if (total <= count) return Array.from({ length: total }, (_, i) => i);
  const chosen = new Set<number>();
  // 53 bits: a model may have more tiles than 2^32.
  while (chosen.size < count) chosen.add(Math.floor(((bits() * 2 ** 21 + (bits() >>> 11)) / 2 ** 53) * total));
  return [...chosen].sort((a, b) => a - b);
}
