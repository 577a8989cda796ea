import { BLOCK_BYTES } from "../checkpoint/direct-files.js";
import { padTo8 } from "./packed-shard.js";

/**
 * The coded bands of one job in a room that begins on a block, until it is known where in the file they belong. Tensors
 * end at multiples of 8 of the file, so the padding behind the first tensor that ends here is not known before; what
 * follows it begins at a multiple of 8 wherever that is.
 */
export class CodedRoom {
  readonly byteLengths: number[] = [];
  /** Where the next band's bytes belong, relative to `bytes`. */
  end = 0;
  /** Bytes up to the first end of a tensor, without its padding; undefined while no tensor has ended. */
  private headBytes: number | undefined;

  constructor(readonly bytes: Uint8Array) {}

  /** A band's bytes were put to `end`; `isLast`: its tensor ends with it. */
  add(byteLength: number, isLast: boolean): void {
    this.byteLengths.push(byteLength);
    this.end += byteLength;
    if (!isLast) return;
    this.headBytes ??= this.end;
    const padded = padTo8(this.end);
    this.bytes.fill(0, this.end, padded);
    this.end = padded;
  }

  /** Move everything to where it lies in its blocks as in the file at `place`; returns that part of the room. */
  placedAt(place: number): Uint8Array {
    const { bytes, end, headBytes = end } = this;
    const begin = place % BLOCK_BYTES;
    const restFrom = this.headBytes === undefined ? end : padTo8(headBytes);
    // Never to the left: the padding is at most what it was, and the begin at least.
    const restTo = this.headBytes === undefined ? begin + headBytes : padTo8(begin + headBytes);
    bytes.copyWithin(restTo, restFrom, end);
    bytes.copyWithin(begin, 0, headBytes);
    bytes.fill(0, begin + headBytes, restTo);
    return bytes.subarray(begin, restTo + (end - restFrom));
  }
}
