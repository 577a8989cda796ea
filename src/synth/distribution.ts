import { bytesPerFloat, type FloatDtype } from "../safetensors/dtypes.js";
import { floatBits } from "../safetensors/float-bits.js";

/** How the weights of a matrix are drawn; every one is symmetric, with mean 0. */
export type Distribution = "gaussian" | "uniform" | "student" | "weak-channels";

export const DISTRIBUTIONS: readonly Distribution[] = ["gaussian", "uniform", "student", "weak-channels"];

/** Entries of a table: one for each value of 16 random bits. */
export const TABLE_SIZE = 65_536;

/**
 * Channels of a `weak-channels` matrix that are weak are scaled by this: a power of two, so BF16 and F32 scale without
 * rounding.
 */
export const WEAK_SCALE = 1 / 8;

/**
 * The quantiles of a distribution at the midpoints (k + ½) / 65,536, scaled to the standard deviation `std`, as bit
 * patterns of `dtype`.
 *
 * Drawing a weight is then one look-up with 16 random bits. What that costs: the tails end at the first and last
 * midpoint (4.33 standard deviations of a Gaussian), and an F32 tensor has 65,536 different values at most; BF16 and
 * F16 round them to fewer anyway.
 *
 * `weak-channels` has two tables behind each other: strong channels at 0, weak ones at 65,536.
 */
export function quantileBits(distribution: Distribution, std: number, dtype: FloatDtype): Uint16Array | Uint32Array {
  const unit = unitQuantiles(distribution);
  const scales = distribution === "weak-channels" ? [std, std * WEAK_SCALE] : [std];
  const size = TABLE_SIZE * scales.length;
  const bits = bytesPerFloat(dtype) === 2 ? new Uint16Array(size) : new Uint32Array(size);
  for (const [position, scale] of scales.entries()) {
    for (let k = 0; k < TABLE_SIZE; k++) bits[position * TABLE_SIZE + k] = floatBits(unit[k] * scale, dtype);
  }
  return bits;
}

/** Ascending quantiles with mean 0 and, after scaling by what the cut-off tails took, standard deviation 1. */
export function unitQuantiles(distribution: Distribution): Float64Array {
  const quantile = distribution === "uniform" ? uniform : distribution === "student" ? student4 : gaussian;
  const values = new Float64Array(TABLE_SIZE);
  let squares = 0;
  for (let k = TABLE_SIZE / 2; k < TABLE_SIZE; k++) {
    const value = quantile((k + 0.5) / TABLE_SIZE);
    values[k] = value;
    values[TABLE_SIZE - 1 - k] = -value;
    squares += 2 * value * value;
  }
  const scale = Math.sqrt(TABLE_SIZE / squares);
  for (let k = 0; k < TABLE_SIZE; k++) values[k] *= scale;
  return values;
}

function uniform(p: number): number {
  return p - 0.5;
}

/**
 * Quantile of Student's t with four degrees of freedom, the heaviest tails for which the variance is comfortably
 * finite.
 * source: Shaw 2006, "Sampling Student's T distribution", J. Computational Finance 9(4), section 3.2 (closed form for n
 * = 4)
 */
function student4(p: number): number {
  const root = Math.sqrt(4 * p * (1 - p));
  return Math.sign(p - 0.5) * 2 * Math.sqrt(Math.max(0, Math.cos(Math.acos(root) / 3) / root - 1));
}

/**
 * Quantile of the standard normal, to about 1e-16 relative.
 * source: Wichura 1988, "Algorithm AS241: The Percentage Points of the Normal Distribution", Applied Statistics 37(3);
 * its third branch, for p below 1e-11, is left out because no midpoint reaches it
 */
function gaussian(p: number): number {
  const q = p - 0.5;
  if (Math.abs(q) <= 0.425) {
    const r = 0.180625 - q * q;
    return (q * polynomial(CENTRE_NUMERATOR, r)) / polynomial(CENTRE_DENOMINATOR, r);
  }
  const r = Math.sqrt(-Math.log(q < 0 ? p : 1 - p)) - 1.6;
  return (Math.sign(q) * polynomial(TAIL_NUMERATOR, r)) / polynomial(TAIL_DENOMINATOR, r);
}

// Highest power first, as AS241 prints them, rounded to f64.
const CENTRE_NUMERATOR = [
  2509.0809287301227, 33430.57558358813, 67265.7709270087, 45921.95393154987, 13731.69376550946, 1971.5909503065513,
  133.14166789178438, 3.3871328727963665,
];
const CENTRE_DENOMINATOR = [
  5226.495278852854, 28729.085735721943, 39307.89580009271, 21213.794301586597, 5394.196021424751, 687.1870074920579,
  42.31333070160091, 1,
];
const TAIL_NUMERATOR = [
  0.0007745450142783414, 0.022723844989269184, 0.2417807251774506, 1.2704582524523684, 3.6478483247632045,
  5.769497221460691, 4.630337846156546, 1.4234371107496835,
];
const TAIL_DENOMINATOR = [
  1.0507500716444169e-9, 0.0005475938084995345, 0.015198666563616457, 0.14810397642748008, 0.6897673349851,
  1.6763848301838038, 2.053191626637759, 1,
];

function polynomial(coefficients: readonly number[], x: number): number {
  let value = 0;
  for (const coefficient of coefficients) value = value * x + coefficient;
  return value;
}
