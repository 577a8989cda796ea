import { PhysariumError } from "../errors.js";
import { loadKernelModule } from "../wasm.js";
import { TENSOR_TYPES, tensorBytes } from "./gguf/types.js";

/** The block types that weights can be quantised to. */
export const QUANTISED_TYPES = ["Q8_0", "Q6_K", "Q5_K", "Q5_1", "Q5_0", "Q4_K", "IQ4_NL", "Q4_0"] as const;
export type QuantisedType = (typeof QUANTISED_TYPES)[number];

type Kernel = (source: number, target: number, count: number, rowLength: number, importance: number) => void;
type QuantiseExports = { freeMemoryFrom(): number } & Readonly<Record<`quantise${QuantisedType}`, Kernel>>;

const PAGE_BYTES = 65_536;

/**
 * The quantisation kernels with their memory: `[kernel's own | importance | weights F32 | blocks]`, grown to the
 * largest band seen.
 */
export class Quantiser {
  private readonly memory = new WebAssembly.Memory({ initial: 1 });
  private readonly exports: QuantiseExports;

  constructor() {
    const instance = new WebAssembly.Instance(loadKernelModule("quantise"), { env: { memory: this.memory } });
    this.exports = instance.exports as unknown as QuantiseExports;
  }

  /**
   * Quantise whole blocks.
   *
   * weights     finite F32, a multiple of the type's block length; with `importance` whole rows
   * importance  how much each column of a row counts, finite and not negative: E[x²] of its input
   * returns     the blocks, as llama.cpp makes them of the same weights and importance
   */
  quantise(type: QuantisedType, weights: Float32Array, importance?: Float32Array): Uint8Array {
    const rowLength = importance?.length ?? weights.length;
    if (weights.length % TENSOR_TYPES[type].blockLength !== 0 || weights.length % (rowLength || 1) !== 0) {
      throw new PhysariumError("INTERNAL", `${weights.length} weights are no whole number of ${type} blocks and rows`);
    }
    const columns = this.exports.freeMemoryFrom();
    const source = columns + (importance?.byteLength ?? 0);
    const target = source + weights.byteLength;
    const byteLength = tensorBytes(type, weights.length);
    const missing = target + byteLength - this.memory.buffer.byteLength;
    if (missing > 0) this.memory.grow(Math.ceil(missing / PAGE_BYTES));
    // Views are made after growing: growth detaches older ones.
    new Float32Array(this.memory.buffer, source, weights.length).set(weights);
    if (importance !== undefined) new Float32Array(this.memory.buffer, columns, importance.length).set(importance);
    this.exports[`quantise${type}`](source, target, weights.length, rowLength, importance === undefined ? 0 : columns);
    return new Uint8Array(this.memory.buffer, target, byteLength).slice();
  }
}
