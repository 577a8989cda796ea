import { loadKernelModule } from "../../wasm.js";

/** Exports of assembly/tubes.ts; every argument after rows and cols is an address. */
export interface TubeKernel {
  healBegin(rows: number, cols: number, pressure: number, alive: number, direction: number, norms: number): void;
  healStep(
    rows: number,
    cols: number,
    flow: number,
    pressure: number,
    alive: number,
    direction: number,
    product: number,
    norms: number,
    floors: number,
  ): void;
  flowDirection(
    rows: number,
    cols: number,
    flow: number,
    pressure: number,
    direction: number,
    loads: number,
    ramp: number,
    starved: number,
    gains: number,
    stiffnesses: number,
  ): void;
  flowStep(
    rows: number,
    cols: number,
    flow: number,
    pressure: number,
    direction: number,
    product: number,
    gains: number,
    stiffnesses: number,
  ): void;
  rowLosses(rows: number, cols: number, drive: number, flow: number, pressure: number, losses: number): void;
}

const PAGE_BYTES = 65_536;
/** The module's static data lies under this. */
const FIRST_BYTE = 4096;
/** Unused bytes between arrays: wasm memory has no walls, tests look here for stray writes. */
export const GAP_BYTES = 64;

let compiled: WebAssembly.Module | undefined;

/**
 * Memory that the kernel and the matrix engine share: arrays lie in it, products are written to it, nothing is copied.
 *
 * `reserve` lays all arrays of a block out anew, and those of an earlier block are void. An arena serves one block at a
 * time.
 */
export class TubeArena {
  private readonly memory = new WebAssembly.Memory({ initial: 1, maximum: 65_536 });
  readonly kernel: TubeKernel;
  private next = FIRST_BYTE;

  constructor() {
    compiled ??= loadKernelModule("tubes");
    this.kernel = new WebAssembly.Instance(compiled, { env: { memory: this.memory } }).exports as unknown as TubeKernel;
  }

  /** Make room for `byteLength` bytes of arrays in `arrays` pieces, and start at the front. */
  reserve(byteLength: number, arrays: number): void {
    this.next = FIRST_BYTE;
    const pages = Math.ceil((FIRST_BYTE + byteLength + arrays * (GAP_BYTES + 16)) / PAGE_BYTES);
    const missing = pages - this.memory.buffer.byteLength / PAGE_BYTES;
    if (missing > 0) this.memory.grow(missing);
  }

  floats(count: number): Float32Array {
    return new Float32Array(this.memory.buffer, this.take(4 * count), count);
  }

  doubles(count: number): Float64Array {
    return new Float64Array(this.memory.buffer, this.take(8 * count), count);
  }

  bytes(count: number): Uint8Array {
    return new Uint8Array(this.memory.buffer, this.take(count), count);
  }

  private take(byteLength: number): number {
    const ptr = this.next;
    this.next = Math.ceil((ptr + byteLength + GAP_BYTES) / 16) * 16;
    return ptr;
  }
}
