import { ESCAPE_NIBBLE, MAX_CODE_BITS, RANKED_EXPONENTS } from "./band-format.js";

/** The band's most frequent exponents, most frequent first, the lower exponent on a tie; unused places hold 0. */
export function rankExponents(counts: ArrayLike<number>): Uint8Array {
  const used: number[] = [];
  for (let exponent = 0; exponent < 256; exponent++) if (counts[exponent] > 0) used.push(exponent);
  used.sort((a, b) => counts[b] - counts[a] || a - b);
  const ranked = new Uint8Array(RANKED_EXPONENTS);
  ranked.set(used.slice(0, RANKED_EXPONENTS));
  return ranked;
}

/** The nibble of each exponent: its place in `ranked`, 15 for those that have none. */
export function nibbleTable(ranked: Uint8Array, counts: ArrayLike<number>): Uint8Array {
  const table = new Uint8Array(256).fill(ESCAPE_NIBBLE);
  for (let place = ranked.length - 1; place >= 0; place--) if (counts[ranked[place]] > 0) table[ranked[place]] = place;
  return table;
}

/**
 * Whether a band goes without a mask: a mask costs at least a bit for eight elements, a few zeros among many weights
 * are cheaper as survivors. Part of the encoder alone; a decoder takes either.
 *
 * maskCounts   of the mask bytes, as they would be
 * wordBits     raw bits of a survivor: rest byte and planes that are present
 * maskLengths  of the mask bytes' code, where they are known
 */
export function isDense(
  maskCounts: ArrayLike<number>,
  zeros: number,
  wordBits: number,
  maskLengths?: Uint8Array,
): boolean {
  // Six bits for the exponent that zero words would add to the code; the table takes 128 bytes.
  return zeros === 0 || codedBits(maskCounts, maskLengths ?? codeLengths(maskCounts)) + 1024 >= zeros * (wordBits + 6);
}

/**
 * Lengths of the shortest prefix code in which no code is longer than `maxBits` (package-merge).
 *
 * counts   one a symbol; symbols with count 0 get length 0; at most 2^maxBits may occur
 * returns  lengths; a symbol that is alone gets 1
 * source   Larmore & Hirschberg 1990, "A fast algorithm for optimal length-limited Huffman codes"
 */
export function codeLengths(counts: ArrayLike<number>, maxBits = MAX_CODE_BITS): Uint8Array {
  const lengths = new Uint8Array(counts.length);
  const leaves: number[] = [];
  for (let symbol = 0; symbol < counts.length; symbol++) if (counts[symbol] > 0) leaves.push(symbol);
  if (leaves.length <= 1) {
    for (const symbol of leaves) lengths[symbol] = 1;
    return lengths;
  }
  // By count, the lower symbol on a tie: both in one number, which typed memory sorts without being asked.
  const keys = Float64Array.from(leaves, (symbol) => counts[symbol] * counts.length + symbol).sort();
  const order = Uint32Array.from(keys, (key) => key % counts.length);
  const leafWeights = Float64Array.from(order, (symbol) => counts[symbol]);
  const isLeaf = cheapestCoins(leafWeights, maxBits);

  // The first 2n − 2 coins of the last level pay for the code; each leaf among them lengthens its symbol's code by one
  // bit.
  const most = 2 * order.length;
  let take = most - 2;
  for (let level = maxBits - 1; level >= 0; level--) {
    let leaf = 0;
    for (let i = 0; i < take; i++) if (isLeaf[level * most + i] === 1) lengths[order[leaf++]]++;
    take = 2 * (take - leaf);
  }
  return lengths;
}

/**
 * Level by level, the cheapest coins: leaves, and pairs of coins of the level before. On a tie the leaf comes first.
 *
 * leafWeights  ascending
 * returns      u8[levels][2 × leaves]: 1 where that coin is a leaf
 */
function cheapestCoins(leafWeights: Float64Array, levels: number): Uint8Array {
  const leafCount = leafWeights.length;
  const most = 2 * leafCount;
  const isLeaf = new Uint8Array(levels * most);
  // A coin behind the last one costs more than any: neither run needs its end looked at.
  const leaves = new Float64Array(leafCount + 1).fill(Number.POSITIVE_INFINITY);
  leaves.set(leafWeights);
  const packages = new Float64Array(leafCount + 1).fill(Number.POSITIVE_INFINITY);
  const weights = new Float64Array(most);
  let packageCount = 0;
  for (let level = 0; level < levels; level++) {
    const coins = leafCount + packageCount;
    let leaf = 0;
    for (let coin = 0; coin < coins; coin++) {
      const own = leaves[leaf];
      const pair = packages[coin - leaf];
      const taken = own <= pair ? 1 : 0;
      isLeaf[level * most + coin] = taken;
      weights[coin] = taken === 1 ? own : pair;
      leaf += taken;
    }
    packageCount = coins >> 1;
    for (let i = 0; i < packageCount; i++) packages[i] = weights[2 * i] + weights[2 * i + 1];
    packages[packageCount] = Number.POSITIVE_INFINITY;
  }
  return isLeaf;
}

/**
 * Canonical codes (RFC 1951, 3.2.2), first bit of the code in bit 0, as `code | length << 16`; 0 where the length is 0.
 */
export function canonicalCodes(lengths: Uint8Array, maxBits = MAX_CODE_BITS): Uint32Array {
  const codes = new Uint32Array(lengths.length);
  let next = 0;
  for (let length = 1; length <= maxBits; length++) {
    for (let symbol = 0; symbol < lengths.length; symbol++) {
      if (lengths[symbol] !== length) continue;
      let reversed = 0;
      for (let bit = 0; bit < length; bit++) reversed |= ((next >> bit) & 1) << (length - 1 - bit);
      codes[symbol] = reversed | (length << 16);
      next++;
    }
    next <<= 1;
  }
  return codes;
}

/** True where at most one symbol has a code: its streams are empty. */
export function isSingle(lengths: Uint8Array): boolean {
  let used = 0;
  for (const length of lengths) if (length > 0) used++;
  return used <= 1;
}

/** Bits that the code spends on `counts`. */
export function codedBits(counts: ArrayLike<number>, lengths: Uint8Array): number {
  if (isSingle(lengths)) return 0;
  let bits = 0;
  for (let symbol = 0; symbol < lengths.length; symbol++) bits += counts[symbol] * lengths[symbol];
  return bits;
}

/** Shannon's bound: bits that any code without context needs for `counts`. */
export function entropyBits(counts: ArrayLike<number>): number {
  let total = 0;
  for (let symbol = 0; symbol < counts.length; symbol++) total += counts[symbol];
  let bits = 0;
  for (let symbol = 0; symbol < counts.length; symbol++) {
    if (counts[symbol] > 0) bits -= counts[symbol] * Math.log2(counts[symbol] / total);
  }
  return bits;
}
