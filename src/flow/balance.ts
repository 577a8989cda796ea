import type { FloatDtype } from "../safetensors/dtypes.js";
import { magnitudeFormat } from "./magnitudes.js";

/** Sweeps of the Sinkhorn iteration: columns, then rows. */
export const BALANCE_SWEEPS = 8;
const LANES = 8;

/** What makes a balanced drive of a magnitude in row i and column j: y = |w|·r_i·c_j. */
export interface BalanceFactors {
  readonly rowFactors: Float64Array;
  readonly colFactors: Float64Array;
}

/**
 * Factors that balance one tile of stored weights: with `y = |w|·r_i·c_j` every input channel sends one unit and every
 * output channel draws one, then everything is scaled to mean 1 over the finite weights. A row or column without
 * weights gets the factor 0. NaN and infinities count as 0.
 */
export function balanceTile(
  patterns: Uint16Array | Uint32Array,
  dtype: FloatDtype,
  rows: number,
  cols: number,
  rowStride: number,
  start: number,
): BalanceFactors {
  const { magnitudeMask, infinity, toNumber } = magnitudeFormat(dtype);
  const magnitudes = new Float64Array(rows * cols);
  let finite = 0;
  for (let row = 0; row < rows; row++) {
    for (let col = 0; col < cols; col++) {
      const magnitude = patterns[start + row * rowStride + col] & magnitudeMask;
      if (magnitude >= infinity) continue;
      magnitudes[row * cols + col] = toNumber(magnitude);
      finite++;
    }
  }
  return balanceMagnitudes(magnitudes, rows, cols, finite);
}

/**
 * The same for magnitudes in memory, row-major (rows, cols); `finite` of them are weights, the others stand at 0.
 *
 * The order of every sum is part of the contract (f64 throughout):
 * - a column adds `|w|·r_i` from the first row to the last;
 * - a row adds `|w|·c_j` into lane `j mod 8`, left to right; the lanes are added `((0+2)+(4+6)) + ((1+3)+(5+7))`;
 * - the mean adds the rows' `r_i·(Σ_j |w|·c_j)` from the first to the last and divides by the count of finite weights;
 *   it goes into
 *   the row factors by one division.
 *
 * source: Sinkhorn & Knopp 1967 (matrix balancing); the drive is ours, DESIGN.md §2
 */
export function balanceMagnitudes(
  magnitudes: Float64Array,
  rows: number,
  cols: number,
  finite = rows * cols,
): BalanceFactors {
  const rowFactors = new Float64Array(rows).fill(1);
  const rowSums = new Float64Array(rows);
  const colFactors = new Float64Array(cols);
  const lanes = new Float64Array(LANES);
  for (let sweep = 0; sweep < BALANCE_SWEEPS; sweep++) {
    colFactors.fill(0);
    for (let row = 0; row < rows; row++) {
      for (let col = 0; col < cols; col++) colFactors[col] += magnitudes[row * cols + col] * rowFactors[row];
    }
    for (let col = 0; col < cols; col++) colFactors[col] = inverse(colFactors[col]);
    for (let row = 0; row < rows; row++) {
      lanes.fill(0);
      for (let col = 0; col < cols; col++) lanes[col % LANES] += magnitudes[row * cols + col] * colFactors[col];
      rowSums[row] = lanes[0] + lanes[2] + (lanes[4] + lanes[6]) + (lanes[1] + lanes[3] + (lanes[5] + lanes[7]));
      rowFactors[row] = inverse(rowSums[row]);
    }
  }
  let total = 0;
  for (let row = 0; row < rows; row++) total += rowFactors[row] * rowSums[row];
  const mean = total / finite;
  if (mean > 0) for (let row = 0; row < rows; row++) rowFactors[row] /= mean;
  return { rowFactors, colFactors };
}

/** `y` of one weight in the contract's order of operations. */
export function balancedDrive(magnitude: number, rowFactor: number, colFactor: number): number {
  return magnitude * rowFactor * colFactor;
}

function inverse(sum: number): number {
  return sum === 0 ? 0 : 1 / sum;
}
