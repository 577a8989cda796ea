import { BLOCK_BYTES, BLOCK_MARGIN } from "../checkpoint/direct-files.js";
import type { FloatDtype } from "../safetensors/dtypes.js";
import { loadKernelModule } from "../wasm.js";
import { Arena } from "./arena.js";
import {
  BLOCK_ELEMENTS,
  blockCount,
  CODE_LENGTHS_BYTES,
  DTYPE_CODES,
  EXPONENTS_AT,
  elementBytes,
  Flag,
  HEAD_BYTES,
  MAX_BAND_ELEMENTS,
} from "./band-format.js";
import { canonicalCodes, codeLengths, isDense, isSingle } from "./byte-code.js";
import { ExponentPairs, type PairedExponents, type PairKernel } from "./exponent-pairs.js";

interface Kernel extends PairKernel {
  init(table: number): void;
  split(
    dtype: number,
    src: number,
    n: number,
    dense: number,
    masks: number,
    exponents: number,
    rest: number,
    mid: number,
    low: number,
    maskCounts: number,
    tail: number,
    planes: number,
  ): number;
  packThreeBits(src: number, count: number, dst: number): void;
  encodeStreams(src: number, count: number, codes: number, lengths: number, aside: number, dst: number): number;
  xxh64(src: number, byteLength: number): bigint;
}

const ELEMENTS = MAX_BAND_ELEMENTS;
const BLOCKS = blockCount(ELEMENTS);

/** Codes of at most 12 bits a byte, four streams a block that end in whole bytes, and what a store may run over. */
const streamBytes = (bytes: number) => bytes * 1.5 + 4 * BLOCKS + 8;

const BUFFERS = {
  masks: ELEMENTS / 8,
  exponents: ELEMENTS + 16,
  rest: ELEMENTS + 16,
  mid: ELEMENTS + 16,
  low: ELEMENTS + 16,
  three: (3 * ELEMENTS) / 8 + 8,
  pairs: ELEMENTS / 2 + BLOCKS,
  escapes: ELEMENTS,
  maskStreams: streamBytes(ELEMENTS / 8),
  pairStreams: streamBytes(ELEMENTS / 2 + BLOCKS),
  aside: (BLOCK_ELEMENTS / 4) * 1.5 + 8,
  maskTables: 2048,
  pairTables: 4096,
  counts: 1024,
  nibbleOf: 256,
  codes: 1024,
  lengths: 8,
  tail: 64,
  planes: 8,
  compress: 4096,
};

/**
 * A room holds the raw bytes of neighbouring bands behind this many bytes of its own, and what they become before them:
 * coded bands are no longer than raw ones, and padding between tensors (7 bytes at most) finds its place here.
 */
const ROOM_LEAD = BLOCK_BYTES;
/** Bands that a room may hold at once, so that their padding fits its lead. */
export const MAX_ROOM_BANDS = ROOM_LEAD / 8;

let module: WebAssembly.Module | undefined;

/**
 * Codes bands with the kernel `assembly/pack.ts`; the same bytes as `encodeBandReference`.
 *
 * One a thread: it owns a wasm memory of its rooms and about 8 MiB.
 */
export class BandEncoder {
  private readonly arena: Arena;
  private readonly kernel: Kernel;
  private readonly pairs: ExponentPairs;
  private readonly memory: Uint8Array;

  /** `rooms`: how many, for so many raw bytes each. */
  constructor(rooms = 1, roomBytes = 4 * ELEMENTS) {
    const named = Array.from({ length: rooms }, (_, room) => ({
      name: `room ${room}`,
      byteLength: ROOM_LEAD + roomBytes + BLOCK_MARGIN,
      alignment: BLOCK_BYTES,
    }));
    this.arena = new Arena([...Object.entries(BUFFERS).map(([name, byteLength]) => ({ name, byteLength })), ...named]);
    this.memory = new Uint8Array(this.arena.memory.buffer);
    module ??= loadKernelModule("pack");
    const instance = new WebAssembly.Instance(module, { env: { memory: this.arena.memory } });
    this.kernel = instance.exports as unknown as Kernel;
    this.kernel.init(this.at("compress"));
    this.pairs = new ExponentPairs(this.kernel, this.arena);
  }

  /** Where to put the `byteLength` raw bytes of the next band before `encode`: in room 0. */
  input(byteLength: number): Uint8Array {
    return this.inputRoom(0).subarray(0, byteLength);
  }

