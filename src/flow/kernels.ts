import { bytesPerFloat, type FloatDtype } from "../safetensors/dtypes.js";
import { BALANCE_SWEEPS } from "./balance.js";
import { findCut } from "./cut.js";
import { DRIVE_BINS } from "./drive-histogram.js";
import { Dynamic, driveThreshold } from "./dynamic.js";
import { magnitudeFormat } from "./magnitudes.js";
import type { FlowParams } from "./params.js";
import type { DataFreeFlow } from "./reference.js";

/** `operate` zeroes the dead; `count` leaves weights alone and fills the histogram of drives. */
export type KernelTask = "operate" | "count";

export interface KernelSizes {
  /** Bands in flight, each in a slot of its own. */
  readonly slotCount: number;
  readonly slotByteLength: number;
  /** Longest row of any target. */
  readonly maxCols: number;
}

/**
 * One buffer in the kernel's memory. Wasm memory has no walls: every pointer handed to a kernel comes from this table.
 */
export interface Region {
  readonly name: string;
  readonly ptr: number;
  readonly byteLength: number;
}

/** Exports of assembly/surgery.ts. */
type Rectangle = [data: number, rows: number, cols: number, blockSize: number];
interface SurgeryExports {
  [sum: `sumTiles${string}`]: (...args: [...Rectangle, sums: number, nonFinite: number]) => void;
  [cuts: `applyCuts${string}`]: (...args: [...Rectangle, cuts: number, dead: number, zeros: number]) => void;
  [columns: `addColumns${string}`]: (...args: [...Rectangle, rowFactors: number, colSums: number]) => void;
  [rows: `balanceRows${string}`]: (
    ...args: [...Rectangle, colFactors: number, rowFactors: number, totals: number]
  ) => void;
  [drives: `applyDrives${string}`]: (
    ...args: [...Rectangle, rowFactors: number, colFactors: number, threshold: number, dead: number, zeros: number]
  ) => void;
  [count: `countDrives${string}`]: (...args: [...Rectangle, means: number, histogram: number]) => void;
  [count: `countBalanced${string}`]: (
    ...args: [...Rectangle, rowFactors: number, colFactors: number, histogram: number]
  ) => void;
  invert(sums: number, count: number): void;
  [tile: `balanceTile${string}`]: (
    data: number,
    rows: number,
    cols: number,
    stride: number,
    finite: number,
    threshold: number,
    scratch: number,
    dead: number,
    zeros: number,
  ) => number;
}

const PAGE_BYTES = 65_536;
/** Unused bytes between regions; tests fill them and look whether a kernel wrote there. */
const GAP_BYTES = 64;
/** Slots begin on a block of the disk and have room for two more, so that pieces can be read straight into them. */
const SLOT_ALIGNMENT = 4096;
const SLOT_MARGIN = 2 * SLOT_ALIGNMENT;
/** Static data of the module (16-byte pads) lies under this. */
const FIRST_REGION = 4096;

/** Wasm memory one kernel needs: `plan` counts it. */
export function kernelByteLength(sizes: KernelSizes, params: FlowParams, flow: DataFreeFlow, task: KernelTask): number {
  const regions = layOut(sizes, params, flow, task);
  const last = regions[regions.length - 1];
  return Math.ceil((last.ptr + last.byteLength + GAP_BYTES) / PAGE_BYTES) * PAGE_BYTES;
}

function layOut(sizes: KernelSizes, { blockSize }: FlowParams, flow: DataFreeFlow, task: KernelTask): Region[] {
  const tiles = Math.ceil(sizes.maxCols / blockSize);
  const regions: Region[] = [];
  let ptr = FIRST_REGION;
  const place = (name: string, byteLength: number, alignment = 64): void => {
    ptr = Math.ceil(ptr / alignment) * alignment;
    regions.push({ name, ptr, byteLength });
    ptr += byteLength + GAP_BYTES;
  };
  place("sums", tiles * 8);
  place("nonFinite", tiles * 4);
  place("cuts", tiles * 4);
  place("dead", tiles * 4);
  place("zeros", tiles * 4);
  if (flow === "balanced") {
    place("rowFactors", blockSize * tiles * 8);
    place("colFactors", sizes.maxCols * 8);
    if (isWholeTile(task, blockSize)) place("tile", tileScratch(blockSize, Math.min(blockSize, sizes.maxCols)));
  }
  if (task === "count") place("histogram", DRIVE_BINS * 4);
  for (let slot = 0; slot < sizes.slotCount; slot++) {
    place(`slot${slot}`, sizes.slotByteLength + SLOT_MARGIN, SLOT_ALIGNMENT);
  }
  return regions;
}

/** Largest tile that lies beside its band as f32: a megabyte, so that it stays in a core's cache. */
const MAX_WHOLE_TILE = 512;

