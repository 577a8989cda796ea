import type { ComparisonRow } from "../../record/comparison.js";

/** Methods whose damage is searched: what v1 does, and a cheap one that sees activations and that v2 stays below. */
export const SEARCHED = { magnitude: "tile-magnitude", activation: "wanda" } as const;

/** Where damage is measured; in between its logarithm is taken as straight. */
export const SEARCHED_SPARSITIES: readonly number[] = [0.1, 0.3, 0.5];

const LEAST = 0.02;
const MOST = 0.9;

export interface Choice {
  readonly flow: "magnitude" | "activation";
  readonly sparsity: number;
}

/**
 * The sparsity at which damage (ln of the perplexity ratio) stays within `allowed`, by what the search measured. On a
 * short text that ratio is noise where little is lost, and KL divergence, which it tends to on the donor's own words,
 * is not: the larger of the two counts. v1 follows its own curve. v2 takes the further of the two curves: at one
 * sparsity it has lost less than either on every donor that it was measured on (docs/flows.md).
 */
export function chooseSparsity(rows: readonly ComparisonRow[], allowed: number, flow: Choice["flow"]): Choice {
  const reached = Object.values(SEARCHED).map((name) => {
    const points = rows
      .filter(({ method, sparsity }) => method === name && sparsity !== undefined)
      .map((row) => ({ sparsity: row.sparsity!, damage: Math.max(row.damage, row.kl_mean, 1e-6) }))
      .sort((a, b) => a.sparsity - b.sparsity);
    return points.length === 0 || (flow === "magnitude" && name !== SEARCHED.magnitude) ? 0 : reach(points, allowed);
  });
  return { flow, sparsity: Math.max(LEAST, ...reached) };
}

/** The sparsity at which the curve through the points comes to `allowed`, rounded down to a hundredth. */
function reach(points: readonly { sparsity: number; damage: number }[], allowed: number): number {
  // Below the first point damage falls with the square of the sparsity, as a sum of small squares does.
  const [first] = points;
  let found: number;
  if (allowed <= first.damage) found = first.sparsity * Math.sqrt(allowed / first.damage);
  else {
    const after = points.findIndex(({ damage }) => damage > allowed);
    const [a, b] = after < 0 ? points.slice(-2) : [points[after - 1], points[after]];
    if (b === undefined || b.damage <= a.damage) found = a.sparsity;
    else {
      const slope = (Math.log(b.damage) - Math.log(a.damage)) / (b.sparsity - a.sparsity);
      found = a.sparsity + (Math.log(allowed) - Math.log(a.damage)) / slope;
    }
  }
  return Math.min(MOST, Math.max(LEAST, Math.floor(found * 100 + 1e-9) / 100));
}

/** A packed weight's bits at a share of zeros: the mask's entropy, and `dense` bits for each that lives. */
export function packedBits(sparsity: number, dense: number): number {
  const part = (p: number): number => (p <= 0 || p >= 1 ? 0 : -p * Math.log2(p));
  return part(sparsity) + part(1 - sparsity) + (1 - sparsity) * dense;
}

/**
 * The least sparsity at which a packed model fits, in hundredths; `undefined` where none up to 0.7 does, 0 where it
 * fits as it is.
 *
 * dense  bits a packed weight takes without surgery
 */
export function sparsityToFit(
  { modelWeights, targetWeights, dense }: { modelWeights: number; targetWeights: number; dense: number },
  bytes: number,
): number | undefined {
  for (let hundredths = 0; hundredths <= 70; hundredths++) {
    const targets = targetWeights * (hundredths === 0 ? dense : packedBits(hundredths / 100, dense));
    if (targets + (modelWeights - targetWeights) * dense <= 8 * bytes) return hundredths / 100;
  }
  return undefined;
}
