import { join } from "node:path";
import { type FileLayer, FileSource, nodeFiles } from "../checkpoint/file-layer.js";
import { DRIVE_BINS, driveBinEdge } from "../flow/drive-histogram.js";
import { Dynamic, driveThreshold } from "../flow/dynamic.js";
import { BandKernel } from "../flow/kernels.js";
import { magnitudeFormat, weightPatterns } from "../flow/magnitudes.js";
import type { FlowParams } from "../flow/params.js";
import { isTurned, runResidentBand } from "../flow/resident-band.js";
import type { Figures, TensorRow, TileMap } from "../record/surgery-report.js";
import { bytesPerFloat } from "../safetensors/dtypes.js";
import { loadKernelModule } from "../wasm.js";
import { openDonorFile } from "./donor-files.js";
import { kernelFlow, kernelSizes, type Plan, type PlannedTensor } from "./plan.js";

/** Bands whose drives are counted for the histogram, spread evenly over the targets. */
const SAMPLED_BANDS = 16;
const BIN_WIDTH = 0.05;
const LAST_EDGE = 4;
/** Cells of a tile map, at most, down and across. */
const MAX_CELLS = 64;
const CHUNK_BYTES = 4 << 20;

/** Gather what the report draws, from the donor's and the output's files. `checkSignal` throws to stop it. */
export async function gatherFigures(
  plan: Plan,
  params: FlowParams,
  outputFolder: string,
  rows: readonly TensorRow[],
  files: FileLayer = nodeFiles,
  checkSignal: () => void = () => {},
): Promise<Figures> {
  const targets = plan.shards.flatMap((shard) => shard.tensors.filter(({ target }) => target !== undefined));
  // v2 cuts no drives at a threshold: there is no cut to draw.
  const isCut = plan.options.activation === undefined;
  const [drives, maps] = await Promise.allSettled([
    isCut ? countDrives(plan, params, targets, files, checkSignal) : null,
    mapExtremes(params, targets, outputFolder, rows, files, checkSignal),
  ]);
  if (drives.status === "rejected") throw drives.reason;
  if (maps.status === "rejected") throw maps.reason;
  return { drive_histogram: drives.value, tile_maps: maps.value };
}

async function countDrives(
  plan: Plan,
  params: FlowParams,
  targets: readonly PlannedTensor[],
  files: FileLayer,
  checkSignal: () => void,
): Promise<Figures["drive_histogram"]> {
  const { slotByteLength } = plan.memory;
  const fine = new Float64Array(DRIVE_BINS);
  let zeros = 0;
  let tiles = 0;
  let weights = 0;
  const { maxCols } = kernelSizes(plan);
  const kernel = new BandKernel(
    loadKernelModule("surgery"),
    { slotCount: 1, slotByteLength, maxCols },
    params,
    kernelFlow(plan.options),
    "count",
  );
  const picks = Math.min(SAMPLED_BANDS, targets.length);
  for (let pick = 0; pick < picks; pick++) {
    checkSignal();
    const tensor = targets[Math.floor((pick * targets.length) / picks)];
    const target = tensor.target!;
    const rowByteLength = target.cols * bytesPerFloat(target.dtype);
    const bandRows = Math.min(params.blockSize, target.rows);
    // A band that fits no slot is left out of the picture; the operation streams it.
    if (bandRows * rowByteLength > slotByteLength) continue;
    const bands = Math.floor(target.rows / bandRows);
    const band = Math.floor((bands * (pick + 0.5)) / picks);
    const bytes = kernel.slot(0).subarray(0, bandRows * rowByteLength);
    await readDonor(plan, tensor, bytes, band * bytes.byteLength, files);
    const { dtype, cols, storedByInput = false } = target;
    const turned = isTurned(kernelFlow(plan.options), storedByInput);
    const sampled = { slot: 0, byteOffset: 0, dtype, rows: bandRows, cols, turned };
    runResidentBand(
      kernel,
      params.blockSize,
      sampled,
      () => {},
      () => {
        tiles += kernel.dead.length;
      },
    );
    kernel.takeHistogram(fine);
    zeros += countZeros(bytes, target.dtype);
    weights += bandRows * target.cols;
  }
  if (tiles === 0) return null;
  const bins = Math.round(LAST_EDGE / BIN_WIDTH);
  const counts = new Array<number>(bins).fill(0);
  counts[0] = zeros;
  for (let bin = 0; bin < DRIVE_BINS; bin++) {
    if (fine[bin] > 0) counts[Math.min(Math.floor(driveBinEdge(bin) / BIN_WIDTH), bins - 1)] += fine[bin];
  }
  const threshold = driveThreshold(new Dynamic(params));
  return {
    bin_edges: Array.from({ length: bins + 1 }, (_, bin) => Math.round(bin * BIN_WIDTH * 100) / 100),
    counts,
    sampled_tiles: tiles,
    sampled_weights: weights,
    threshold: Number.isFinite(threshold) ? threshold : LAST_EDGE,
  };
}

