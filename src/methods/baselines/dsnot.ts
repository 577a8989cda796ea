import { PhysariumError, refuseStopped } from "../../errors.js";
import type { PruneMethod, PruneTask } from "../method.js";
import { inputEnergies } from "./scores.js";
import { wanda } from "./wanda.js";

/** The authors' settings: exchanges in a row at most, the mean error that is small enough, the exponent of variance. */
const MOST_CYCLES = 50;
const ERROR_THRESHOLD = 0.1;

/**
 * Wanda's mask, then exchanges that bring each row's mean output error e = Σ w_j E[x_j] over its dead weights to 0:
 * what is dead and moves e towards 0 most, relative to how its input varies, lives again; what lives, is cheapest by
 * |w|·‖x‖ relative to that and moves e the same way, dies. A row ends when |e| ≤ 0.1, when an exchange would turn e's
 * sign, or after 50. With a pattern both are of one group. Survivors keep their values.
 * source: Zhang et al. 2023, https://arxiv.org/abs/2310.08915
 */
export const dsnot: PruneMethod = {
  name: "dsnot",
  title: "DSnoT from Wanda",
  reference: "https://arxiv.org/abs/2310.08915",
  needs: "norms",
  needsMean: true,
  steps: "layer",
  async prune(task) {
    const { weights, rows, cols, signal } = task;
    const { alive } = await wanda.prune(task);
    const inputs = inputsOf(task);
    const group = task.target.kind === "pattern" ? task.target.pattern.of : cols;
    for (let row = 0; row < rows; row++) {
      refuseStopped(signal);
      const [from, to] = [row * cols, (row + 1) * cols];
      settleRow(weights.subarray(from, to), alive.subarray(from, to), inputs, group);
    }
    return { weights: weights.map((weight, at) => (alive[at] === 1 ? weight : 0)), alive, stages: [] };
  },
};

interface Inputs {
  /** E[x] of each. */
  readonly mean: Float64Array;
  readonly norm: Float64Array;
  readonly variance: Float64Array;
}

function inputsOf(task: PruneTask): Inputs {
  const mean = task.inputs?.mean;
  if (mean === undefined) {
    throw new PhysariumError("INTERNAL", `${task.name}: the method needs the inputs' means and got none`, {
      tensor: task.name,
    });
  }
  const energies = inputEnergies(task);
  return {
    mean,
    norm: energies.map(Math.sqrt),
    // An input that never varies says the same always: the least that f32 tells from 0 in its energy.
    variance: energies.map((energy, at) => Math.max(energy - mean[at] ** 2, energy * 2 ** -24) || 1),
  };
}

/** Exchange weights of one row in place. */
function settleRow(weights: Float32Array, alive: Uint8Array, inputs: Inputs, group: number): void {
  let error = 0;
  for (let col = 0; col < weights.length; col++) if (alive[col] === 0) error += weights[col] * inputs.mean[col];
  const sign = Math.sign(error);
  for (let cycle = 0; cycle < MOST_CYCLES && Math.abs(error) > ERROR_THRESHOLD; cycle++) {
    const pair = pairOf(weights, alive, inputs, group, sign);
    if (pair === undefined) return;
    const { grow, kill } = pair;
    const after = error + weights[kill] * inputs.mean[kill] - weights[grow] * inputs.mean[grow];
    if (Math.sign(after) !== sign) return;
    alive[grow] = 1;
    alive[kill] = 0;
    error = after;
  }
}

/**
 * The dead weight whose return lowers the error most, and the cheapest living one of its group that lowers it, too;
 * groups where none does are passed over.
 */
function pairOf(
  weights: Float32Array,
  alive: Uint8Array,
  { mean, norm, variance }: Inputs,
  group: number,
  sign: number,
): { grow: number; kill: number } | undefined {
  let [best, most] = [undefined as { grow: number; kill: number } | undefined, 0];
  for (let start = 0; start < weights.length; start += group) {
    let [grow, gain, kill, least] = [-1, most, -1, Number.POSITIVE_INFINITY];
    for (let col = start, end = Math.min(start + group, weights.length); col < end; col++) {
      const share = sign * weights[col] * mean[col];
      if (alive[col] === 0) {
        if (share / variance[col] > gain) [grow, gain] = [col, share / variance[col]];
      } else if (share < 0) {
        const cost = (Math.abs(weights[col]) * norm[col]) / variance[col];
        if (cost < least) [kill, least] = [col, cost];
      }
    }
    if (grow >= 0 && kill >= 0) [best, most] = [{ grow, kill }, gain];
  }
  return best;
}
