import { heal } from "./heal.js";
import { cutAfterRank } from "./rank.js";
import type { Pattern } from "./select.js";
import { rowLosses, type TubeRows } from "./tube-rows.js";

export interface SproutOptions {
  readonly rounds: number;
  /** Share of the row exchanged at first. */
  readonly share: number;
  /** Conjugate-gradient steps after each exchange. */
  readonly healSteps: number;
  /** With a pattern, the exchange stays inside a group. */
  readonly pattern?: Pattern;
}

export interface SproutResult {
  /** Tubes that grew where none was before, and still live. */
  readonly exchanged: number;
  /** Rows whose last exchange was refused at the smallest size: nothing more to gain that this search sees. */
  readonly settledRows: number;
}

/**
 * Let starved tubes grow again where pressure builds up: each round exchanges, in every row, its m weakest living tubes (by |Q|·d) for the m
 * starved ones with most pressure (by |g|/d), heals, and keeps the exchange where the row's loss fell; elsewhere the row is put back and m halves.
 * At m = 1 a refused pair is passed over and the next is tried.
 *
 * isolation  d_j = 1/√((C⁻¹)_jj) ≤ 1: how much of input j the others cannot say. (|Q|·d)² is what removing a tube costs, (|g|/d)² what a
 *            new one gains, in the second-order sense of Hassibi & Stork 1993, with every other tube free to adjust.
 * Expects flow healed on `alive` and a valid pressure; leaves both so. Rows keep their count of living tubes, groups of a pattern theirs.
 */
export async function sprout(tubes: TubeRows, isolation: Float64Array, options: SproutOptions): Promise<SproutResult> {
  const { rows, cols, flow, pressure, alive } = tubes;
  const before = { flow: new Float32Array(flow.length), pressure: new Float32Array(flow.length), alive: alive.slice() };
  const start = alive.slice();
  const losses = rowLosses(tubes);
  const trial = new Float64Array(rows);
  const size = new Int32Array(rows).fill(Math.max(1, Math.round(options.share * cols)));
  const passedOver = new Int32Array(rows);
  const exchange = new Exchange(cols, isolation, options.pattern);

  for (let round = 0; round < options.rounds; round++) {
    before.flow.set(flow);
    before.pressure.set(pressure);
    before.alive.set(alive);
    for (let row = 0; row < rows; row++) {
      const from = row * cols;
      const to = from + cols;
      exchange.apply(
        flow.subarray(from, to),
        pressure.subarray(from, to),
        alive.subarray(from, to),
        size[row],
        passedOver[row],
      );
    }
    await shiftPressure(tubes, before.flow);
    await heal(tubes, options.healSteps);
    rowLosses(tubes, trial);
    for (let row = 0; row < rows; row++) {
      if (trial[row] < losses[row]) {
        losses[row] = trial[row];
        passedOver[row] = 0;
        continue;
      }
      const from = row * cols;
      const to = from + cols;
      flow.set(before.flow.subarray(from, to), from);
      pressure.set(before.pressure.subarray(from, to), from);
      alive.set(before.alive.subarray(from, to), from);
      if (size[row] > 1) size[row] >>= 1;
      else passedOver[row]++;
    }
  }
  let exchanged = 0;
  for (let at = 0; at < alive.length; at++) if (alive[at] === 1 && start[at] === 0) exchanged++;
  let settledRows = 0;
  for (let row = 0; row < rows; row++) if (passedOver[row] > 0) settledRows++;
  return { exchanged, settledRows };
}

/** g ← g − (Q − Q_before) C: exact where only few tubes changed, and the scratch arrays suffice. */
async function shiftPressure(tubes: TubeRows, before: Float32Array): Promise<void> {
  const { rows, flow, pressure, scratch } = tubes;
  const [change, product] = scratch;
  for (let at = 0; at < change.length; at++) change[at] = flow[at] - before[at];
  await tubes.coupling.multiply(change, rows, product);
  for (let at = 0; at < change.length; at++) pressure[at] -= product[at];
}

/** Chooses and makes the exchange of one row; keeps its working arrays between rows. */
class Exchange {
  private readonly cost: Float32Array;
  private readonly gain: Float32Array;

