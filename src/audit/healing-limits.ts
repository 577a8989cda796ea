import type { Evidence } from "../record/evidence.js";

/**
 * How far healing may take a tensor from its donor, whatever a ledger says. These are no measure of quality: they tell
 * a matrix that was healed from one that was replaced, negated, shuffled or blown up.
 *
 * Measured on `loam`, every projection, 21 to 97 % of zeros and N:M, calibrated on 32 to 4,096 tokens: cosines of 0.75
 * to 0.999, 0.85 to 1 of the signs kept, rows up to 2.9 times as long, one row turned at most (docs/verify.md has the
 * table). A negated matrix has a cosine of −1, a shuffled one about 0.
 */
const LIMITS = {
  survivor_cosine: 0.4,
  signs_kept: 0.65,
  largest_row_gain: 8,
  /** Of the rows: a row with few living weights may turn. */
  rows_turned: 0.02,
};

/** What of a healed tensor's evidence no healing explains, in words. */
export function beyondHealing(evidence: Evidence, rows: number): string[] {
  const faults: string[] = [];
  const { survivor_cosine, signs_kept, largest_row_gain, rows_turned } = evidence;
  // Written so that NaN fails.
  if (!(survivor_cosine >= LIMITS.survivor_cosine))
    faults.push(
      `its living weights have a cosine of ${survivor_cosine} with the donor's, at least ${LIMITS.survivor_cosine} ` +
        "is healing",
    );
  if (!(signs_kept >= LIMITS.signs_kept))
    faults.push(`${signs_kept} of its living weights kept their sign, at least ${LIMITS.signs_kept} is healing`);
  if (!(largest_row_gain <= LIMITS.largest_row_gain))
    faults.push(
      `a row is ${largest_row_gain} times as long as the donor's, at most ${LIMITS.largest_row_gain} is healing`,
    );
  if (!(rows_turned <= Math.max(1, LIMITS.rows_turned * rows)))
    faults.push(`${rows_turned} of ${rows} rows point away from the donor's`);
  return faults;
}