/** A band of a slot whose tiles are balanced one by one, each in a core's cache; a histogram needs every factor. */
function isWholeTile(task: KernelTask, blockSize: number): boolean {
  return task === "operate" && blockSize <= MAX_WHOLE_TILE;
}

/** Bytes that assembly/surgery/tile-memory.ts lays out for a tile. */
function tileScratch(rows: number, cols: number): number {
  const width = Math.ceil(cols / 16) * 16;
  return rows * width * 4 + width * 28 + Math.ceil(rows / 4) * 4 * 12;
}

/**
 * The kernels' face: a flow over one band of tiles (`blockSize` rows of a matrix, or fewer at its end), as passes over
 * the band's rows. A band that fits a slot is read once and passed over in memory; a larger one is streamed through
 * again for each pass in row ranges, with the same result to the bit.
 *
 * ```
 * begin(dtype, rows, cols)
 * for pass in 0 … passCount − 1:   run(pass, slot, …) for every row range in order, then end(pass)
 * ```
 */
export class BandKernel {
  readonly memory: WebAssembly.Memory;
  readonly regions: readonly Region[];
  /** Passes over the band; the last one zeroes (or counts). */
  readonly passCount: number;
  /** Per tile column of the band, valid after the last pass. */
  dead: Float64Array = new Float64Array(0);
  zeros: Float64Array = new Float64Array(0);
  nonFinite: Float64Array = new Float64Array(0);
  /** Tiles that `finishWhole` did, and those of them that needed no sum in the contract's own order: for benches. */
  wholeTiles = 0;
  boundedTiles = 0;

  private readonly wasm: SurgeryExports;
  private readonly at: Record<string, number>;
  private readonly dynamic: Dynamic;
  private readonly threshold: number;
  private dtype: FloatDtype = "BF16";
  private bandRows = 0;
  private cols = 0;
  private tiles = 0;

  constructor(
    module: WebAssembly.Module,
    sizes: KernelSizes,
    private readonly params: FlowParams,
    private readonly flow: DataFreeFlow,
    private readonly task: KernelTask = "operate",
  ) {
    this.regions = layOut(sizes, params, flow, task);
    this.at = Object.fromEntries(this.regions.map((region) => [region.name, region.ptr]));
    const pages = kernelByteLength(sizes, params, flow, task) / PAGE_BYTES;
    this.memory = new WebAssembly.Memory({ initial: pages, maximum: pages });
    const instance = new WebAssembly.Instance(module, { env: { memory: this.memory } });
    this.wasm = instance.exports as unknown as SurgeryExports;
    this.dynamic = new Dynamic(params);
    this.threshold = driveThreshold(this.dynamic);
    this.passCount = flow === "magnitude" ? 2 : 2 + 2 * BALANCE_SWEEPS;
  }

  /** The bytes of a slot; a band is read into it and written from it. */
  slot(index: number): Uint8Array {
    const room = this.room(index);
    return room.subarray(0, room.byteLength - SLOT_MARGIN);
  }

  /** A slot with its margin: its address and the margin are multiples of a disk's block. */
  room(index: number): Uint8Array {
    const { ptr, byteLength } = this.region(`slot${index}`);
    return new Uint8Array(this.memory.buffer, ptr, byteLength);
  }

  begin(dtype: FloatDtype, bandRows: number, cols: number): void {
    this.dtype = dtype;
    this.bandRows = bandRows;
    this.cols = cols;
    this.tiles = Math.ceil(cols / this.params.blockSize);
    this.f64("sums", this.tiles).fill(0);
    this.u32("nonFinite", this.tiles).fill(0);
    this.u32("dead", this.tiles).fill(0);
    this.u32("zeros", this.tiles).fill(0);
    this.dead = new Float64Array(this.tiles);
    this.zeros = new Float64Array(this.tiles);
    this.nonFinite = new Float64Array(this.tiles);
    if (this.flow === "balanced") {
      this.f64("rowFactors", bandRows * this.tiles).fill(1);
      this.f64("colFactors", cols).fill(0);
    }
  }

