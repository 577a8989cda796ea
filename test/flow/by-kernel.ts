import { BandKernel } from "../../dist/flow/kernels.js";
import { weightPatterns } from "../../dist/flow/magnitudes.js";
import type { FlowParams } from "../../dist/flow/params.js";
import type { DataFreeFlow } from "../../dist/flow/reference.js";
import { runResidentBand } from "../../dist/flow/resident-band.js";
import { bytesPerFloat, type FloatDtype } from "../../dist/safetensors/dtypes.js";
import { loadKernelModule } from "../../dist/wasm.js";

const module = loadKernelModule("surgery");
const GUARD = 0xa5;

export interface KernelResult {
  /** 1 is dead. */
  readonly mask: Uint8Array;
  /** The matrix after the operation. */
  readonly output: Uint8Array;
  readonly dead: number;
  readonly zeros: number;
  readonly nonFinite: number;
  /** Tiles that were balanced whole, and those of them that a bound decided. */
  readonly wholeTiles: number;
  readonly boundedTiles: number;
}

/**
 * Operate on a matrix through the kernels, as a whole or in row ranges of `rowsAtOnce`, and prove on the way that no kernel wrote
 * outside its buffers: every byte between regions holds a guard.
 */
export function deadByKernel(
  flow: DataFreeFlow,
  weights: Uint8Array,
  dtype: FloatDtype,
  rows: number,
  cols: number,
  params: FlowParams,
  rowsAtOnce = Number.POSITIVE_INFINITY,
): KernelResult {
  const kernel = new BandKernel(
    module,
    { slotCount: 2, slotByteLength: weights.byteLength, maxCols: cols },
    params,
    flow,
  );
  const memory = new Uint8Array(kernel.memory.buffer);
  const gaps = kernel.regions.map(({ ptr, byteLength }, i) =>
    memory.subarray(ptr + byteLength, kernel.regions[i + 1]?.ptr ?? memory.length),
  );
  for (const gap of gaps) gap.fill(GUARD);
  kernel.slot(1).set(weights);
  const rowBytes = cols * bytesPerFloat(dtype);
  let dead = 0;
  let zeros = 0;
  let nonFinite = 0;
  const sum = (counts: Float64Array) => counts.reduce((total, count) => total + count, 0);
  for (let top = 0; top < rows; top += params.blockSize) {
    const bandRows = Math.min(params.blockSize, rows - top);
    if (rowsAtOnce === Number.POSITIVE_INFINITY) {
      const band = { slot: 1, byteOffset: top * rowBytes, dtype, rows: bandRows, cols, turned: false };
      const nothing = () => {};
      runResidentBand(kernel, params.blockSize, band, nothing, nothing);
    } else {
      kernel.begin(dtype, bandRows, cols);
      for (let pass = 0; pass < kernel.passCount; pass++) {
        for (let row = 0; row < bandRows; row += rowsAtOnce) {
          kernel.run(pass, 1, (top + row) * rowBytes, row, Math.min(rowsAtOnce, bandRows - row));
        }
        kernel.end(pass);
      }
    }
    dead += sum(kernel.dead);
    zeros += sum(kernel.zeros);
    nonFinite += sum(kernel.nonFinite);
  }
  for (const gap of gaps) if (gap.some((byte) => byte !== GUARD)) throw new Error("a kernel wrote outside its buffers");
  if (kernel.slot(0).some((byte) => byte !== 0)) throw new Error("a kernel wrote into another slot");
  const output = kernel.slot(1).slice(0, weights.byteLength);
  const mask = Uint8Array.from(weightPatterns(output, dtype), (pattern) => (pattern === 0 ? 1 : 0));
  const { wholeTiles, boundedTiles } = kernel;
  return { mask, output, dead, zeros, nonFinite, wholeTiles, boundedTiles };
}
