/**
 * A histogram of drives whose bins are the leading bits of the drive as f64: 2^-64 … 2^64, each bin 2^-11 wide relative
 * to its lower edge, which keeps a global rate within 0.02 percentage points. Filled by assembly/surgery/drives.ts.
 */
export const DRIVE_BINS = 128 << 11;
const FIRST_LEADING_BITS = (1023 - 64) << 11;

const scratch = new DataView(new ArrayBuffer(8));

/** Lower edge of a bin. */
export function driveBinEdge(bin: number): number {
  scratch.setBigUint64(0, BigInt(FIRST_LEADING_BITS + bin) << 41n);
  return scratch.getFloat64(0);
}

/** The bin of a positive drive; the readable twin of `count` in assembly/surgery/drives.ts. */
export function driveBin(drive: number): number {
  scratch.setFloat64(0, drive);
  const bin = Number(scratch.getBigUint64(0) >> 41n) - FIRST_LEADING_BITS;
  return Math.min(Math.max(bin, 0), DRIVE_BINS - 1);
}

export interface DriveSearch {
  /** Drives below this die. */
  readonly threshold: number;
  /** Weights that are zero or die under it. */
  readonly dead: number;
}

/**
 * The threshold whose dead (zeros included) come nearest to `fraction` of all weights.
 *
 * histogram  drives of the weights that are finite and not zero
 * zeros      weights that are ±0 already
 * weights    all target weights, the denominator
 * Where no rate is near (all magnitudes equal, say) the nearest reachable one is taken; ties go to fewer dead.
 */
export function searchThreshold(
  histogram: Float64Array,
  zeros: number,
  weights: number,
  fraction: number,
): DriveSearch {
  const wanted = fraction * weights;
  let best: DriveSearch = { threshold: 0, dead: zeros };
  let dead = zeros;
  for (let bin = 0; bin < DRIVE_BINS; bin++) {
    if (histogram[bin] === 0) continue;
    dead += histogram[bin];
    if (Math.abs(dead - wanted) < Math.abs(best.dead - wanted)) best = { threshold: driveBinEdge(bin + 1), dead };
    if (dead >= wanted) break;
  }
  return best;
}
