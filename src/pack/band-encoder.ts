import type { FloatDtype } from "../safetensors/dtypes.js";
import { loadKernelModule } from "../wasm.js";
import { Arena } from "./arena.js";
import {
  BLOCK_ELEMENTS,
  blockCount,
  DTYPE_CODES,
  ESCAPE_NIBBLE,
  EXPONENTS_AT,
  elementBytes,
  Flag,
  HEAD_BYTES,
  MAX_BAND_ELEMENTS,
} from "./band-format.js";
import { canonicalCodes, codeLengths, isDense, isSingle, nibbleTable, rankExponents } from "./byte-code.js";

interface Kernel {
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
    result: number,
  ): void;
  countBytes(src: number, n: number, counts: number, scratch: number): void;
  pairUp(
    exponents: number,
    survivors: number,
    nibbleOf: number,
    base: number,
    pairs: number,
    escapes: number,
    pairCounts: number,
    scratch: number,
  ): number;
  packThreeBits(src: number, count: number, dst: number): void;
  encodeStreams(src: number, count: number, codes: number, lengths: number, aside: number, dst: number): number;
}

const ELEMENTS = MAX_BAND_ELEMENTS;
const BLOCKS = blockCount(ELEMENTS);

/** Codes of at most 12 bits a byte, four streams a block that end in whole bytes, and what a store may run over. */
const streamBytes = (bytes: number) => bytes * 1.5 + 4 * BLOCKS + 8;

const BUFFERS = {
  raw: 4 * ELEMENTS,
  masks: ELEMENTS / 8,
  exponents: ELEMENTS + 8,
  rest: ELEMENTS + 8,
  mid: ELEMENTS + 8,
  low: ELEMENTS + 8,
  three: (3 * ELEMENTS) / 8 + 8,
  pairs: ELEMENTS / 2 + BLOCKS,
  escapes: ELEMENTS,
  maskStreams: streamBytes(ELEMENTS / 8),
  pairStreams: streamBytes(ELEMENTS / 2 + BLOCKS),
  aside: (BLOCK_ELEMENTS / 4) * 1.5 + 8,
  counts: 1024,
  pairCounts: 1024,
  scratch: 4096,
  nibbleOf: 256,
  codes: 1024,
  lengths: 8,
  result: 12,
  compress: 2048,
};

let module: WebAssembly.Module | undefined;

/**
 * Codes bands with the kernel `assembly/pack.ts`; the same bytes as `encodeBandReference`.
 *
 * One a thread: it owns a wasm memory of about 16 MiB.
 */
export class BandEncoder {
  private readonly arena = new Arena(Object.entries(BUFFERS).map(([name, byteLength]) => ({ name, byteLength })));
  private readonly kernel: Kernel;

  constructor() {
    module ??= loadKernelModule("pack");
    const instance = new WebAssembly.Instance(module, { env: { memory: this.arena.memory } });
    this.kernel = instance.exports as unknown as Kernel;
    this.kernel.init(this.at("compress"));
  }

  /** Where to put the `byteLength` raw bytes of the next band before `encode`. */
  input(byteLength: number): Uint8Array {
    return this.bytes("raw", byteLength);
  }

  /**
   * Code the band that lies in `input(…)`. Returns new bytes, or `undefined` where they would be no fewer than the raw
   * ones.
   */
  encode(dtype: FloatDtype, elementCount: number): Uint8Array | undefined {
    const rawByteLength = elementCount * elementBytes(dtype);
    // The kernel takes eight elements at a time.
    this.input(Math.ceil(elementCount / 8) * 8 * elementBytes(dtype)).fill(0, rawByteLength);
    const { survivors, midBits, lowBits, dense } = this.split(dtype, elementCount);

    const blocks = this.blocksOf(elementCount);
    const { ranked, pairs, escapes } = this.pairUp(blocks, survivors);
    const masks = blocks.map(({ begin, elements }) => ({ begin: begin / 8, count: Math.ceil(elements / 8) }));
    const codedMasks = dense ? undefined : this.encodeBytes("masks", masks, "maskStreams", "counts");
    const codedPairs = survivors === 0 ? undefined : this.encodeBytes("pairs", pairs, "pairStreams", "pairCounts");
    const blockLengths = blocks.flatMap((_, block) => [
      ...(codedMasks?.lengths[block] ?? []),
      ...(codedPairs?.lengths[block] ?? []),
    ]);
    return this.assemble(rawByteLength, (head) => {
      head.setUint8(0, DTYPE_CODES[dtype]);
      head.setUint8(1, (midBits ? Flag.MID : 0) | (lowBits ? Flag.LOW : 0) | (dense ? 0 : Flag.MASK));
      head.setUint32(4, survivors, true);
      head.setUint32(8, escapes, true);
      head.setUint32(12, codedMasks?.streams.byteLength ?? 0, true);
      head.setUint32(16, codedPairs?.streams.byteLength ?? 0, true);
      for (const [place, exponent] of ranked.entries()) head.setUint8(EXPONENTS_AT + place, exponent);
      return [
        ...(codedMasks === undefined ? [] : [codedMasks.table]),
        ...(codedPairs === undefined ? [] : [codedPairs.table]),
        Uint8Array.from(blockLengths.flatMap((length) => [length & 255, length >> 8])),
        ...(codedMasks === undefined ? [] : [codedMasks.streams]),
        ...(codedPairs === undefined ? [] : [codedPairs.streams]),
        this.bytes("rest", survivors),
        this.midPlane(dtype, midBits === 0 ? 0 : survivors),
        this.bytes("low", lowBits === 0 ? 0 : survivors),
        this.bytes("escapes", escapes),
      ];
    });
  }

  /** For tests: the buffer behind which a kernel wrote, if any. */
  strayWrite(): string | undefined {
    return this.arena.strayWrite();
  }