  /**
   * Code the band that lies in `input(…)`. Returns new bytes, or `undefined` where they would be no fewer than the raw
   * ones.
   */
  encode(dtype: FloatDtype, elementCount: number): Uint8Array | undefined {
    const { byteOffset } = this.inputRoom(0);
    const byteLength = this.encodeAt(dtype, byteOffset, elementCount, this.outputRoom(0).byteOffset);
    return byteLength === undefined ? undefined : this.outputRoom(0).slice(0, byteLength);
  }

  /** The part of a room that takes raw bytes; begins on a block. */
  inputRoom(room: number): Uint8Array {
    return this.arena.bytes(`room ${room}`).subarray(ROOM_LEAD);
  }

  /** All of a room; begins on a block. What is put to its begin may reach into raw bytes that are done with. */
  outputRoom(room: number): Uint8Array {
    return this.arena.bytes(`room ${room}`);
  }

  /** xxHash64 of bytes in the encoder's memory. */
  checksumAt(at: number, byteLength: number): bigint {
    return BigInt.asUintN(64, this.kernel.xxh64(at, byteLength));
  }

  /**
   * Code the band whose raw bytes lie in the encoder's memory at `from`; the coded one goes to `to`, and may run over
   * raw bytes of this band. Returns its byte length, or `undefined` where that would be no less than the raw one:
   * nothing is written then.
   */
  encodeAt(dtype: FloatDtype, from: number, elementCount: number, to: number): number | undefined {
    const rawByteLength = elementCount * elementBytes(dtype);
    const { survivors, perBlock, midBits, lowBits, masked } = this.split(dtype, from, elementCount);
    const paired = survivors === 0 ? undefined : this.pairs.pair(perBlock);
    const codedMasks = masked === undefined ? undefined : this.codeMasks(masked, elementCount);
    const codedPairs = paired === undefined ? undefined : this.codePairs(paired);
    const escapes = paired?.escapes ?? 0;
    const blockLengths = perBlock.flatMap((_, block) => [
      ...(codedMasks?.lengths[block] ?? []),
      ...(codedPairs?.lengths[block] ?? []),
    ]);
    const parts = [
      codedMasks?.table ?? NOTHING,
      codedPairs?.table ?? NOTHING,
      Uint8Array.from(blockLengths.flatMap((length) => [length & 255, length >> 8])),
      this.part("maskStreams", codedMasks?.byteLength ?? 0),
      this.part("pairStreams", codedPairs?.byteLength ?? 0),
      this.part("rest", survivors),
      this.midPlane(dtype, midBits === 0 ? 0 : survivors),
      this.part("low", lowBits === 0 ? 0 : survivors),
      this.part("escapes", escapes),
    ];
    const byteLength = parts.reduce((sum, bytes) => sum + bytes.byteLength, HEAD_BYTES);
    if (byteLength >= rawByteLength) return undefined;
    const head = new DataView(this.memory.buffer, to, HEAD_BYTES);
    this.memory.fill(0, to, to + HEAD_BYTES);
    head.setUint8(0, DTYPE_CODES[dtype]);
    head.setUint8(1, (midBits ? Flag.MID : 0) | (lowBits ? Flag.LOW : 0) | (masked === undefined ? 0 : Flag.MASK));
    head.setUint32(4, survivors, true);
    head.setUint32(8, escapes, true);
    head.setUint32(12, codedMasks?.byteLength ?? 0, true);
    head.setUint32(16, codedPairs?.byteLength ?? 0, true);
    paired?.ranked.forEach((exponent, place) => {
      head.setUint8(EXPONENTS_AT + place, exponent);
    });
    let position = to + HEAD_BYTES;
    for (const bytes of parts) {
      this.memory.set(bytes, position);
      position += bytes.byteLength;
    }
    return byteLength;
  }

  /** For tests: the buffer behind which a kernel wrote, if any. */
  strayWrite(): string | undefined {
    return this.arena.strayWrite();
  }

