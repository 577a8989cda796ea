import { createHash } from "node:crypto";
import { TABLE_SIZE } from "./distribution.js";

/** Random words of one tensor after 2^32 of them come from new keys, so that none repeats. */
const WORDS_PER_SEGMENT = 2 ** 32;

/**
 * Between a fifth and a third and a bit of the input channels are weak: v1 then kills 32–43 %, as in layer 1 of the
 * seed's report.
 */
const WEAK_SHARE_FROM = 0.2;
const WEAK_SHARE_TO = 0.37;

/**
 * The random weights of one tensor, from any position on.
 *
 * Word i of a tensor is a keyed mix of i and serves weights 2i and 2i + 1 with 16 bits each, so a weight depends on
 * (seed, tensor name, position) alone: not on the shard, the order of the tensors or the size of a chunk.
 *
 * mixing function: the constants of "lowbias32" (C. Wellons, hash-prospector; public domain), with two keys of the
 * tensor worked in
 */
export class WeightStream {
  private segment = -1;
  private key0 = 0;
  private key1 = 0;
  /** Per column, where in the table its quantiles begin; only for tensors with weak channels. */
  private readonly columnBase: Uint32Array | undefined;

  constructor(
    private readonly seed: string,
    private readonly name: string,
    private readonly table: Uint16Array | Uint32Array,
    /** Input channels: the last dimension. */
    private readonly columns: number,
  ) {
    if (table.length > TABLE_SIZE) this.columnBase = this.chooseWeakChannels();
  }

  /**
   * Fill `words` with the weights from word `firstWord` on.
   * 16-bit dtypes: a word is two weights, the first in the low half. F32: `words` holds pairs, two elements a random
   * word.
   */
  fill(words: Uint32Array, firstWord: number): void {
    const perWord = this.table instanceof Uint16Array ? 1 : 2;
    let done = 0;
    while (done < words.length / perWord) {
      const at = firstWord + done;
      this.enterSegment(Math.floor(at / WORDS_PER_SEGMENT));
      const inSegment = at % WORDS_PER_SEGMENT;
      const count = Math.min(words.length / perWord - done, WORDS_PER_SEGMENT - inSegment);
      const part = words.subarray(done * perWord, (done + count) * perWord);
      if (this.columnBase !== undefined) this.fillChannels(part, at, inSegment, this.columnBase);
      else if (this.table instanceof Uint16Array) fillHalves(part, inSegment, this.key0, this.key1, this.table);
      else fillSingles(part, inSegment, this.key0, this.key1, this.table);
      done += count;
    }
  }

  private fillChannels(words: Uint32Array, firstWord: number, inSegment: number, columnBase: Uint32Array): void {
    const { table, columns, key0, key1 } = this;
    const halves = table instanceof Uint16Array;
    const pairs = halves ? words.length : words.length / 2;
    let column = (firstWord * 2) % columns;
    for (let i = 0; i < pairs; i++) {
      const x = mix((inSegment + i) | 0, key0, key1);
      const low = table[columnBase[column] + (x & 0xffff)];
      column = column + 1 === columns ? 0 : column + 1;
      const high = table[columnBase[column] + (x >>> 16)];
      column = column + 1 === columns ? 0 : column + 1;
      if (halves) {
        words[i] = low | (high << 16);
      } else {
        words[2 * i] = low;
        words[2 * i + 1] = high;
      }
    }
  }

  private enterSegment(segment: number): void {
    if (segment === this.segment) return;
    const digest = this.digest(`weights ${segment}`);
    this.key0 = digest.readInt32LE(0);
    this.key1 = digest.readInt32LE(4);
    this.segment = segment;
  }

  private chooseWeakChannels(): Uint32Array {
    const digest = this.digest("weak channels");
    const [key0, key1] = [digest.readInt32LE(0), digest.readInt32LE(4)];
    const share = WEAK_SHARE_FROM + (WEAK_SHARE_TO - WEAK_SHARE_FROM) * (digest.readUInt32LE(8) / 2 ** 32);
    return Uint32Array.from({ length: this.columns }, (_, column) =>
      (mix(column, key0, key1) >>> 0) / 2 ** 32 < share ? TABLE_SIZE : 0,
    );
  }

  private digest(purpose: string): Buffer {
    return createHash("sha256")
      .update(JSON.stringify([this.seed, this.name, purpose]))
      .digest();
  }
}

/**
 * 32 random bits for position `i`: bijective in `i`, and two tensors' sequences are no shifts of one another because of
 * `key1`.
 */
function mix(i: number, key0: number, key1: number): number {
  let x = Math.imul(i, 0x9e3779b1) + key0;
  x = Math.imul(x ^ (x >>> 16), 0x21f0aaad) ^ key1;
  x = Math.imul(x ^ (x >>> 15), 0xd35a2d97);
  return x ^ (x >>> 15);
}

// The two loops that a 15 GB donor spends its time in stand alone, so that each sees one kind of table and stays fast.
function fillHalves(words: Uint32Array, first: number, key0: number, key1: number, table: Uint16Array): void {
  for (let i = 0; i < words.length; i++) {
    const x = mix((first + i) | 0, key0, key1);
    words[i] = table[x & 0xffff] | (table[x >>> 16] << 16);
  }
}

function fillSingles(words: Uint32Array, first: number, key0: number, key1: number, table: Uint32Array): void {
  for (let i = 0; i < words.length; i += 2) {
    const x = mix((first + i / 2) | 0, key0, key1);
    words[i] = table[x & 0xffff];
    words[i + 1] = table[x >>> 16];
  }
}
