import type { Arena } from "./arena.js";
import { ESCAPE_NIBBLE } from "./band-format.js";
import { nibbleTable, rankExponents } from "./byte-code.js";

/** The part of the kernel that counts and pairs exponents (assembly/pack/pairs.ts). */
export interface PairKernel {
  countBytes(src: number, n: number, counts: number, scratch: number): void;
  pairInWindow(
    exponents: number,
    survivors: number,
    first: number,
    pairs: number,
    outside: number,
    pairCounts: number,
  ): number;
  pairByTable(
    exponents: number,
    survivors: number,
    nibbleOf: number,
    pairs: number,
    escapes: number,
    pairCounts: number,
  ): number;
}

/** What pairing a band's exponents gave. */
export interface PairedExponents {
  /** The band's most frequent exponents, as its head has them. */
  readonly ranked: Uint8Array;
  /** The pairs of each block in the buffer `pairs`, in a spelling of their own. */
  readonly blocks: readonly { readonly begin: number; readonly count: number }[];
  readonly escapes: number;
  /** How often each pair occurs, as the format spells it. */
  readonly counts: Uint32Array;
  /** The pair of the format that a byte of the buffer stands for. */
  readonly spelling: Uint8Array;
}

/** Exponents that a window holds; place 15 is everything outside. */
const WINDOW = 15;
/** The last window that ends at exponent 255. */
const LAST_WINDOW = 256 - WINDOW;

/**
 * Pairs the exponents of a band in one pass, before it is known which of them are the most frequent: by their places in
 * a window of fifteen neighbours. The histogram of those pairs tells how often each exponent occurs; where the window
 * holds the most frequent ones (weights have one hump, and bands of one tensor are alike), pairs of places are pairs of
 * nibbles but for their spelling. Where it does not, there is a second pass: with the window that does, or by a table.
 *
 * The arena has buffers exponents, pairs, escapes, pairTables (u32[4][256]), counts (u32[256]) and nibbleOf (u8[256]).
 */
export class ExponentPairs {
  /** Where the last band's window was. */
  private first = 0;

  constructor(
    private readonly kernel: PairKernel,
    private readonly arena: Arena,
  ) {}

  /** survivors: of each block, whose exponents lie one behind the other. */
  pair(survivors: readonly number[]): PairedExponents {
    const guess = this.inWindow(survivors, this.first);
    if (guess.result !== undefined) return guess.result;
    const { ranked, exponentCounts } = guess;
    const used = [...ranked].filter((exponent) => exponentCounts[exponent] > 0);
    const lowest = Math.min(...used);
    if (Math.max(...used) - lowest >= WINDOW) return this.byTable(survivors, ranked, exponentCounts);
    this.first = Math.min(lowest, LAST_WINDOW);
    return this.inWindow(survivors, this.first).result ?? this.byTable(survivors, ranked, exponentCounts);
  }

  private inWindow(survivors: readonly number[], first: number) {
    const { kernel, arena } = this;
    const pairBytes = arena.bytes("pairs");
    const tables = arena.words("pairTables").fill(0);
    const exponentCounts = new Uint32Array(256);
    /** Odd last survivors of blocks: where their pairs lie. */
    const tails: number[] = [];
    let survivor = 0;
    let pair = 0;
    let escapes = 0;
    const blocks = survivors.map((alive) => {
      const block = { begin: pair, count: Math.ceil(alive / 2) };
      escapes += kernel.pairInWindow(
        arena.at("exponents") + survivor,
        alive,
        first,
        arena.at("pairs") + pair,
        arena.at("escapes") + escapes,
        arena.at("pairTables"),
      );
      survivor += alive;
      pair += block.count;
      if (alive % 2 === 1) tails.push(pair - 1);
      return block;
    });
    const placeCounts = Uint32Array.from({ length: 256 }, (_, byte) => {
      return tables[byte] + tables[256 + byte] + tables[512 + byte] + tables[768 + byte];
    });

    // The pairs' histogram is the exponents', too; what lies outside is counted by itself.
    placeCounts.forEach((count, byte) => {
      if ((byte & 15) < WINDOW) exponentCounts[first + (byte & 15)] += count;
      if (byte >> 4 < WINDOW) exponentCounts[first + (byte >> 4)] += count;
    });
    for (const tail of tails) if (pairBytes[tail] < WINDOW) exponentCounts[first + pairBytes[tail]]++;
    if (escapes <= survivor >> 4) {
      for (const exponent of arena.bytes("escapes").subarray(0, escapes)) exponentCounts[exponent]++;
    } else {
      kernel.countBytes(arena.at("exponents"), survivor, arena.at("counts"), arena.at("pairTables"));
      exponentCounts.set(arena.words("counts"));
    }

    const ranked = rankExponents(exponentCounts);
    const isHeld = (exponent: number) => exponent >= first && exponent < first + WINDOW;
    if (!ranked.every((exponent) => exponentCounts[exponent] === 0 || isHeld(exponent))) {
      return { ranked, exponentCounts };
    }
    const nibbleOf = nibbleTable(ranked, exponentCounts);
    const nibbles = Uint8Array.from({ length: 16 }, (_, at) => (at < WINDOW ? nibbleOf[first + at] : ESCAPE_NIBBLE));
    const spelling = Uint8Array.from({ length: 256 }, (_, byte) => nibbles[byte & 15] | (nibbles[byte >> 4] << 4));
    // The neighbour that an odd last survivor lacks counts as the most frequent exponent.
    for (const tail of tails) {
      pairBytes[tail] |= (ranked[0] - first) << 4;
      placeCounts[pairBytes[tail]]++;
    }
    const counts = new Uint32Array(256);
    placeCounts.forEach((count, byte) => {
      counts[spelling[byte]] += count;
    });
    return { ranked, exponentCounts, result: { ranked, blocks, escapes, counts, spelling } };
  }

  private byTable(survivors: readonly number[], ranked: Uint8Array, exponentCounts: Uint32Array): PairedExponents {
    const { kernel, arena } = this;
    arena.bytes("nibbleOf").set(nibbleTable(ranked, exponentCounts));
    arena.words("counts").fill(0);
    let survivor = 0;
    let pair = 0;
    let escapes = 0;
    const blocks = survivors.map((alive) => {
      const block = { begin: pair, count: Math.ceil(alive / 2) };
      escapes += kernel.pairByTable(
        arena.at("exponents") + survivor,
        alive,
        arena.at("nibbleOf"),
        arena.at("pairs") + pair,
        arena.at("escapes") + escapes,
        arena.at("counts"),
      );
      survivor += alive;
      pair += block.count;
      return block;
    });
    return { ranked, blocks, escapes, counts: arena.words("counts").slice(), spelling: AS_IT_IS };
  }
}

const AS_IT_IS = Uint8Array.from({ length: 256 }, (_, byte) => byte);
