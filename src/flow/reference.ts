import type { FloatDtype } from "../safetensors/dtypes.js";
import { balancedDrive, balanceTile } from "./balance.js";
import { Dynamic, driveThreshold } from "./dynamic.js";
import { magnitudeFormat } from "./magnitudes.js";
import type { FlowParams } from "./params.js";
import { addToTileSum, meanOf, type TileSum } from "./tile-mean.js";

/** The flows that need no data. */
export type DataFreeFlow = "magnitude" | "balanced";

/** A rectangle of weights in memory: `rows` × `cols` elements, `rowStride` apart, from element `start`. */
export interface TileView {
  readonly patterns: Uint16Array | Uint32Array;
  readonly dtype: FloatDtype;
  readonly rows: number;
  readonly cols: number;
  readonly rowStride: number;
  readonly start: number;
}

/**
 * The readable specification of one tile: which weights die, by iterating every one of them.
 *
 * returns  rows × cols bytes, row-major; 1 is dead. ±0 is dead; NaN and infinities are left alone and out of the mean.
 */
export function deadInTile(flow: DataFreeFlow, tile: TileView, params: FlowParams): Uint8Array {
  const format = magnitudeFormat(tile.dtype);
  const dead = new Uint8Array(tile.rows * tile.cols);
  const dies = flow === "magnitude" ? magnitudeRule(tile, params) : balancedRule(tile, params);
  for (let row = 0; row < tile.rows; row++) {
    for (let col = 0; col < tile.cols; col++) {
      const magnitude = tile.patterns[tile.start + row * tile.rowStride + col] & format.magnitudeMask;
      if (magnitude >= format.infinity) continue;
      if (magnitude === 0 || dies(format.toNumber(magnitude), row, col)) dead[row * tile.cols + col] = 1;
    }
  }
  return dead;
}

type Rule = (magnitude: number, row: number, col: number) => boolean;

/** v1: the drive is the magnitude in units of the tile's mean, `y = |w|/mean`. */
function magnitudeRule({ patterns, dtype, rows, cols, rowStride, start }: TileView, params: FlowParams): Rule {
  const dynamic = new Dynamic(params);
  const total: TileSum = { sum: 0, nonFinite: 0 };
  addToTileSum(total, patterns, dtype, rows, cols, rowStride, start);
  const mean = meanOf(total, rows * cols);
  return (magnitude) => dynamic.starves(magnitude / mean);
}

/** balanced: the drive is the weight's share of a balanced flow; dead is what lies under one threshold a run. */
function balancedRule({ patterns, dtype, rows, cols, rowStride, start }: TileView, params: FlowParams): Rule {
  const threshold = driveThreshold(new Dynamic(params));
  const { rowFactors, colFactors } = balanceTile(patterns, dtype, rows, cols, rowStride, start);
  return (magnitude, row, col) => balancedDrive(magnitude, rowFactors[row], colFactors[col]) < threshold;
}

/** All tiles of a matrix (rows × cols, row-major), the mask in the matrix's own order. */
export function deadInMatrix(
  flow: DataFreeFlow,
  patterns: Uint16Array | Uint32Array,
  dtype: FloatDtype,
  rows: number,
  cols: number,
  params: FlowParams,
): Uint8Array {
  const dead = new Uint8Array(rows * cols);
  const { blockSize } = params;
  for (let top = 0; top < rows; top += blockSize) {
    for (let left = 0; left < cols; left += blockSize) {
      const tileRows = Math.min(blockSize, rows - top);
      const tileCols = Math.min(blockSize, cols - left);
      const tile = { patterns, dtype, rows: tileRows, cols: tileCols, rowStride: cols, start: top * cols + left };
      const tileDead = deadInTile(flow, tile, params);
      for (let row = 0; row < tileRows; row++) {
        dead.set(tileDead.subarray(row * tileCols, (row + 1) * tileCols), (top + row) * cols + left);
      }
    }
  }
  return dead;
}
