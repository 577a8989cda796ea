import { bytesPerFloat, type FloatDtype, isFloatDtype } from "../safetensors/dtypes.js";
import { loadKernelModule } from "../wasm.js";
import { type LinkValues, UNDONE } from "./gguf/links.js";
import { type TensorType, tensorBytes } from "./gguf/types.js";
import type { QuantisedType } from "./quantiser.js";
import { type ConversionTally, rangeError, refuseNonFinite, type WeightBand } from "./weight-band.js";

type Quantise = (source: number, target: number, count: number, rowLength: number, importance: number) => void;
type Dequantise = (source: number, target: number, count: number) => void;
type BlockType = Exclude<TensorType, FloatDtype>;

interface FloatKernel {
  freeMemoryFrom(): number;
  widen(dtype: number, source: number, count: number, target: number): number;
  narrow(dtype: number, source: number, count: number, target: number): void;
  countZeros(dtype: number, source: number, count: number): number;
  tally(weights: number, decoded: number, count: number, sums: number): number;
  compareStored(weights: number, stored: number, count: number, counts: number): number;
}

type Kernel = FloatKernel &
  Readonly<Record<`quantise${QuantisedType}`, Quantise>> &
  Readonly<Record<`dequantise${BlockType}`, Dequantise>>;

const DTYPE_NUMBERS: Readonly<Record<FloatDtype, number>> = { BF16: 1, F16: 2, F32: 3 };

/** Weights that pass through the kernels together: what they make of each other stays in the cache nearest to them. */
const TILE_WEIGHTS = 4096;
const PAGE_BYTES = 65_536;
const SUMS_BYTES = 32;
/** Kernels read and write up to three weights past the end. */
const SLACK_BYTES = 16;

let module: WebAssembly.Module | undefined;

/**
 * Converts bands of weights with the kernels of `assembly/quantise.ts`, tile by tile; the same bytes and sums as
 * `convertBand`, which is the spec. Its memory: `[kernel's own | sums | importance | stored | weights | written |
 * decoded]`, the last four a tile each.
 */
export class BandConverter {
  private readonly memory = new WebAssembly.Memory({ initial: 1 });
  private readonly kernel: Kernel;

  constructor() {
    module ??= loadKernelModule("quantise");
    const instance = new WebAssembly.Instance(module, { env: { memory: this.memory } });
    this.kernel = instance.exports as unknown as Kernel;
  }

  /**
   * Convert a band into `out`, which has exactly its bytes, and add what that did to `tally`. `out` may start anywhere.
   * Throws what `convertBand` throws.
   */
  convert(band: WeightBand, out: Uint8Array, tally: ConversionTally): void {
    const { bytes, dtype, type, importance } = band;
    const width = bytesPerFloat(dtype);
    const weights = bytes.byteLength / width;
    const rowLength = importance?.length ?? 1;
    const tile = Math.max(rowLength, Math.floor(TILE_WEIGHTS / rowLength) * rowLength);
    const places = this.placesFor(tile, importance);
    const sums = new Float64Array(this.memory.buffer, places.sums, 2);
    const counts = new Uint32Array(this.memory.buffer, places.sums + 16, 3);
    sums.set([tally.squaredError, tally.squaredNorm]);
    counts.fill(0);
    const memory = new Uint8Array(this.memory.buffer);
    const carriesAll = type === dtype || type === "F32";
    for (let first = 0; first < weights; first += tile) {
      const count = Math.min(tile, weights - first);
      memory.set(bytes.subarray(first * width, (first + count) * width), places.stored);
      const isPlain = type === dtype;
      if (carriesAll) {
        const zeros = this.kernel.countZeros(DTYPE_NUMBERS[dtype], places.stored, count);
        counts[0] += zeros;
        counts[1] += zeros;
        if (!isPlain) this.kernel.widen(DTYPE_NUMBERS[dtype], places.stored, count, places.written);
      } else this.convertTile(band, places, first, count);
      const from = isPlain ? places.stored : places.written;
      out.set(memory.subarray(from, from + tensorBytes(type, count)), tensorBytes(type, first));
    }
    tally.weights += weights;
    tally.squaredError = sums[0];
    tally.squaredNorm = sums[1];
    tally.zerosBefore += counts[0];
    tally.zerosAfter += counts[1];
    tally.zerosLost += counts[2];
  }

