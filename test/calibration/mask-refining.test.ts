import { describe, expect, test } from "vitest";
import { dsnot } from "../../dist/methods/baselines/dsnot.js";
import { swapExactly, swapsFromRia, swapsFromWanda } from "../../dist/methods/baselines/sparse-swaps.js";
import { wanda } from "../../dist/methods/baselines/wanda.js";
import type { PruneTask } from "../../dist/methods/method.js";
import { syntheticTask } from "./synthetic.js";

const half = { kind: "sparsity", sparsity: 0.5 } as const;
const twoOfFour = { kind: "pattern", pattern: { keep: 2, of: 4 } } as const;

/** ‖(W − M∘W) X‖² of one row, from its definition. */
function lossOf({ weights, cols, inputs }: PruneTask, row: number, alive: ArrayLike<number>): number {
  let loss = 0;
  for (let a = 0; a < cols; a++) {
    for (let b = 0; b < cols; b++) {
      if (alive[row * cols + a] === 1 || alive[row * cols + b] === 1) continue;
      loss += weights[row * cols + a] * weights[row * cols + b] * inputs!.gram[a * cols + b];
    }
  }
  return loss;
}

/** The best exchange of a row, each pair tried and its loss computed anew. */
function plainSwap(task: PruneTask, row: number, alive: Uint8Array, group: number): boolean {
  const { cols } = task;
  let [least, best] = [lossOf(task, row, alive) * (1 - 1e-9), undefined as Uint8Array | undefined];
  for (let close = 0; close < cols; close++) {
    for (let open = 0; open < cols; open++) {
      if (Math.floor(close / group) !== Math.floor(open / group)) continue;
      if (alive[row * cols + close] === 0 || alive[row * cols + open] === 1) continue;
      const trial = alive.slice();
      trial[row * cols + close] = 0;
      trial[row * cols + open] = 1;
      const loss = lossOf(task, row, trial);
      if (loss < least) [least, best] = [loss, trial];
    }
  }
  if (best === undefined) return false;
  alive.set(best);
  return true;
}

describe("sparseswaps", () => {
  test.each([half, twoOfFour])("each exchange is the best there is, until none is left (%j)", async (target) => {
    const task = syntheticTask(4, 22, 17, target);
    const start = (await wanda.prune(task)).alive;
    const expected = start.slice();
    const group = target.kind === "pattern" ? target.pattern.of : task.cols;
    for (let row = 0; row < task.rows; row++) while (plainSwap(task, row, expected, group));
    const { alive, weights } = await swapsFromWanda.prune(task);
    expect(alive).toEqual(expected);
    expect(alive).not.toEqual(start);
    expect([...weights]).toEqual([...alive].map((bit, at) => (bit === 1 ? task.weights[at] : 0)));
  });

  test("any mask: what a row loses falls, its count stays", async () => {
    const task = syntheticTask(3, 40, 4);
    const alive = Uint8Array.from({ length: 120 }, (_, at) => at % 2);
    const before = [0, 1, 2].map((row) => lossOf(task, row, alive));
    expect(swapExactly(task.weights, task.inputs!.gram, 3, 40, alive)).toBeGreaterThan(3);
    for (let row = 0; row < 3; row++) {
      expect(lossOf(task, row, alive)).toBeLessThan(0.7 * before[row]);
      expect(alive.subarray(row * 40, row * 40 + 40).reduce((sum, bit) => sum + bit, 0)).toBe(20);
    }
    const settled = alive.slice();
    expect(swapExactly(task.weights, task.inputs!.gram, 3, 40, alive)).toBe(0);
    expect(alive).toEqual(settled);
  });

  test("from RIA's mask, too; it stops when told", async () => {
    const task = syntheticTask(4, 24, 3);
    const { alive } = await swapsFromRia.prune(task);
    expect(alive.reduce((sum, bit) => sum + bit, 0)).toBe(48);
    const stopped = { ...task, signal: AbortSignal.abort() };
    await expect(swapsFromRia.prune(stopped)).rejects.toMatchObject({ code: "STOPPED" });
  });
});

describe("dsnot", () => {
  const N = 96;

  /** Inputs that are not 0 on average, so that rows have mean errors. */
  function shiftedTask(target: PruneTask["target"]): PruneTask {
    const task = syntheticTask(16, N, 9, target);
    const mean = Float64Array.from({ length: N }, (_, col) => 2 + (col % 7));
    const gram = task.inputs!.gram.map((value, at) => value + mean[Math.floor(at / N)] * mean[at % N]);
    return { ...task, inputs: { ...task.inputs!, gram, mean } };
  }

  /** A row as the paper has it, by sorting. */
  function plainRow(task: PruneTask, row: number, alive: number[], group: number): number[] {
    const { weights, cols, inputs } = task;
    const { gram, mean } = inputs!;
    const cells = Array.from({ length: cols }, (_, col) => {
      const energy = gram[col * cols + col];
      const weight = weights[row * cols + col];
      const share = weight * mean![col];
      const variance = energy - mean![col] ** 2;
      return { col, share, cost: (Math.abs(weight) * Math.sqrt(energy)) / variance, gain: share / variance };
    });
    let error = cells.reduce((sum, { col, share }) => sum + (alive[col] === 0 ? share : 0), 0);
    const sign = Math.sign(error);
    for (let cycle = 0; cycle < 50 && Math.abs(error) > 0.1; cycle++) {
      const kills = cells
        .filter(({ col, share }) => alive[col] === 1 && sign * share < 0)
        .sort((a, b) => a.cost - b.cost);
      const killOf = (grown: number) => kills.find(({ col }) => Math.floor(col / group) === Math.floor(grown / group));
      const [grow] = cells
        .filter(({ col, gain }) => alive[col] === 0 && sign * gain > 0 && killOf(col) !== undefined)
        .sort((a, b) => sign * (b.gain - a.gain));
      if (grow === undefined) break;
      const kill = killOf(grow.col)!;
      const after = error - grow.share + kill.share;
      if (Math.sign(after) !== sign) break;
      [alive[grow.col], alive[kill.col], error] = [1, 0, after];
    }
    return alive;
  }

  test.each([half, twoOfFour])("exchanges as its paper has them, from Wanda's mask (%j)", async (target) => {
    const task = shiftedTask(target);
    const start = await wanda.prune(task);
    const { alive, weights } = await dsnot.prune(task);
    const group = target.kind === "pattern" ? target.pattern.of : task.cols;
    const rows = Array.from({ length: task.rows }, (_, row) => [...start.alive.subarray(row * N, row * N + N)]);
    expect([...alive]).toEqual(rows.flatMap((bits, row) => plainRow(task, row, bits, group)));
    expect(alive).not.toEqual(start.alive);
    expect([...weights]).toEqual([...alive].map((bit, at) => (bit === 1 ? task.weights[at] : 0)));
  });
});
