import { PhysariumError } from "../errors.js";

/** What the flow is told. Names as in the report and on the command line (DESIGN.md §2). */
export interface FlowParams {
  /** Tiles are `blockSize` × `blockSize`, clipped at the matrix edges. */
  readonly blockSize: number;
  /** Steps of the dynamic. */
  readonly nIter: number;
  /** Exponent β of the adaptation `D ← |Q|^β`; 2 is the ℓ0 end of iteratively reweighted least squares. */
  readonly beta: number;
  /** Drive `s` below which a tube starves in the long run, in units of the tile's mean. */
  readonly survival: number;
}

/** The parameters of v1 as the project began with them (docs/flows.md). */
export const DEFAULT_PARAMS: FlowParams = { blockSize: 256, nIter: 30, beta: 2, survival: 0.355 };

export const PARAM_LIMITS = {
  blockSize: { min: 1, max: 65_536 },
  nIter: { min: 1, max: 10_000 },
  /** Exclusive at 1: the saddle D* = λ(β−1) is 0 there. */
  beta: { above: 1, max: 16 },
  /** Exclusive at 0. */
  survival: { above: 0, max: 100 },
} as const;

/** Throws `USAGE_PARAM` with the reason. */
export function checkParams(params: FlowParams): FlowParams {
  const { blockSize, nIter, beta, survival } = params;
  checkInteger("block-size", blockSize, PARAM_LIMITS.blockSize);
  checkInteger("n-iter", nIter, PARAM_LIMITS.nIter);
  if (!(beta > PARAM_LIMITS.beta.above)) {
    refuse(
      "beta",
      beta,
      "more than 1: at β = 1 tubes shrink but none ever crosses the saddle D* = λ(β−1) = 0, and below 1 nobody starves",
    );
  }
  if (!(beta <= PARAM_LIMITS.beta.max)) refuse("beta", beta, `at most ${PARAM_LIMITS.beta.max}`);
  if (!(survival > PARAM_LIMITS.survival.above && survival <= PARAM_LIMITS.survival.max)) {
    refuse(
      "survival",
      survival,
      `more than 0 and at most ${PARAM_LIMITS.survival.max} (times the tile's mean magnitude)`,
    );
  }
  return params;
}

function checkInteger(name: string, value: number, limits: { readonly min: number; readonly max: number }): void {
  if (!Number.isInteger(value) || value < limits.min || value > limits.max) {
    refuse(name, value, `a whole number from ${limits.min} to ${limits.max}`);
  }
}

function refuse(name: string, value: number, expected: string): never {
  throw new PhysariumError("USAGE_PARAM", `--${name} is ${value}, expected ${expected}`, { param: name, value });
}
