import { StatisticsCollector } from "../../dist/calibration/statistics.js";
import { plainEngine } from "../../dist/engine/products.js";
import { scaleGram } from "../../dist/methods/algebra/damped.js";
import type { PruneTask } from "../../dist/methods/method.js";
import { openTubes, type TubeRows } from "../../dist/methods/stages/tube-rows.js";

/** Numbers that look random and are always the same for a seed (a linear congruential generator, Numerical Recipes). */
export function randomSource(seed: number): { uniform: () => number; gauss: () => number } {
  let state = seed >>> 0;
  const uniform = () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return (state + 0.5) / 2 ** 32;
  };
  const gauss = () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform());
  return { uniform, gauss };
}

/**
 * Inputs driven by few strong and many weak causes, some columns louder than others: correlated as activations are. f32
 * (tokens, n).
 */
export function correlatedInputs(n: number, tokens: number, seed: number): Float32Array {
  const { gauss } = randomSource(seed);
  const mixing = Array.from({ length: n * n }, () => gauss() / Math.sqrt(n));
  const inputs = new Float32Array(tokens * n);
  for (let token = 0; token < tokens; token++) {
    const causes = Array.from({ length: n }, (_, at) => 3 * gauss() * (at + 1) ** -0.7);
    for (let col = 0; col < n; col++) {
      let value = 0.15 * gauss();
      for (let at = 0; at < n; at++) value += causes[at] * mixing[at * n + col];
      inputs[token * n + col] = value * (1 + (col % 5));
    }
  }
  return inputs;
}

/** E[a bᵀ] over tokens, f32 (n, n). */
export function meanProduct(a: Float32Array, b: Float32Array, n: number): Float32Array {
  const tokens = a.length / n;
  const gram = new Float64Array(n * n);
  for (let token = 0; token < tokens; token++) {
    for (let row = 0; row < n; row++) {
      for (let col = 0; col < n; col++) gram[row * n + col] += (a[token * n + row] * b[token * n + col]) / tokens;
    }
  }
  return Float32Array.from(gram);
}

/** E[x] over tokens of (tokens, n). */
function meanOf(inputs: Float32Array, n: number): Float64Array {
  const mean = new Float64Array(n);
  for (let at = 0; at < inputs.length; at++) mean[at % n] += inputs[at] / (inputs.length / n);
  return mean;
}

export function gaussWeights(rows: number, cols: number, seed: number): Float32Array {
  const { gauss } = randomSource(seed);
  return Float32Array.from({ length: rows * cols }, () => gauss() / Math.sqrt(cols));
}

/** A small matrix with its inputs, as the pipeline would hand it to a method. */
export function syntheticTask(
  rows: number,
  cols: number,
  seed: number,
  target: PruneTask["target"] = { kind: "sparsity", sparsity: 0.5 },
): PruneTask {
  const inputs = correlatedInputs(cols, 4 * cols, seed);
  return {
    name: "synthetic",
    rows,
    cols,
    weights: gaussWeights(rows, cols, seed + 1),
    target,
    inputs: { tokens: 4 * cols, gram: meanProduct(inputs, inputs, cols), mean: meanOf(inputs, cols) },
    engine: plainEngine,
  };
}

/** The task's rows as open tubes, with the coupling in f64 beside them. */
export async function syntheticTubes(
  rows: number,
  cols: number,
  seed: number,
): Promise<{ tubes: TubeRows; coupling: Float64Array; coupling32: Float32Array }> {
  const task = syntheticTask(rows, cols, seed);
  const gram = scaleGram(task.inputs!.gram, cols);
  const drive = task.weights.map((weight, at) => weight * gram.scale[at % cols]);
  const bound = await plainEngine.bind(gram.coupling, cols, cols);
  return {
    tubes: openTubes(drive, rows, cols, bound),
    coupling: Float64Array.from(gram.coupling),
    coupling32: gram.coupling,
  };
}

/** E‖(W − X) x‖² over all rows, against E‖W x‖²: what a method's weights X cost, with the damping the methods see. */
export function relativeError(task: PruneTask, weights: Float32Array): number {
  const { rows, cols } = task;
  const { scale, coupling } = scaleGram(task.inputs!.gram, cols);
  let lost = 0;
  let energy = 0;
  for (let row = 0; row < rows; row++) {
    const y = Array.from({ length: cols }, (_, col) => task.weights[row * cols + col] * scale[col]);
    const lack = y.map((value, col) => value - weights[row * cols + col] * scale[col]);
    for (let a = 0; a < cols; a++) {
      for (let b = 0; b < cols; b++) {
        lost += lack[a] * lack[b] * coupling[a * cols + b];
        energy += y[a] * y[b] * coupling[a * cols + b];
      }
    }
  }
  return lost / energy;
}

/** A task without its statistics, and the two streams, drift and token weights they come from. */
export function twoStreamTask(rows: number, cols: number, tokens: number, target: PruneTask["target"]) {
  const donor = correlatedInputs(cols, tokens, 61);
  const noise = correlatedInputs(cols, tokens, 62);
  const operated = donor.map((value, at) => 0.95 * value + 0.1 * noise[at]);
  const drift = correlatedInputs(rows, tokens, 63).map((value) => 0.05 * value);
  const weights = Float64Array.from({ length: tokens }, (_, token) => 0.5 + (token % 7) / 7);
  const chunk = { operated, donor, drift, weights };
  const base = { name: "two streams", rows, cols, weights: gaussWeights(rows, cols, 64), target, engine: plainEngine };
  return { base, chunk };
}

export async function collectStatistics(
  cols: number,
  rows: number,
  { operated, donor, drift, weights }: ReturnType<typeof twoStreamTask>["chunk"],
) {
  const weigh = (values: Float32Array) =>
    values.map((value, at) => value * weights[Math.floor((at * weights.length) / values.length)]);
  const collector = new StatisticsCollector(cols, plainEngine, true);
  await collector.add(weigh(operated), weigh(donor));
  await collector.addDrift(weigh(operated), weigh(drift), rows);
  return collector.finish();
}
