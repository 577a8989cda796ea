import { PhysariumError } from "../../errors.js";

type Json = Readonly<Record<string, unknown>>;

/**
 * What a character that no token spells costs below the worst token. source: SentencePiece, `unigram_model.cc`,
 * kUnkPenalty
 */
const UNKNOWN_PENALTY = 10;

/**
 * A Unigram vocabulary: of all ways to spell a word the one with the highest sum of scores; what cannot be spelled is
 * spelled in bytes where `byte_fallback` is set and all 256 are there, else unknown. source: huggingface/tokenizers
 * 0.23, `models/unigram/model.rs`, `encode_optimized`
 */
export class UnigramModel {
  private readonly scores = new Map<string, number>();
  private readonly longest: number;
  private readonly unknownScore: number;
  private readonly unknownId: number | undefined;
  private readonly unknown: string | undefined;
  private readonly byteFallback: boolean;

  /** Throws `DONOR_TOKENIZER` for a vocabulary that is no list of texts and scores. */
  constructor({ vocab, unk_id, byte_fallback }: Json) {
    let lowest = Number.POSITIVE_INFINITY;
    let longest = 0;
    for (const [at, entry] of (vocab as unknown[]).entries()) {
      const [token, score] = (Array.isArray(entry) ? entry : []) as unknown[];
      if (typeof token !== "string" || typeof score !== "number") {
        throw new PhysariumError("DONOR_TOKENIZER", `entry ${at} of the vocabulary is no pair of a text and a score`);
      }
      this.scores.set(token, score);
      lowest = Math.min(lowest, score);
      longest = Math.max(longest, token.length);
    }
    this.longest = longest;
    this.unknownScore = lowest - UNKNOWN_PENALTY;
    this.unknownId = typeof unk_id === "number" ? unk_id : undefined;
    this.unknown = this.unknownId === undefined ? undefined : (vocab as [string, number][])[this.unknownId]?.[0];
    this.byteFallback = byte_fallback === true;
  }

  encode(word: string): string[] {
    return this.bestPieces(word).flatMap((piece) => {
      if (this.scores.has(piece)) return [piece];
      const bytes = this.byteFallback ? bytesOf(piece) : [];
      if (bytes.length > 0 && bytes.every((byte) => this.scores.has(byte))) return bytes;
      if (this.unknown !== undefined) return [this.unknown];
      throw new PhysariumError(
        "DONOR_TOKENIZER",
        `the vocabulary cannot spell ${JSON.stringify(piece)} and names no unk_id`,
      );
    });
  }

  /**
   * Viterbi over the places of the text, forwards; on a tie the piece that begins first. Neighbours that cannot be
   * spelled are one piece.
   */
  private bestPieces(word: string): string[] {
    const size = word.length;
    const best = new Float64Array(size + 1).fill(Number.NEGATIVE_INFINITY);
    const from = new Int32Array(size + 1).fill(-1);
    const isUnknown = new Uint8Array(size + 1);
    best[0] = 0;
    const offer = (start: number, end: number, score: number, unknown: 0 | 1): void => {
      if (from[end] >= 0 && !(best[start] + score > best[end])) return;
      best[end] = best[start] + score;
      from[end] = start;
      isUnknown[end] = unknown;
    };
    for (let start = 0; start < size; ) {
      const single = word.codePointAt(start)! > 0xffff ? 2 : 1;
      let hasSingle = false;
      for (let length = 1; length <= Math.min(this.longest, size - start); length++) {
        const token = word.slice(start, start + length);
        const score = this.scores.get(token);
        if (score === undefined) continue;
        offer(start, start + length, score, token === this.unknown ? 1 : 0);
        hasSingle ||= length === single;
      }
      if (!hasSingle) offer(start, start + single, this.unknownScore, 1);
      start += single;
    }
    const pieces: string[] = [];
    for (let end = size; end > 0; end = from[end]) {
      const piece = word.slice(from[end], end);
      if (isUnknown[end] === 1 && end < size && isUnknown[nextEnd(pieces, end)] === 1)
        pieces[pieces.length - 1] = piece + pieces[pieces.length - 1];
      else pieces.push(piece);
    }
    return pieces.reverse();

    /** Where the piece that was found last, which begins at `end`, ends. */
    function nextEnd(found: readonly string[], end: number): number {
      return end + (found.at(-1)?.length ?? 0);
    }
  }
}

function bytesOf(piece: string): string[] {
  return Array.from(
    new TextEncoder().encode(piece),
    (byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`,
  );
}
