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

/** A sample is this many bands, spread evenly over the model, and as many tiles of each, spread evenly from edge to edge. */
const SAMPLED_BANDS = 16;
const TILES_PER_BAND = 4;
/** Bands are read whole, from both folders. */
const MAX_BAND_BYTES = 48 << 20;

/** The bands to probe, and how many tiles lie in bands too large to hold. */
export function chooseBands(
  targets: readonly AuditedTensor[],
  blockSize: number,
  mode: "sample" | "full",
): { bands: ProbedBand[]; tilesTooLarge: number } {
  let tilesTooLarge = 0;
  const all: ProbedBand[] = [];
  for (const tensor of targets) {
    const { matrixCount, rows, cols, dtype } = tensor.target!;
    const rowByteLength = cols * bytesPerFloat(dtype);
    const tileCols = Math.ceil(cols / blockSize);
    for (let matrix = 0; matrix < matrixCount; matrix++) {
      for (let rowStart = 0; rowStart < rows; rowStart += blockSize) {
        const bandRows = Math.min(blockSize, rows - rowStart);
        if (bandRows * rowByteLength > MAX_BAND_BYTES) {
          tilesTooLarge += tileCols;
          continue;
        }
        const byteOffset = (matrix * rows + rowStart) * rowByteLength;
        all.push({ tensor, byteOffset, matrix, rowStart, rows: bandRows, tiles: allTiles(tileCols) });
      }
    }
  }
  if (mode === "full") return { bands: all, tilesTooLarge };
  return {
    bands: spread(all, SAMPLED_BANDS).map((band) => ({ ...band, tiles: spread(band.tiles, TILES_PER_BAND) })),
    tilesTooLarge,
  };
}

function allTiles(count: number): number[] {
  return Array.from({ length: count }, (_, tile) => tile);
}

/** At most `count` items, evenly spread, first and last among them. */
function spread<T>(items: readonly T[], count: number): T[] {
  if (items.length <= count) return [...items];
  return Array.from({ length: count }, (_, i) => items[Math.round((i * (items.length - 1)) / (count - 1))]);
}
