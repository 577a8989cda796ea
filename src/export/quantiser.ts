import { PhysariumError } from "../errors.js";
import { loadKernelModule } from "../wasm.js";
import { TENSOR_TYPES, tensorBytes } from "./gguf/types.js";

/** The block types that weights can be quantised to. */
export type QuantisedType = "Q8_0" | "Q4_0" | "Q6_K" | "Q4_K";

interface QuantiseExports {
  freeMemoryFrom(): number;
  quantiseQ8_0(source: number, target: number, count: number): void;
  quantiseQ4_0(source: number, target: number, count: number): void;
  quantiseQ6_K(source: number, target: number, count: number): void;
  quantiseQ4_K(source: number, target: number, count: number): void;
}

const PAGE_BYTES = 65_536;

/**
 * The quantisation kernels with their memory: `[kernel's own | weights F32 | blocks]`, grown to the largest band seen.
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
   * weights  finite F32, a multiple of the type's block length
   * returns  the blocks, as llama.cpp's reference quantisation makes them
   */
  quantise(type: QuantisedType, weights: Float32Array): Uint8Array {
    if (weights.length % TENSOR_TYPES[type].blockLength !== 0) {
      throw new PhysariumError("INTERNAL", `${weights.length} weights are no whole number of ${type} blocks`);
    }
    const source = this.exports.freeMemoryFrom();
    const target = source + weights.byteLength;
    const byteLength = tensorBytes(type, weights.length);
    const missing = target + byteLength - this.memory.buffer.byteLength;
    if (missing > 0) this.memory.grow(Math.ceil(missing / PAGE_BYTES));
    // Views are made after growing: growth detaches older ones.
    new Float32Array(this.memory.buffer, source, weights.length).set(weights);
    this.exports[`quantise${type}`](source, target, weights.length);
    return new Uint8Array(this.memory.buffer, target, byteLength).slice();
  }
}