  /** `masked`: of the mask bytes' code, where the band has a mask. */
  private split(dtype: FloatDtype, from: number, elementCount: number) {
    const sparse = this.splitBlocks(dtype, from, elementCount, false);
    const tables = this.arena.words("maskTables");
    const maskCounts = Uint32Array.from({ length: 256 }, (_, mask) => tables[mask] + tables[256 + mask]);
    const zeros = elementCount - sparse.survivors;
    if (zeros === 0) return { ...sparse, masked: undefined };
    const wordBits = 8 + (sparse.midBits ? (dtype === "F16" ? 3 : 8) : 0) + (sparse.lowBits ? 8 : 0);
    const codeTable = codeLengths(maskCounts);
    if (!isDense(maskCounts, zeros, wordBits, codeTable)) return { ...sparse, masked: codeTable };
    return { ...this.splitBlocks(dtype, from, elementCount, true), masked: undefined };
  }

  private splitBlocks(dtype: FloatDtype, from: number, elementCount: number, dense: boolean) {
    this.arena.words("maskTables").fill(0);
    this.arena.words("planes").fill(0);
    const size = elementBytes(dtype);
    const perBlock: number[] = [];
    let survivors = 0;
    for (let begin = 0; begin < elementCount; begin += BLOCK_ELEMENTS) {
      const alive = this.kernel.split(
        DTYPE_CODES[dtype],
        from + begin * size,
        Math.min(BLOCK_ELEMENTS, elementCount - begin),
        Number(dense),
        this.at("masks") + begin / 8,
        this.at("exponents") + survivors,
        this.at("rest") + survivors,
        this.at("mid") + survivors,
        this.at("low") + survivors,
        this.at("maskTables"),
        this.at("tail"),
        this.at("planes"),
      );
      perBlock.push(alive);
      survivors += alive;
    }
    const [midBits, lowBits] = this.arena.words("planes");
    return { survivors, perBlock, midBits, lowBits };
  }

  private codeMasks(codeTable: Uint8Array, elementCount: number) {
    const blocks = Array.from({ length: blockCount(elementCount) }, (_, block) => {
      const begin = block * BLOCK_ELEMENTS;
      return { begin: begin / 8, count: Math.ceil(Math.min(BLOCK_ELEMENTS, elementCount - begin) / 8) };
    });
    return this.encodeBytes("masks", blocks, "maskStreams", codeTable, (codes) => codes);
  }

  private codePairs({ blocks, counts, spelling }: PairedExponents) {
    return this.encodeBytes("pairs", blocks, "pairStreams", codeLengths(counts), (codes) =>
      Uint32Array.from(spelling, (byte) => codes[byte]),
    );
  }

  /** Code the blocks' bytes; `spell` gives the codes of the bytes as they are spelled in the buffer. */
  private encodeBytes(
    from: "masks" | "pairs",
    blocks: readonly { readonly begin: number; readonly count: number }[],
    to: "maskStreams" | "pairStreams",
    codeTable: Uint8Array,
    spell: (codes: Uint32Array) => Uint32Array,
  ) {
    const table = Uint8Array.from({ length: CODE_LENGTHS_BYTES }, (_, i) => {
      return codeTable[2 * i] | (codeTable[2 * i + 1] << 4);
    });
    if (isSingle(codeTable)) return { table, lengths: blocks.map(() => [0, 0, 0, 0]), byteLength: 0 };
    this.arena.words("codes").set(spell(canonicalCodes(codeTable)));
    const [codes, stated, aside] = [this.at("codes"), this.at("lengths"), this.at("aside")];
    const streamLengths = new Uint16Array(this.arena.memory.buffer, stated, 4);
    let byteLength = 0;
    const lengths = blocks.map(({ begin, count }) => {
      byteLength += this.kernel.encodeStreams(
        this.at(from) + begin,
        count,
        codes,
        stated,
        aside,
        this.at(to) + byteLength,
      );
      return [...streamLengths];
    });
    return { table, lengths, byteLength };
  }

  private midPlane(dtype: FloatDtype, survivors: number): Uint8Array {
    if (dtype !== "F16") return this.part("mid", survivors);
    this.kernel.packThreeBits(this.at("mid"), survivors, this.at("three"));
    return this.part("three", Math.ceil((3 * survivors) / 8));
  }

  private part(name: keyof typeof BUFFERS, byteLength: number): Uint8Array {
    const at = this.at(name);
    return this.memory.subarray(at, at + byteLength);
  }

  private at(name: keyof typeof BUFFERS): number {
    return this.arena.at(name);
  }
}

const NOTHING = new Uint8Array(0);
