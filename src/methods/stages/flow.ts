import { loadFor } from "../../flow/dynamic.js";
import type { TubeRows } from "./tube-rows.js";

export interface FlowOptions {
  readonly iterations: number;
  /** Exponent of the adaptation D ← |Q|^β; 2 makes a tube live or die. */
  readonly beta: number;
}

/**
 * A flow |Q| below this counts as nothing: its square would leave f32, and a starved tube never comes back by itself.
 */
const STARVED = 1e-15;

/**
 * Let the tubes compete: `iterations` times one Jacobi-preconditioned step of steepest descent (the first of conjugate
 * gradients) on (√D C √D + λI) z = √D C y,
 * Q = √D z, then D ← |Q|^β, with λ rising linearly to `load`.
 *
 * Warm start: the step begins from the z that gives the present Q under the new D (z = Q/√D), so the pressure stays
 * valid from step to step and each costs one product: √D(Cy − CQ) − λz = √D g − λz.
 * load     final λ of each row
 * returns  nothing; flow and pressure of `tubes` are changed in place, `alive` is not
 * source   spec: reference.ts `referenceFlow`
 */
export async function runFlow(tubes: TubeRows, load: Float64Array, options: FlowOptions): Promise<void> {
  const { rows, cols, flow, pressure, scratch, rowScratch, kernel } = tubes;
  const [direction, product] = scratch;
  const [gains, stiffnesses, loads] = rowScratch;
  const { iterations, beta } = options;
  loads.set(load);
  for (let iteration = 1; iteration <= iterations; iteration++) {
    const ramp = iteration / iterations;
    if (beta === 2) {
      kernel.flowDirection(
        rows,
        cols,
        flow.byteOffset,
        pressure.byteOffset,
        direction.byteOffset,
        loads.byteOffset,
        ramp,
        STARVED,
        gains.byteOffset,
        stiffnesses.byteOffset,
      );
    } else directionAtAnyBeta(tubes, load, ramp, beta);
    await tubes.coupling.multiply(direction, rows, product);
    kernel.flowStep(
      rows,
      cols,
      flow.byteOffset,
      pressure.byteOffset,
      direction.byteOffset,
      product.byteOffset,
      gains.byteOffset,
      stiffnesses.byteOffset,
    );
  }
}

/** The kernel's `flowDirection` with powers: √D = |Q|^(β/2), z = Q/√D. */
function directionAtAnyBeta(tubes: TubeRows, load: Float64Array, ramp: number, beta: number): void {
  const { rows, cols, flow, pressure, scratch, rowScratch } = tubes;
  const [direction] = scratch;
  const [gains, stiffnesses] = rowScratch;
  for (let row = 0; row < rows; row++) {
    const lambda = load[row] * ramp;
    let gain = 0;
    let norm = 0;
    for (let at = row * cols, end = at + cols; at < end; at++) {
      const width = Math.abs(flow[at]) ** (beta / 2);
      if (Math.abs(flow[at]) < STARVED) {
        direction[at] = 0;
        continue;
      }
      const residual = width * pressure[at] - (lambda * flow[at]) / width;
      const step = residual / (width * width + lambda);
      gain += residual * step;
      norm += step * step;
      direction[at] = width * step;
    }
    gains[row] = gain;
    stiffnesses[row] = lambda * norm;
  }
}

/**
 * λ for a wanted sparsity: the load under which a tube by itself starves if its drive is below the row's quantile of
 * |y| at that sparsity.
 */
export function loadForSparsity(tubes: TubeRows, sparsity: number, beta = 2): Float64Array {
  const { rows, cols, drive } = tubes;
  const sorted = new Float32Array(cols);
  return Float64Array.from({ length: rows }, (_, row) => {
    for (let col = 0; col < cols; col++) sorted[col] = Math.abs(drive[row * cols + col]);
    sorted.sort();
    const position = Math.min(Math.max(sparsity * (cols - 1), 0), cols - 1);
    const below = Math.floor(position);
    const above = Math.min(below + 1, cols - 1);
    return loadFor(sorted[below] + (sorted[above] - sorted[below]) * (position - below), beta);
  });
}

/** λ of the emergent mode: the same for survival · mean |y| of the row. */
export function loadForSurvival(tubes: TubeRows, survival: number, beta = 2): Float64Array {
  const { rows, cols, drive } = tubes;
  return Float64Array.from({ length: rows }, (_, row) => {
    let sum = 0;
    for (let at = row * cols, end = at + cols; at < end; at++) sum += Math.abs(drive[at]);
    return loadFor((survival * sum) / cols, beta);
  });
}
