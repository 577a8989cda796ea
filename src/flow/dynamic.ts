import type { FlowParams } from "./params.js";

/**
 * The dynamic of one tube under a fixed load, in the contract's arithmetic: f64, in the order written here.
 *
 * ```
 * start  D ← y^β
 * step   Q = y·D/(D+λ),  D ← Q^β           n_iter times
 * dead   D < D* = λ(β−1)
 * ```
 *
 * This file is the readable specification of every flow: the fast paths only ever ask it. Our reconstruction of the
 * magnitude flow (the seed's report states no formula); for the theory see Straszak & Vishnoi 2016, "IRLS and slime
 * mold".
 */
export class Dynamic {
  /** λ: what every tube must carry, set so that drives below `survival` starve in the long run. */
  readonly load: number;
  /** D*: conductance of the saddle; a tube below it never comes back. */
  readonly saddle: number;
  private readonly nIter: number;
  private readonly beta: number;

  constructor({ nIter, beta, survival }: Omit<FlowParams, "blockSize">) {
    this.nIter = nIter;
    this.beta = beta;
    this.load = loadFor(survival, beta);
    this.saddle = this.load * (beta - 1);
  }

  /** Does a tube with this drive (y ≥ 0, finite) end under the saddle? Without drive there is no tube: 0 starves. */
  starves(drive: number): boolean {
    if (drive === 0) return true;
    const { load, beta } = this;
    let conductance = power(drive, beta);
    for (let step = 0; step < this.nIter; step++) {
      const flux = (drive * conductance) / (conductance + load);
      conductance = power(flux, beta);
    }
    return conductance < this.saddle;
  }
}

/** λ under which drives below `survival` starve in the long run: (s(β−1)/β)^β / (β−1), for β = 2 s²/4. */
export function loadFor(survival: number, beta: number): number {
  return power((survival * (beta - 1)) / beta, beta) / (beta - 1);
}

/** x^β of the contract: `x*x` for β = 2, `Math.pow` otherwise. */
function power(x: number, beta: number): number {
  return beta === 2 ? x * x : x ** beta;
}

/**
 * No drive in a tile exceeds its element count (one weight carries the whole mean), and tiles have at most 65,536²
 * weights.
 */
const MAX_DRIVE = 65_536 * 65_536;

/**
 * The drive threshold in force after `n_iter` steps: drives below it are dead, those at or above it live.
 *
 * Bisection over f64 bit patterns, asking the dynamic itself; ∞ where not even the largest possible drive survives.
 */
export function driveThreshold(dynamic: Dynamic): number {
  if (dynamic.starves(MAX_DRIVE)) return Number.POSITIVE_INFINITY;
  let dead = 0n;
  let alive = bitsOf(MAX_DRIVE);
  while (alive - dead > 1n) {
    const middle = (dead + alive) >> 1n;
    if (dynamic.starves(numberOf(middle))) dead = middle;
    else alive = middle;
  }
  return numberOf(alive);
}

const scratch = new DataView(new ArrayBuffer(8));

/** Bits of a non-negative double; they order as the numbers do. */
function bitsOf(value: number): bigint {
  scratch.setFloat64(0, value);
  return scratch.getBigUint64(0);
}

function numberOf(bits: bigint): number {
  scratch.setBigUint64(0, bits);
  return scratch.getFloat64(0);
}
