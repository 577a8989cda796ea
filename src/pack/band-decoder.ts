import type { FloatDtype } from "../safetensors/dtypes.js";
import { loadKernelModule } from "../wasm.js";
import { Arena } from "./arena.js";
import { bandError, DTYPE_CODES, elementBytes, MAX_BAND_ELEMENTS } from "./band-format.js";

interface Kernel {
  init(scratch: number): void;
  decodeBand(dtype: number, src: number, srcBytes: number, n: number, dst: number): number;
}

/** What `assembly/unpack.ts` keeps between its steps. */
const SCRATCH_BYTES = 158_112;

let module: WebAssembly.Module | undefined;

/**
 * Decodes bands with the kernel `assembly/unpack.ts`; accepts and refuses the same bytes as `decodeBandReference`.
 *
 * One a thread: it owns a wasm memory of about 8 MiB.
 */
export class BandDecoder {
  private readonly arena: Arena;
  private readonly kernel: Kernel;
  private readonly packed: Uint8Array;

  /** Bands of up to `maxElements`; tests use small ones so that guards stand right behind the data. */
  constructor(readonly maxElements = MAX_BAND_ELEMENTS) {
    this.arena = new Arena([
      { name: "scratch", byteLength: SCRATCH_BYTES },
      { name: "packed", byteLength: 4 * maxElements },
      { name: "raw", byteLength: 4 * maxElements },
    ]);
    module ??= loadKernelModule("unpack");
    const instance = new WebAssembly.Instance(module, { env: { memory: this.arena.memory } });
    this.kernel = instance.exports as unknown as Kernel;
    this.kernel.init(this.arena.at("scratch"));
    this.packed = this.arena.bytes("packed");
  }

  /**
   * Where to put the `byteLength` coded bytes of the next band before `decode`. A coded band is always shorter than its
   * raw bytes.
   */
  input(byteLength: number): Uint8Array {
    return this.packed.subarray(0, byteLength);
  }

  /**
   * Decode the band of `elementCount` elements that lies in the first `packedByteLength` bytes of `input(…)`.
   *
   * Returns a view that the next call overwrites. `where` opens the messages. Throws `DONOR_PACK_*`.
   */
  decode(dtype: FloatDtype, packedByteLength: number, elementCount: number, where: string): Uint8Array {
    const { arena } = this;
    const status = this.kernel.decodeBand(
      DTYPE_CODES[dtype],
      arena.at("packed"),
      packedByteLength,
      elementCount,
      arena.at("raw"),
    );
    if (status !== 0) throw bandError(status, where);
    return arena.bytes("raw").subarray(0, elementCount * elementBytes(dtype));
  }

  /** For tests: the buffer behind which a kernel wrote, if any. */
  strayWrite(): string | undefined {
    return this.arena.strayWrite();
  }
}