  private split(dtype: FloatDtype, elementCount: number) {
    const run = (dense: boolean) => {
      const names = ["masks", "exponents", "rest", "mid", "low", "counts", "result"];
      const [masks, exponents, rest, mid, low, counts, result] = names.map((name) => this.at(name));
      const code = DTYPE_CODES[dtype];
      this.kernel.split(
        code,
        this.at("raw"),
        elementCount,
        Number(dense),
        masks,
        exponents,
        rest,
        mid,
        low,
        counts,
        result,
      );
      const [survivors, midBits, lowBits] = this.arena.words("result");
      return { survivors, midBits, lowBits, dense };
    };
    const sparse = run(false);
    const zeros = elementCount - sparse.survivors;
    const wordBits = 8 + (sparse.midBits ? (dtype === "F16" ? 3 : 8) : 0) + (sparse.lowBits ? 8 : 0);
    if (!isDense(this.arena.words("counts"), zeros, wordBits)) return sparse;
    return zeros === 0 ? { ...sparse, dense: true } : run(true);
  }

  /** The band's blocks: elements, and which of the survivors are theirs. */
  private blocksOf(elementCount: number): { begin: number; elements: number }[] {
    return Array.from({ length: blockCount(elementCount) }, (_, block) => {
      const begin = block * BLOCK_ELEMENTS;
      return { begin, elements: Math.min(BLOCK_ELEMENTS, elementCount - begin) };
    });
  }

  private pairUp(blocks: { begin: number; elements: number }[], survivors: number) {
    const { kernel } = this;
    kernel.countBytes(this.at("exponents"), survivors, this.at("pairCounts"), this.at("scratch"));
    const exponentCounts = this.arena.words("pairCounts").slice();
    const ranked = rankExponents(exponentCounts);
    const nibbles = nibbleTable(ranked, exponentCounts);
    this.arena.bytes("nibbleOf").set(nibbles);
    this.arena.words("pairCounts").fill(0);
    const base = windowOf(nibbles);
    let survivor = 0;
    let pair = 0;
    let escapes = 0;
    const pairs = blocks.map(({ begin, elements }) => {
      const alive = countBits(this.arena.bytes("masks").subarray(begin / 8, Math.ceil((begin + elements) / 8)));
      const placed = { begin: pair, count: Math.ceil(alive / 2) };
      escapes += kernel.pairUp(
        this.at("exponents") + survivor,
        alive,
        this.at("nibbleOf"),
        base,
        this.at("pairs") + pair,
        this.at("escapes") + escapes,
        this.at("pairCounts"),
        this.at("scratch"),
      );
      survivor += alive;
      pair += placed.count;
      return placed;
    });
    return { ranked, pairs, escapes };
  }

  /** Code the blocks' bytes; `counts` holds their histogram. */
  private encodeBytes(from: string, blocks: { begin: number; count: number }[], to: string, counts: string) {
    const codeTable = codeLengths(this.arena.words(counts));
    const table = Uint8Array.from({ length: 128 }, (_, i) => codeTable[2 * i] | (codeTable[2 * i + 1] << 4));
    if (isSingle(codeTable)) return { table, lengths: blocks.map(() => [0, 0, 0, 0]), streams: new Uint8Array(0) };
    this.arena.words("codes").set(canonicalCodes(codeTable));
    let position = 0;
    const lengths = blocks.map(({ begin, count }) => {
      const out = this.at(to) + position;
      const [codes, stated, aside] = ["codes", "lengths", "aside"].map((name) => this.at(name));
      position += this.kernel.encodeStreams(this.at(from) + begin, count, codes, stated, aside, out);
      return [...new Uint16Array(this.arena.memory.buffer, this.at("lengths"), 4)];
    });
    return { table, lengths, streams: this.bytes(to, position) };
  }

  private midPlane(dtype: FloatDtype, survivors: number): Uint8Array {
    if (dtype !== "F16") return this.bytes("mid", survivors);
    this.kernel.packThreeBits(this.at("mid"), survivors, this.at("three"));
    return this.bytes("three", Math.ceil((3 * survivors) / 8));
  }

  /** Head and parts in one piece, unless that is no shorter than the raw band. */
  private assemble(rawByteLength: number, parts: (head: DataView) => Uint8Array[]): Uint8Array | undefined {
    const head = new Uint8Array(HEAD_BYTES);
    const all = [head, ...parts(new DataView(head.buffer))];
    const byteLength = all.reduce((sum, part) => sum + part.byteLength, 0);
    if (byteLength >= rawByteLength) return undefined;
    const packed = new Uint8Array(byteLength);
    let position = 0;
    for (const part of all) {
      packed.set(part, position);
      position += part.byteLength;
    }
    return packed;
  }

  private at(name: keyof typeof BUFFERS | string): number {
    return this.arena.at(name);
  }

  private bytes(name: string, byteLength: number): Uint8Array {
    return this.arena.bytes(name).subarray(0, byteLength);
  }
}

/** The first of sixteen exponents that hold all which have a nibble of their own; 255 where they lie wider apart. */
function windowOf(nibbles: Uint8Array): number {
  const first = Math.min(
    240,
    nibbles.findIndex((nibble) => nibble !== ESCAPE_NIBBLE),
  );
  return nibbles.findLastIndex((nibble) => nibble !== ESCAPE_NIBBLE) - first < 16 ? Math.max(0, first) : 255;
}

/** Set bits of some bytes. */
function countBits(bytes: Uint8Array): number {
  let count = 0;
  for (const byte of bytes) count += BITS[byte];
  return count;
}

const BITS = Uint8Array.from({ length: 256 }, (_, byte) => byte.toString(2).replaceAll("0", "").length);
