import { BLOCK_BYTES, BLOCK_MARGIN } from "../checkpoint/direct-files.js";
import { PhysariumError } from "../errors.js";
import type { FloatDtype } from "../safetensors/dtypes.js";
import { loadKernelModule } from "../wasm.js";
import { Arena } from "./arena.js";
import { bandError, DTYPE_CODES, elementBytes, MAX_BAND_ELEMENTS } from "./band-format.js";
import type { CodedBand } from "./band-protocol.js";
import { damaged } from "./packed-shard.js";

interface Kernel {
  init(scratch: number): void;
  decodeBand(dtype: number, src: number, srcBytes: number, n: number, dst: number): number;
  xxh64(src: number, byteLength: number): bigint;
}

/** What `assembly/unpack.ts` keeps between its steps. */
const SCRATCH_BYTES = 158_112;

/** Padding of the tensors that end in a room: 7 bytes each at most. */
const PADDING_BYTES = BLOCK_BYTES;

export interface DecoderMemory {
  /** Bands of up to so many elements; tests use small ones so that guards stand right behind the data. */
  readonly maxElements?: number;
  /** How many rooms, for so many raw bytes each. */
  readonly rooms?: number;
  readonly roomBytes?: number;
}

let module: WebAssembly.Module | undefined;

/**
 * Decodes bands with the kernel `assembly/unpack.ts`; accepts and refuses the same bytes as `decodeBandReference`.
 *
 * One a thread: it owns a wasm memory of its rooms, or of a band and what it is coded as (8 MiB).
 */
export class BandDecoder {
  private readonly arena: Arena;
  private readonly kernel: Kernel;
  private readonly packed: Uint8Array;

  constructor({ maxElements = MAX_BAND_ELEMENTS, rooms = 0, roomBytes = 0 }: DecoderMemory = {}) {
    const bandBytes = rooms === 0 ? 4 * maxElements : 0;
    const named = Array.from({ length: rooms }, (_, room) => [
      { name: `packed ${room}`, byteLength: roomBytes + PADDING_BYTES + BLOCK_MARGIN, alignment: BLOCK_BYTES },
      { name: `raw ${room}`, byteLength: roomBytes + BLOCK_MARGIN, alignment: BLOCK_BYTES },
    ]);
    this.arena = new Arena([
      { name: "scratch", byteLength: SCRATCH_BYTES },
      { name: "packed", byteLength: bandBytes },
      { name: "raw", byteLength: bandBytes },
      ...named.flat(),
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

  /** A room: where packed bytes are put, and where raw ones come to lie. Both begin on blocks. */
  room(room: number): { readonly input: Uint8Array; readonly output: Uint8Array } {
    return { input: this.arena.bytes(`packed ${room}`), output: this.arena.bytes(`raw ${room}`) };
  }

  /**
   * Decode the band of `elementCount` elements that lies in the first `packedByteLength` bytes of `input(…)`.
   *
   * Returns a view that the next call overwrites. `where` opens the messages. Throws `DONOR_PACK_*`.
   */
  decode(dtype: FloatDtype, packedByteLength: number, elementCount: number, where: string): Uint8Array {
    const raw = this.arena.bytes("raw").subarray(0, elementCount * elementBytes(dtype));
    this.run(dtype, this.packed.subarray(0, packedByteLength), raw, where);
    return raw;
  }

  /**
   * Decode a band, or take it as it is where it was not coded, and hold it against its checksum. Both ranges lie in
   * this decoder's memory; `raw` may be longer. Throws `DONOR_PACK_*`.
   */
  decodeBand(packed: Uint8Array, raw: Uint8Array, band: CodedBand): void {
    const { rawByteLength, dtype, where } = band;
    const to = raw.subarray(0, rawByteLength);
    if (packed.byteLength === rawByteLength) to.set(packed);
    else if (dtype === undefined || packed.byteLength > rawByteLength) throw tooLong(where);
    else this.run(dtype, packed, to, where);
    if (BigInt.asUintN(64, this.kernel.xxh64(to.byteOffset, rawByteLength)) !== band.checksum) {
      throw wrongChecksum(where);
    }
  }

  private run(dtype: FloatDtype, packed: Uint8Array, raw: Uint8Array, where: string): void {
    const status = this.kernel.decodeBand(
      DTYPE_CODES[dtype],
      packed.byteOffset,
      packed.byteLength,
      raw.byteLength / elementBytes(dtype),
      raw.byteOffset,
    );
    if (status !== 0) throw bandError(status, where);
  }

  /** For tests: the buffer behind which a kernel wrote, if any. */
  strayWrite(): string | undefined {
    return this.arena.strayWrite();
  }
}

/** A band that would be longer than what it stands for. */
export function tooLong(where: string): PhysariumError {
  return damaged(where, "the band is longer than its weights");
}

/** A band whose weights are others. */
export function wrongChecksum(where: string): PhysariumError {
  return new PhysariumError(
    "DONOR_PACK_CHECKSUM",
    `${where}: the band's weights do not have their checksum; the packed file is damaged, copy or download it again`,
    { where },
  );
}