  /**
   * One pass over rows `rowStart` … `rowStart + rows` of the band, which lie gapless in a slot from `byteOffset` on.
   * Row ranges of a pass come in order and cover the band.
   */
  run(pass: number, slot: number, byteOffset: number, rowStart: number, rows: number): void {
    const { at, cols, dtype } = this;
    const { blockSize } = this.params;
    const data = at[`slot${slot}`] + byteOffset;
    const rectangle: Rectangle = [data, rows, cols, blockSize];
    const suffix = dtype === "BF16" ? "Bf16" : dtype;
    const isLast = pass === this.passCount - 1;
    if (pass === 0) {
      this.wasm[`sumTiles${suffix}`](...rectangle, at.sums, at.nonFinite);
      return;
    }
    const rowFactors = at.rowFactors + rowStart * this.tiles * 8;
    if (!isLast) {
      if (pass % 2 === 1) this.wasm[`addColumns${suffix}`](...rectangle, rowFactors, at.colFactors);
      else this.wasm[`balanceRows${suffix}`](...rectangle, at.colFactors, rowFactors, at.sums);
    } else if (this.task === "count") {
      if (this.flow === "magnitude") this.wasm[`countDrives${suffix}`](...rectangle, at.sums, at.histogram);
      else this.wasm[`countBalanced${suffix}`](...rectangle, rowFactors, at.colFactors, at.histogram);
    } else {
      if (this.flow === "magnitude") {
        this.wasm[`applyCuts${bytesPerFloat(dtype) * 8}`](...rectangle, at.cuts, at.dead, at.zeros);
      } else {
        this.wasm[`applyDrives${suffix}`](...rectangle, rowFactors, at.colFactors, this.threshold, at.dead, at.zeros);
      }
      // A kernel counts in 32 bits, which a tile of 65,536² could fill; totals are kept here.
      moveInto(this.dead, this.u32("dead", this.tiles));
      moveInto(this.zeros, this.u32("zeros", this.tiles));
    }
  }

  /**
   * Where the band lies whole in a slot and pass 0 has ended: all passes that are left, tile by tile, with the same
   * result to the bit. False where this flow or these tiles are for `run`.
   */
  finishWhole(slot: number, byteOffset: number): boolean {
    const { at, cols, dtype, bandRows } = this;
    const { blockSize } = this.params;
    if (this.flow !== "balanced" || !isWholeTile(this.task, blockSize)) return false;
    const balanceTile = this.wasm[`balanceTile${dtype === "BF16" ? "Bf16" : dtype}`];
    const data = at[`slot${slot}`] + byteOffset;
    for (let tile = 0; tile < this.tiles; tile++) {
      const left = tile * blockSize;
      this.boundedTiles += balanceTile(
        data + left * bytesPerFloat(dtype),
        bandRows,
        Math.min(blockSize, cols - left),
        cols,
        this.tileElements(tile) - this.nonFinite[tile],
        this.threshold,
        at.tile,
        at.dead + tile * 4,
        at.zeros + tile * 4,
      );
    }
    this.wholeTiles += this.tiles;
    moveInto(this.dead, this.u32("dead", this.tiles));
    moveInto(this.zeros, this.u32("zeros", this.tiles));
    return true;
  }

  /** What a pass decides once it has seen the whole band. */
  end(pass: number): void {
    const { tiles, cols } = this;
    const sums = this.f64("sums", tiles);
    if (pass === 0) {
      moveInto(this.nonFinite, this.u32("nonFinite", tiles));
      if (this.flow === "magnitude") this.decideCuts(sums);
      return;
    }
    if (pass === this.passCount - 1) return;
    if (pass % 2 === 1) {
      this.wasm.invert(this.at.colFactors, cols);
      sums.fill(0);
    } else if (pass < this.passCount - 2) {
      this.f64("colFactors", cols).fill(0);
    } else {
      this.scaleToMeanOne(sums);
    }
  }

  /** The histogram filled by `count` so far, emptied by reading; bins as in drive-histogram.ts. */
  takeHistogram(into: Float64Array): void {
    moveInto(into, this.u32("histogram", DRIVE_BINS));
  }

  private decideCuts(sums: Float64Array): void {
    const format = magnitudeFormat(this.dtype);
    const cuts = this.u32("cuts", this.tiles);
    for (let tile = 0; tile < this.tiles; tile++) {
      const finite = this.tileElements(tile) - this.nonFinite[tile];
      const mean = finite === 0 ? 0 : sums[tile] / finite;
      if (this.task === "count") sums[tile] = mean;
      else cuts[tile] = findCut(mean, format, this.dynamic, this.threshold);
    }
  }

  private scaleToMeanOne(totals: Float64Array): void {
    const rowFactors = this.f64("rowFactors", this.bandRows * this.tiles);
    for (let tile = 0; tile < this.tiles; tile++) {
      const mean = totals[tile] / (this.tileElements(tile) - this.nonFinite[tile]);
      if (mean > 0) for (let i = tile; i < rowFactors.length; i += this.tiles) rowFactors[i] /= mean;
    }
  }

  private tileElements(tile: number): number {
    const { blockSize } = this.params;
    return this.bandRows * Math.min(blockSize, this.cols - tile * blockSize);
  }

  private region(name: string): Region {
    return this.regions.find((region) => region.name === name)!;
  }

  private f64(name: string, length: number): Float64Array {
    return new Float64Array(this.memory.buffer, this.at[name], length);
  }

  private u32(name: string, length: number): Uint32Array {
    return new Uint32Array(this.memory.buffer, this.at[name], length);
  }
}

function moveInto(totals: Float64Array, counts: Uint32Array): void {
  for (let i = 0; i < totals.length; i++) totals[i] += counts[i];
  counts.fill(0);
}