async function readDonor(
  plan: Plan,
  tensor: PlannedTensor,
  into: Uint8Array,
  byteOffset: number,
  files: FileLayer,
): Promise<void> {
  const source = await openDonorFile(plan, tensor.shard, files);
  try {
    await source.readInto(into, tensor.byteOffset + byteOffset);
  } finally {
    await source.close();
  }
}

async function mapExtremes(
  params: FlowParams,
  targets: readonly PlannedTensor[],
  outputFolder: string,
  rows: readonly TensorRow[],
  files: FileLayer,
  checkSignal: () => void,
): Promise<TileMap[]> {
  if (rows.length === 0) return [];
  const most = rows.reduce((best, row) => (row.sparsity > best.sparsity ? row : best));
  const least = rows.reduce((best, row) => (row.sparsity < best.sparsity ? row : best));
  const maps: TileMap[] = [];
  for (const [which, row] of [["most pruned", most] as const, ["least pruned", least] as const]) {
    const tensor = targets.find(({ name }) => name === row.name);
    if (tensor !== undefined && !maps.some(({ name }) => name === row.name)) {
      maps.push(await mapTiles(which, tensor, params.blockSize, join(outputFolder, tensor.shard), files, checkSignal));
    }
  }
  return maps;
}

/** Zeros of each cell, counted from the output; a stack of matrices is mapped one below the other. */
async function mapTiles(
  which: TileMap["which"],
  tensor: PlannedTensor,
  blockSize: number,
  path: string,
  files: FileLayer,
  checkSignal: () => void,
): Promise<TileMap> {
  const { dtype, matrixCount, rows: matrixRows, cols: matrixCols } = tensor.target!;
  const bandsPerMatrix = Math.ceil(matrixRows / blockSize);
  const tileRows = bandsPerMatrix * matrixCount;
  const tileCols = Math.ceil(matrixCols / blockSize);
  const cellRows = Math.min(tileRows, MAX_CELLS);
  const cellCols = Math.min(tileCols, MAX_CELLS);
  const zeros = new Float64Array(cellRows * cellCols);
  const weights = new Float64Array(cellRows * cellCols);
  // Where each cell's columns end.
  const cellEnds = new Int32Array(cellCols);
  for (let col = 0; col < matrixCols; col++) {
    cellEnds[Math.floor((Math.floor(col / blockSize) * cellCols) / tileCols)] = col + 1;
  }
  const rowByteLength = matrixCols * bytesPerFloat(dtype);
  const rowsPerRead = Math.max(1, Math.floor(CHUNK_BYTES / rowByteLength));
  const { magnitudeMask } = magnitudeFormat(dtype);
  const totalRows = matrixRows * matrixCount;
  const source = await FileSource.open(path, files);
  const buffers = [0, 1].map(() => new Uint8Array(rowsPerRead * rowByteLength));
  const read = async (first: number, bytes: Uint8Array): Promise<Uint8Array> => {
    const part = bytes.subarray(0, Math.min(rowsPerRead, totalRows - first) * rowByteLength);
    await source.readInto(part, tensor.byteOffset + first * rowByteLength);
    return part;
  };
  let next: Promise<Uint8Array> | undefined;
  try {
    for (let first = 0, turn = 0; first < totalRows; first += rowsPerRead, turn = 1 - turn) {
      checkSignal();
      const bytes = await (next ?? read(first, buffers[turn]));
      // The disk fetches what comes next while this is counted.
      const following = first + rowsPerRead;
      next = following < totalRows ? read(following, buffers[1 - turn]) : undefined;
      next?.catch(() => {});
      const count = bytes.byteLength / rowByteLength;
      const patterns = weightPatterns(bytes, dtype);
      for (let i = 0; i < count; i++) {
        const row = first + i;
        const tileRow = Math.floor(row / matrixRows) * bandsPerMatrix + Math.floor((row % matrixRows) / blockSize);
        const cells = Math.floor((tileRow * cellRows) / tileRows) * cellCols;
        const start = i * matrixCols;
        // Cell by cell, with a count of its own: a look-up for every weight takes several times as long.
        for (let cellCol = 0, col = 0; cellCol < cellCols; cellCol++) {
          const end = cellEnds[cellCol];
          let dead = 0;
          weights[cells + cellCol] += end - col;
          for (; col < end; col++) if ((patterns[start + col] & magnitudeMask) === 0) dead++;
          zeros[cells + cellCol] += dead;
        }
      }
    }
  } finally {
    await next?.catch(() => {});
    await source.close();
  }
  return {
    which,
    name: tensor.name,
    block_size: blockSize,
    rows: cellRows,
    cols: cellCols,
    tile_rows: tileRows,
    tile_cols: tileCols,
    sparsity: Array.from(zeros, (count, cell) => (weights[cell] === 0 ? 0 : count / weights[cell])),
  };
}

function countZeros(bytes: Uint8Array, dtype: Parameters<typeof magnitudeFormat>[0]): number {
  const { magnitudeMask } = magnitudeFormat(dtype);
  let zeros = 0;
  for (const pattern of weightPatterns(bytes, dtype)) if ((pattern & magnitudeMask) === 0) zeros++;
  return zeros;
}