  constructor(
    private readonly cols: number,
    private readonly isolation: Float64Array,
    private readonly pattern: Pattern | undefined,
  ) {
    this.cost = new Float32Array(cols);
    this.gain = new Float32Array(cols);
  }

  apply(flow: Float32Array, pressure: Float32Array, alive: Uint8Array, size: number, passedOver: number): void {
    const { cols, isolation, cost, gain } = this;
    let living = 0;
    for (let col = 0; col < cols; col++) {
      const isAlive = alive[col] === 1;
      // Negative, so that the cheapest living tubes are the largest; −∞ takes no part.
      cost[col] = isAlive ? -Math.abs(flow[col]) * isolation[col] : Number.NEGATIVE_INFINITY;
      gain[col] = isAlive ? Number.NEGATIVE_INFINITY : Math.abs(pressure[col]) / isolation[col];
      if (isAlive) living++;
    }
    const pairs = this.pattern === undefined ? undefined : pairInGroups(cost, gain, this.pattern);
    if (pairs !== undefined) {
      const order = pairs
        .filter((pair) => pair.profit > Number.NEGATIVE_INFINITY)
        .sort((a, b) => b.profit - a.profit || a.kill - b.kill);
      for (const pair of order.slice(passedOver, passedOver + size)) swap(flow, alive, pair.kill, pair.grow);
      return;
    }
    const possible = Math.min(living, cols - living);
    const count = Math.min(size, possible);
    if (count === 0) return;
    if (passedOver === 0) {
      const kills = indicesOfLargest(cost, count);
      const grows = indicesOfLargest(gain, count);
      for (let pair = 0; pair < count; pair++) swap(flow, alive, kills[pair], grows[pair]);
      return;
    }
    // Pairs in the order of their ranks' sum: (0,0), (0,1), (1,0), (0,2), (1,1), …
    const [killRank, growRank] = pairOfRanks(passedOver);
    if (killRank >= possible || growRank >= possible) return;
    swap(flow, alive, indexOfRank(cost, killRank), indexOfRank(gain, growRank));
  }
}

function swap(flow: Float32Array, alive: Uint8Array, kill: number, grow: number): void {
  alive[kill] = 0;
  flow[kill] = 0;
  alive[grow] = 1;
}

/** The n-th pair of ranks, n ≥ 0, along the diagonals of the table of pairs. */
export function pairOfRanks(n: number): [number, number] {
  let diagonal = 0;
  let rest = n;
  while (rest > diagonal) rest -= ++diagonal;
  return [rest, diagonal - rest];
}

/** Indices of the `count` largest, in index order; on a tie the lower index. */
function indicesOfLargest(values: Float32Array, count: number): number[] {
  const cut = cutAfterRank(values, count);
  let ties = cut.ties;
  const indices: number[] = [];
  for (let at = 0; at < values.length; at++) {
    if (values[at] > cut.value || (values[at] === cut.value && ties-- > 0)) indices.push(at);
  }
  return indices;
}

/** Index of the value with `rank` larger ones before it; ties in index order. */
function indexOfRank(values: Float32Array, rank: number): number {
  const cut = cutAfterRank(values, rank + 1);
  let ties = cut.ties;
  for (let at = 0; at < values.length; at++) if (values[at] === cut.value && --ties === 0) return at;
  return 0;
}

interface Pair {
  readonly kill: number;
  readonly grow: number;
  readonly profit: number;
}

/** The best exchange of each group of a pattern: its cheapest living tube for its most pressed starved one. */
function pairInGroups(cost: Float32Array, gain: Float32Array, pattern: Pattern): Pair[] {
  const pairs: Pair[] = [];
  for (let start = 0; start < cost.length; start += pattern.of) {
    const end = Math.min(start + pattern.of, cost.length);
    let kill = start;
    let grow = start;
    for (let at = start + 1; at < end; at++) {
      if (cost[at] > cost[kill]) kill = at;
      if (gain[at] > gain[grow]) grow = at;
    }
    if (cost[kill] > Number.NEGATIVE_INFINITY && gain[grow] > Number.NEGATIVE_INFINITY)
      pairs.push({ kill, grow, profit: gain[grow] ** 2 - cost[kill] ** 2 });
  }
  return pairs;
}