  /**
   * Decode GGUF rows and round them to a dtype; the same as `decodeRows`, which is the spec.
   *
   * out      their bytes in `dtype`; may start anywhere
   * refuse   makes the error for a weight that is not finite, or whose stored form is not
   */
  decode({ bytes, type, dtype, values }: GgufRows, out: Uint8Array, refuse: (weight: number) => Error): DecodeTally {
    const weights = out.byteLength / bytesPerFloat(dtype);
    const places = this.placesFor(TILE_WEIGHTS, undefined);
    const counts = new Uint32Array(this.memory.buffer, places.sums, 2).fill(0);
    const memory = new Uint8Array(this.memory.buffer);
    for (let first = 0; first < weights; first += TILE_WEIGHTS) {
      const count = Math.min(TILE_WEIGHTS, weights - first);
      const [from, to] = [tensorBytes(type, first), tensorBytes(type, first + count)];
      memory.set(bytes.subarray(from, to), places.stored);
      if (isFloatDtype(type)) this.kernel.widen(DTYPE_NUMBERS[type], places.stored, count, places.weights);
      else this.kernel[`dequantise${type}`](places.stored, places.weights, count);
      const decoded = this.floats(places.weights, count);
      if (values !== "same") decoded.set(decoded.map(UNDONE[values]));
      let written = places.weights;
      if (dtype !== "F32") {
        written = places.written;
        this.kernel.narrow(DTYPE_NUMBERS[dtype], places.weights, count, places.written);
        this.kernel.widen(DTYPE_NUMBERS[dtype], places.written, count, places.decoded);
      }
      const stored = dtype === "F32" ? places.weights : places.decoded;
      const bad = this.kernel.compareStored(places.weights, stored, count, places.sums);
      if (bad >= 0) throw refuse(decoded[bad]);
      const width = bytesPerFloat(dtype);
      out.set(memory.subarray(written, written + count * width), first * width);
    }
    return { zeros: counts[0], rounded: counts[1] };
  }

  private convertTile(band: WeightBand, places: Places, first: number, count: number): void {
    const { dtype, type, importance, tensor, firstElement } = band;
    const { kernel } = this;
    const bad = kernel.widen(DTYPE_NUMBERS[dtype], places.stored, count, places.weights);
    if (bad >= 0) {
      refuseNonFinite(this.floats(places.weights, count), firstElement + first, { tensor, type, dtype });
    }
    if (type === "F16" || type === "BF16") {
      kernel.narrow(DTYPE_NUMBERS[type], places.weights, count, places.written);
      kernel.widen(DTYPE_NUMBERS[type], places.written, count, places.decoded);
    } else {
      const blocks = type as QuantisedType;
      const columns = importance === undefined ? 0 : places.importance;
      kernel[`quantise${blocks}`](places.weights, places.written, count, importance?.length ?? count, columns);
      kernel[`dequantise${blocks}`](places.written, places.decoded, count);
    }
    const beyond = kernel.tally(places.weights, places.decoded, count, places.sums);
    if (beyond < 0) return;
    const before = this.floats(places.weights, count)[beyond];
    throw rangeError(before, firstElement + first + beyond, { tensor, type });
  }

  private floats(at: number, count: number): Float32Array {
    return new Float32Array(this.memory.buffer, at, count);
  }

  /** Where things are for tiles of so many weights; the memory is grown to hold them. */
  private placesFor(tile: number, importance: Float32Array | undefined): Places {
    const floats = 4 * tile + SLACK_BYTES;
    const sums = Math.ceil(this.kernel.freeMemoryFrom() / 64) * 64;
    const columns = sums + SUMS_BYTES;
    const stored = Math.ceil((columns + (importance?.byteLength ?? 0)) / 64) * 64;
    const [weights, written, decoded, end] = [1, 2, 3, 4].map((tiles) => stored + tiles * Math.ceil(floats / 64) * 64);
    const missing = end - this.memory.buffer.byteLength;
    if (missing > 0) this.memory.grow(Math.ceil(missing / PAGE_BYTES));
    if (importance !== undefined) this.floats(columns, importance.length).set(importance);
    return { sums, importance: columns, stored, weights, written, decoded };
  }
}

interface Places {
  readonly sums: number;
  readonly importance: number;
  readonly stored: number;
  readonly weights: number;
  readonly written: number;
  readonly decoded: number;
}

/** Rows of a GGUF tensor, and the dtype they are wanted in. */
export interface GgufRows {
  readonly bytes: Uint8Array;
  readonly type: TensorType;
  readonly dtype: FloatDtype;
  readonly values: LinkValues;
}

/** What decoding and rounding rows gave. */
export interface DecodeTally {
  readonly zeros: number;
  /** Weights that the dtype could not hold exactly. */
  readonly rounded: number;
}
