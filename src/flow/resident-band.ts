import { bytesPerFloat, type FloatDtype } from "../safetensors/dtypes.js";
import type { BandKernel } from "./kernels.js";
import { weightPatterns } from "./magnitudes.js";
import type { DataFreeFlow } from "./reference.js";

/**
 * A band of tiles that lies whole in a slot of a kernel: rows × cols weights as in the file, from `byteOffset` of the
 * slot on.
 */
export interface ResidentBand {
  readonly slot: number;
  readonly byteOffset: number;
  readonly dtype: FloatDtype;
  readonly rows: number;
  readonly cols: number;
  /** The file's rows are the product's inputs, and the flow tells inputs from outputs. */
  readonly turned: boolean;
}

/**
 * Does a flow tell the two sides of a matrix apart? A magnitude's tile is the same whichever way it lies, up to the
 * order of one sum; the balance ends on outputs, so it must know them.
 */
export function isTurned(flow: DataFreeFlow, storedByInput: boolean): boolean {
  return flow === "balanced" && storedByInput;
}

/**
 * Run every pass over one band. A turned band is transposed in place first, so that its tiles, one below the other,
 * have outputs as rows, and transposed back at the end: the tiles of a matrix, transposed, are the tiles of the
 * transposed matrix.
 *
 * `afterSum` is called when the weights have been summed, with the band as it lies in the file; `done` for every run of
 * the kernel, whose counts are valid then.
 */
export function runResidentBand(
  kernel: BandKernel,
  blockSize: number,
  band: ResidentBand,
  afterSum: () => void,
  done: (rows: number, cols: number) => void,
): void {
  const { slot, byteOffset, dtype, rows, cols } = band;
  if (!band.turned) {
    runPasses(kernel, { slot, byteOffset, dtype, rows, cols }, afterSum);
    done(rows, cols);
    return;
  }
  const elementBytes = bytesPerFloat(dtype);
  const inPlace = weightPatterns(
    kernel.slot(slot).subarray(byteOffset, byteOffset + rows * cols * elementBytes),
    dtype,
  );
  inPlace.set(transposed(inPlace, rows, cols));
  for (let top = 0; top < cols; top += blockSize) {
    const tileRows = Math.min(blockSize, cols - top);
    const at = byteOffset + top * rows * elementBytes;
    runPasses(kernel, { slot, byteOffset: at, dtype, rows: tileRows, cols: rows }, () => {});
    done(tileRows, rows);
  }
  inPlace.set(transposed(inPlace, cols, rows));
  afterSum();
}

function runPasses(
  kernel: BandKernel,
  { slot, byteOffset, dtype, rows, cols }: Omit<ResidentBand, "turned">,
  afterSum: () => void,
): void {
  kernel.begin(dtype, rows, cols);
  kernel.run(0, slot, byteOffset, 0, rows);
  kernel.end(0);
  afterSum();
  if (kernel.finishWhole(slot, byteOffset)) return;
  for (let pass = 1; pass < kernel.passCount; pass++) {
    kernel.run(pass, slot, byteOffset, 0, rows);
    kernel.end(pass);
  }
}

/** rows × cols patterns, row-major, as cols × rows. */
export function transposed<P extends Uint16Array | Uint32Array>(patterns: P, rows: number, cols: number): P {
  const out = new (patterns.constructor as new (length: number) => P)(rows * cols);
  for (let row = 0; row < rows; row++) {
    for (let col = 0; col < cols; col++) out[col * rows + row] = patterns[row * cols + col];
  }
  return out;
}
