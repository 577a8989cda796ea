import type { RightFactor } from "../../engine/products.js";
import { TubeArena, type TubeKernel } from "./tube-arena.js";

/**
 * Rows of one matrix in the coordinates of the flow, all operated on at once.
 *
 * With the Gram G of the inputs, a_j = √G_jj and C = G/(a aᵀ) (unit diagonal), a row's tubes have the drive y = w∘a;
 * its output error is (y − Q) C (y − Q)ᵀ for the flow Q = x∘a of new weights x. The pressure g = (y − Q) C is what the
 * outputs still lack, seen from each input. Every stage keeps flow and pressure in step, so the loss is a dot product.
 * All arrays are f32 row-major (rows, cols).
 */
export interface TubeRows {
  readonly rows: number;
  readonly cols: number;
  /** C, as right factor: symmetric (cols, cols), unit diagonal. */
  readonly coupling: RightFactor;
  readonly drive: Float32Array;
  readonly flow: Float32Array;
  readonly pressure: Float32Array;
  /** 1 living, 0 dead; a dead tube's flow is 0 once a selection was made. */
  readonly alive: Uint8Array;
  /** Two arrays every stage may overwrite: a direction, and its product with C. */
  readonly scratch: readonly [Float32Array, Float32Array];
  /** Four numbers a row that a stage may overwrite. */
  readonly rowScratch: readonly [Float64Array, Float64Array, Float64Array, Float64Array];
  readonly kernel: TubeKernel;
}

/** Bytes of `TubeRows` a tube: five arrays of f32 and the mask. */
export const BYTES_PER_TUBE = 5 * 4 + 1;

/**
 * Start with every tube open: Q = y, nothing lacks. The arrays lie in `arena`, whose earlier ones are void from here
 * on.
 */
export function openTubes(
  drive: Float32Array,
  rows: number,
  cols: number,
  coupling: RightFactor,
  arena = new TubeArena(),
): TubeRows {
  const size = rows * cols;
  arena.reserve(size * BYTES_PER_TUBE + rows * 4 * 8, 10);
  const tubes: TubeRows = {
    rows,
    cols,
    coupling,
    drive: arena.floats(size),
    flow: arena.floats(size),
    pressure: arena.floats(size),
    alive: arena.bytes(size),
    scratch: [arena.floats(size), arena.floats(size)],
    rowScratch: [arena.doubles(rows), arena.doubles(rows), arena.doubles(rows), arena.doubles(rows)],
    kernel: arena.kernel,
  };
  tubes.drive.set(drive);
  tubes.flow.set(drive);
  tubes.pressure.fill(0);
  tubes.alive.fill(1);
  return tubes;
}

/** Output error of each row, (y − Q)·g ≥ 0 up to rounding. */
export function rowLosses(tubes: TubeRows, losses = new Float64Array(tubes.rows)): Float64Array {
  const { rows, cols, drive, flow, pressure, kernel, rowScratch } = tubes;
  const [sums] = rowScratch;
  kernel.rowLosses(rows, cols, drive.byteOffset, flow.byteOffset, pressure.byteOffset, sums.byteOffset);
  losses.set(sums);
  return losses;
}

/** Compute the pressure anew from flow and drive (one product): after the flow was changed other than by a stage. */
export async function refreshPressure(tubes: TubeRows): Promise<void> {
  const { rows, drive, flow, pressure, scratch } = tubes;
  const [lack] = scratch;
  for (let at = 0; at < lack.length; at++) lack[at] = drive[at] - flow[at];
  await tubes.coupling.multiply(lack, rows, pressure);
}

/** Energy of the outputs the drive asks for, y C yᵀ by row: what losses are relative to. One product. */
export async function rowEnergies(tubes: TubeRows): Promise<Float64Array> {
  const { rows, cols, drive, scratch } = tubes;
  const energies = new Float64Array(rows);
  await tubes.coupling.multiply(drive, rows, scratch[1]);
  for (let row = 0; row < rows; row++) {
    let energy = 0;
    for (let at = row * cols, end = at + cols; at < end; at++) energy += drive[at] * scratch[1][at];
    energies[row] = energy;
  }
  return energies;
}
