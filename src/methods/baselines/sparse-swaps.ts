import { refuseStopped } from "../../errors.js";
import type { PruneMethod, PruneTask } from "../method.js";
import type { Pattern } from "../stages/select.js";
import { ria } from "./ria.js";
import { gramOf } from "./scores.js";
import { wanda } from "./wanda.js";

/** Most exchanges in a row: what they gain falls quickly. */
const MOST_SWAPS = 100;
/** An exchange has to gain this share of what the row has lost, or rounding would exchange for ever. */
const LEAST_GAIN = 1e-9;

/**
 * Exchange one living weight of a row for a dead one as long as that lowers what the row loses, each time the pair that
 * lowers it most; survivors keep their values.
 *
 * With r the row's dead weights (0 elsewhere) a row loses r G rᵀ. Closing u costs w_u² G_uu + 2 w_u (rG)_u, opening p
 * costs w_p² G_pp − 2 w_p (rG)_p, both at once − 2 w_u w_p G_up more: every pair's price is exact.
 * weights  f32 (rows, cols); read only
 * gram     f32 (cols, cols), undamped
 * alive    1 living; changed in place. Rows keep their count, groups of `pattern` theirs
 * returns  exchanges made
 */
export function swapExactly(
  weights: Float32Array,
  gram: Float32Array,
  rows: number,
  cols: number,
  alive: Uint8Array,
  { pattern, signal }: { readonly pattern?: Pattern | undefined; readonly signal?: AbortSignal | undefined } = {},
): number {
  const search = new PairSearch(gram, cols, pattern?.of ?? cols);
  let swaps = 0;
  for (let row = 0; row < rows; row++) {
    refuseStopped(signal);
    const [from, to] = [row * cols, (row + 1) * cols];
    swaps += search.settle(weights.subarray(from, to), alive.subarray(from, to));
  }
  return swaps;
}

/** Finds and makes the exchanges of one row after the other; pairs lie inside groups of `group` inputs. */
class PairSearch {
  /** (rG)_j */
  private readonly lost: Float64Array;
  /** What closing (the living) or opening (the dead) an input costs by itself. */
  private readonly price: Float64Array;
  /** |w_j| √G_jj: two inputs' sizes multiplied bound what they cost together, for |G_up| ≤ √(G_uu G_pp). */
  private readonly size: Float64Array;
  private readonly dead: Int32Array;

  constructor(
    private readonly gram: Float32Array,
    private readonly cols: number,
    private readonly group: number,
  ) {
    this.lost = new Float64Array(cols);
    this.price = new Float64Array(cols);
    this.size = new Float64Array(cols);
    this.dead = new Int32Array(cols);
  }

  settle(weights: Float32Array, alive: Uint8Array): number {
    const { gram, cols, lost, size } = this;
    lost.fill(0);
    for (let col = 0; col < cols; col++) {
      size[col] = Math.abs(weights[col]) * Math.sqrt(gram[col * cols + col]);
      if (alive[col] === 0) this.shift(col, weights[col]);
    }
    let loss = 0;
    for (let col = 0; col < cols; col++) if (alive[col] === 0) loss += weights[col] * lost[col];
    for (let swaps = 0; ; swaps++) {
      const pair = swaps < MOST_SWAPS ? this.best(weights, alive, -LEAST_GAIN * loss) : undefined;
      if (pair === undefined) return swaps;
      alive[pair.close] = 0;
      alive[pair.open] = 1;
      this.shift(pair.close, weights[pair.close]);
      this.shift(pair.open, -weights[pair.open]);
      loss += pair.price;
    }
  }

  /** rG once `weight` of input `col` more is lost. */
  private shift(col: number, weight: number): void {
    const { gram, cols, lost } = this;
    if (weight === 0) return;
    for (let at = 0, from = col * cols; at < cols; at++) lost[at] += weight * gram[from + at];
  }

  /** The cheapest pair, if it costs less than `most`. */
  private best(
    weights: Float32Array,
    alive: Uint8Array,
    most: number,
  ): { close: number; open: number; price: number } | undefined {
    const { gram, cols, group, lost, price, size, dead } = this;
    for (let col = 0; col < cols; col++) {
      const own = size[col] ** 2;
      price[col] = alive[col] === 1 ? own + 2 * weights[col] * lost[col] : own - 2 * weights[col] * lost[col];
    }
    let [close, open, least] = [-1, -1, most];
    for (let start = 0; start < cols; start += group) {
      const end = Math.min(start + group, cols);
      let count = 0;
      let cheapest = Number.POSITIVE_INFINITY;
      let largest = 0;
      for (let col = start; col < end; col++) {
        if (alive[col] === 1) continue;
        dead[count++] = col;
        cheapest = Math.min(cheapest, price[col]);
        largest = Math.max(largest, size[col]);
      }
      for (let living = start; living < end; living++) {
        if (alive[living] === 0 || price[living] + cheapest - 2 * size[living] * largest >= least) continue;
        const [own, twice, from] = [price[living], 2 * weights[living], living * cols];
        for (let at = 0; at < count; at++) {
          const col = dead[at];
          const together = own + price[col] - twice * weights[col] * gram[from + col];
          if (together < least) [close, open, least] = [living, col, together];
        }
      }
    }
    return close < 0 ? undefined : { close, open, price: least };
  }
}

/**
 * Another method's mask, refined by exact exchanges, with the donor's values behind it.
 * source: Zimmer et al. 2025, SparseSwaps, https://arxiv.org/abs/2512.10922
 */
function sparseSwaps(name: string, start: PruneMethod): PruneMethod {
  return {
    name,
    title: `SparseSwaps from ${start.title}`,
    reference: "https://arxiv.org/abs/2512.10922",
    needs: "gram",
    steps: "layer",
    async prune(task: PruneTask) {
      const { weights, rows, cols, target, signal } = task;
      const { alive } = await start.prune(task);
      const pattern = target.kind === "pattern" ? target.pattern : undefined;
      swapExactly(weights, gramOf(task), rows, cols, alive, { pattern, signal });
      return { weights: weights.map((weight, at) => (alive[at] === 1 ? weight : 0)), alive, stages: [] };
    },
  };
}

export const swapsFromWanda = sparseSwaps("sparseswaps", wanda);
export const swapsFromRia = sparseSwaps("sparseswaps-ria", ria);
