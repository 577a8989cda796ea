import type { FloatDtype } from "../safetensors/dtypes.js";
import { loadKernelModule } from "../wasm.js";
import { Arena } from "./arena.js";
import {
  blockCount,
  DTYPE_CODES,
  EXPONENTS_AT,
  elementBytes,
  HEAD_BYTES,
  LENGTHS_AT,
  MAX_BAND_ELEMENTS,
} from "./band-format.js";
import { canonicalCodes, codeLengths, EXPONENT_COUNTS, isSingle, nibbleTable, rankExponents } from "./pair-code.js";

interface Kernel {
  countExponents(dtype: number, src: number, n: number, counts: number, scratch: number): void;
  split(
    dtype: number,
    src: number,
    n: number,
    nibbleOf: number,
    pairs: number,
    rest: number,
    mid: number,
    low: number,
    escapes: number,
    pairCounts: number,
    result: number,
  ): void;
  packThreeBits(src: number, count: number, dst: number): void;
  encodeStreams(pairs: number, pairCount: number, codes: number, lengths: number, dst: number): number;
}

let module: WebAssembly.Module | undefined;

/**
 * Codes bands with the kernel `assembly/pack.ts`; the same bytes as `encodeBandReference`.
 *
 * One a thread: it owns a wasm memory of about 15 MiB.
 */
export class BandEncoder {
  private readonly arena = new Arena([
    { name: "raw", byteLength: 4 * MAX_BAND_ELEMENTS },
    { name: "pairs", byteLength: MAX_BAND_ELEMENTS / 2 },
    // Codes of at most 12 bits a pair, and the 8 bytes a store may run over.
    { name: "streams", byteLength: (MAX_BAND_ELEMENTS / 2) * 1.5 + 4 * blockCount(MAX_BAND_ELEMENTS) + 8 },
    { name: "rest", byteLength: MAX_BAND_ELEMENTS + 1 },
    { name: "mid", byteLength: MAX_BAND_ELEMENTS + 1 },
    { name: "low", byteLength: MAX_BAND_ELEMENTS + 1 },
    { name: "three", byteLength: (3 * MAX_BAND_ELEMENTS) / 8 + 8 },
    { name: "escapes", byteLength: MAX_BAND_ELEMENTS },
    { name: "counts", byteLength: 4 * EXPONENT_COUNTS },
    { name: "scratch", byteLength: 16 * EXPONENT_COUNTS },
    { name: "nibbleOf", byteLength: 256 },
    { name: "pairCounts", byteLength: 1024 },
    { name: "codes", byteLength: 1024 },
    { name: "lengths", byteLength: 8 * blockCount(MAX_BAND_ELEMENTS) },
    { name: "result", byteLength: 16 },
  ]);
  private readonly kernel: Kernel;

  constructor() {
    module ??= loadKernelModule("pack");
    const instance = new WebAssembly.Instance(module, { env: { memory: this.arena.memory } });
    this.kernel = instance.exports as unknown as Kernel;
  }

  /** Where to put the `byteLength` raw bytes of the next band before `encode`. */
  input(byteLength: number): Uint8Array {
    return this.arena.bytes("raw").subarray(0, byteLength);
  }

  /** Code the band that lies in `input(…)`. Returns new bytes, or `undefined` where they would be no fewer than the raw ones. */
  encode(dtype: FloatDtype, elementCount: number): Uint8Array | undefined {
    const { arena, kernel } = this;
    const at = (name: string) => arena.at(name);
    const code = DTYPE_CODES[dtype];

    kernel.countExponents(code, at("raw"), elementCount, at("counts"), at("scratch"));
    const counts = arena.words("counts");
    const ranked = rankExponents(counts);
    arena.bytes("nibbleOf").set(nibbleTable(ranked, counts));

    const outputs = ["pairs", "rest", "mid", "low", "escapes", "pairCounts", "result"].map(at);
    const [pairs, rest, mid, low, escapes, pairCounts, result] = outputs;
    kernel.split(code, at("raw"), elementCount, at("nibbleOf"), pairs, rest, mid, low, escapes, pairCounts, result);
    const [survivors, escapeCount, midBits, lowBits] = arena.words("result");

    const lengths = codeLengths(arena.words("pairCounts"));
    const pairCount = Math.ceil(elementCount / 2);
    const blocks = blockCount(elementCount);
    let codeByteLength = 0;
    arena.bytes("lengths").fill(0);
    if (!isSingle(lengths)) {
      arena.words("codes").set(canonicalCodes(lengths));
      codeByteLength = kernel.encodeStreams(pairs, pairCount, at("codes"), at("lengths"), at("streams"));
    }
    let midPlane = arena.bytes("mid").subarray(0, midBits === 0 ? 0 : survivors);
    if (dtype === "F16" && midBits !== 0) {
      kernel.packThreeBits(mid, survivors, at("three"));
      midPlane = arena.bytes("three").subarray(0, Math.ceil((3 * survivors) / 8));
    }

    const parts = [
      arena.bytes("lengths").subarray(0, 8 * blocks),
      arena.bytes("streams").subarray(0, codeByteLength),
      arena.bytes("rest").subarray(0, survivors),
      midPlane,
      arena.bytes("low").subarray(0, lowBits === 0 ? 0 : survivors),
      arena.bytes("escapes").subarray(0, escapeCount),
    ];
    const byteLength = parts.reduce((sum, part) => sum + part.byteLength, HEAD_BYTES);
    if (byteLength >= elementCount * elementBytes(dtype)) return undefined;

    const packed = new Uint8Array(byteLength);
    const head = new DataView(packed.buffer);
    head.setUint8(0, code);
    head.setUint8(1, (midBits === 0 ? 0 : 1) | (lowBits === 0 ? 0 : 2));
    head.setUint32(4, survivors, true);
    head.setUint32(8, escapeCount, true);
    head.setUint32(12, codeByteLength, true);
    packed.set(ranked, EXPONENTS_AT);
    for (let i = 0; i < 128; i++) packed[LENGTHS_AT + i] = lengths[2 * i] | (lengths[2 * i + 1] << 4);
    let position = HEAD_BYTES;
    for (const part of parts) {
      packed.set(part, position);
      position += part.byteLength;
    }
    return packed;
  }

  /** For tests: the buffer behind which a kernel wrote, if any. */
  strayWrite(): string | undefined {
    return this.arena.strayWrite();
  }
}
