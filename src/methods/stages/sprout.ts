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
 * Let starved tubes grow again where pressure builds up: each round exchanges, in every row, its m weakest living tubes
 * (by |Q|·d) for the m starved ones with most pressure (by |g|/d), heals, and keeps the exchange where the row's loss
 * fell; elsewhere the row is put back and m halves. At m = 1 a refused pair is passed over and the next is tried.
 *
 * isolation  d_j = 1/√((C⁻¹)_jj) ≤ 1: how much of input j the others cannot say. (|Q|·d)² is what removing a tube
 *            costs, (|g|/d)² what a
 *            new one gains, in the second-order sense of Hassibi & Stork 1993, with every other tube free to adjust.
 * Expects flow healed on `alive` and a valid pressure; leaves both so. Rows keep their count of living tubes, groups of
 * a pattern theirs.
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

/**
 * Some tubes of a row by what speaks for choosing them: `sizes[i]` of the tube at column `columns[i]`, columns rising,
 * the first `count` of each.
 */
class Candidates {
  readonly sizes: Float32Array;
  readonly columns: Int32Array;
  count = 0;
  private readonly scratch: Float32Array;

  constructor(cols: number) {
    this.sizes = new Float32Array(cols);
    this.columns = new Int32Array(cols);
    this.scratch = new Float32Array(cols);
  }

  /** Columns of the `count` largest, in order; on a tie the lower column. */
  largest(count: number): Int32Array {
    const { sizes, columns, scratch } = this;
    const cut = cutAfterRank(sizes.subarray(0, this.count), count, scratch);
    const chosen = new Int32Array(count);
    let ties = cut.ties;
    let found = 0;
    for (let at = 0; found < count; at++) {
      if (sizes[at] > cut.value || (sizes[at] === cut.value && ties-- > 0)) chosen[found++] = columns[at];
    }
    return chosen;
  }

  /** Column of the one with `rank` larger ones before it; ties in order. */
  atRank(rank: number): number {
    const { sizes, columns, scratch } = this;
    const cut = cutAfterRank(sizes.subarray(0, this.count), rank + 1, scratch);
    let ties = cut.ties;
    for (let at = 0; at < this.count; at++) if (sizes[at] === cut.value && --ties === 0) return columns[at];
    return columns[0];
  }
}

/** Chooses and makes the exchange of one row; keeps its working arrays between rows. */
class Exchange {
  private readonly living: Candidates;
  private readonly starved: Candidates;

  constructor(
    private readonly cols: number,
    private readonly isolation: Float64Array,
    private readonly pattern: Pattern | undefined,
  ) {
    this.living = new Candidates(cols);
    this.starved = new Candidates(cols);
  }

  apply(flow: Float32Array, pressure: Float32Array, alive: Uint8Array, size: number, passedOver: number): void {
    const { living, starved } = this;
    if (this.pattern !== undefined) {
      const order = this.pairInGroups(flow, pressure, alive, this.pattern.of).sort(
        (a, b) => b.profit - a.profit || a.kill - b.kill,
      );
      for (const pair of order.slice(passedOver, passedOver + size)) swap(flow, alive, pair.kill, pair.grow);
      return;
    }
    this.weigh(flow, pressure, alive);
    const possible = Math.min(living.count, starved.count);
    const count = Math.min(size, possible);
    if (count === 0) return;
    if (passedOver === 0) {
      const kills = living.largest(count);
      const grows = starved.largest(count);
      for (let pair = 0; pair < count; pair++) swap(flow, alive, kills[pair], grows[pair]);
      return;
    }
    // Pairs in the order of their ranks' sum: (0,0), (0,1), (1,0), (0,2), (1,1), …
    const [killRank, growRank] = pairOfRanks(passedOver);
    if (killRank >= possible || growRank >= possible) return;
    swap(flow, alive, living.atRank(killRank), starved.atRank(growRank));
  }

  /** −|Q|·d of the living, so that the cheapest are the largest, and |g|/d of the starved. */
  private weigh(flow: Float32Array, pressure: Float32Array, alive: Uint8Array): void {
    const { cols, isolation, living, starved } = this;
    let alives = 0;
    let deads = 0;
    for (let col = 0; col < cols; col++) {
      if (alive[col] === 1) {
        living.sizes[alives] = -Math.abs(flow[col]) * isolation[col];
        living.columns[alives++] = col;
      } else {
        starved.sizes[deads] = Math.abs(pressure[col]) / isolation[col];
        starved.columns[deads++] = col;
      }
    }
    living.count = alives;
    starved.count = deads;
  }

  /**
   * The best exchange of each group of a pattern that has one: its cheapest living tube for its most pressed starved
   * one.
   */
  private pairInGroups(flow: Float32Array, pressure: Float32Array, alive: Uint8Array, of: number): Pair[] {
    const { cols, isolation } = this;
    const pairs: Pair[] = [];
    for (let start = 0; start < cols; start += of) {
      const end = Math.min(start + of, cols);
      let [kill, cost] = [-1, Number.NEGATIVE_INFINITY];
      let [grow, gain] = [-1, Number.NEGATIVE_INFINITY];
      for (let col = start; col < end; col++) {
        const weight =
          alive[col] === 1 ? -Math.abs(flow[col]) * isolation[col] : Math.abs(pressure[col]) / isolation[col];
        const rounded = Math.fround(weight);
        if (alive[col] === 1) {
          if (rounded > cost) [kill, cost] = [col, rounded];
        } else if (rounded > gain) [grow, gain] = [col, rounded];
      }
      if (kill >= 0 && grow >= 0) pairs.push({ kill, grow, profit: gain ** 2 - cost ** 2 });
    }
    return pairs;
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

interface Pair {
  readonly kill: number;
  readonly grow: number;
  readonly profit: number;
}
