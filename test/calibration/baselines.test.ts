import { describe, expect, test } from "vitest";
import { activationFlow } from "../../dist/methods/activation.js";
import { cholesky, invertFromCholesky, solveCholesky } from "../../dist/methods/algebra/cholesky.js";
import { alpsPerRow, alpsPerTensor } from "../../dist/methods/baselines/alps.js";
import { balanced } from "../../dist/methods/baselines/balanced.js";
import { magnitudePerRow, magnitudePerTensor } from "../../dist/methods/baselines/magnitude.js";
import { relativeImportanceOnly, ria } from "../../dist/methods/baselines/ria.js";
import { sparsegpt, sparsegptNarrow } from "../../dist/methods/baselines/sparsegpt.js";
import { wanda } from "../../dist/methods/baselines/wanda.js";
import { keepPerRow, type PruneMethod, type PruneTask } from "../../dist/methods/method.js";
import { METHODS } from "../../dist/methods/registry.js";
import { gaussWeights, relativeError, syntheticTask } from "./synthetic.js";

const half = { kind: "sparsity", sparsity: 0.5 } as const;
const twoOfFour = { kind: "pattern", pattern: { keep: 2, of: 4 } } as const;

/** Plain selection by sorting: `groups` lists the indices that compete, `keep` how many of each group stay. */
function keepBySorting(scores: readonly number[], groups: readonly number[][], keep: readonly number[]): number[] {
  const alive = scores.map(() => 0);
  groups.forEach((group, at) => {
    const order = [...group].sort((a, b) => scores[b] - scores[a] || a - b);
    for (const index of order.slice(0, keep[at])) alive[index] = 1;
  });
  return alive;
}

const range = (count: number, from = 0) => Array.from({ length: count }, (_, at) => from + at);
const rowGroups = (task: PruneTask) => range(task.rows).map((row) => range(task.cols, row * task.cols));

async function expectMask(method: PruneMethod, task: PruneTask, expected: readonly number[]): Promise<void> {
  const { weights, alive } = await method.prune(task);
  expect([...alive]).toEqual(expected);
  expect([...weights]).toEqual(expected.map((bit, at) => (bit === 1 ? task.weights[at] : 0)));
}

describe("methods that only choose", () => {
  const task = syntheticTask(6, 24, 5);
  const sizes = Array.from(task.weights, Math.abs);
  const energy = (col: number) => task.inputs!.gram[col * task.cols + col];

  test("magnitude: the largest of the tensor, or of each row", async () => {
    await expectMask(magnitudePerTensor, task, keepBySorting(sizes, [range(144)], [72]));
    await expectMask(magnitudePerRow, task, keepBySorting(sizes, rowGroups(task), range(6).fill(12)));
  });

  test("magnitude 2:4 keeps two of each four", async () => {
    const groups = range(36).map((group) => range(4, group * 4));
    await expectMask(
      magnitudePerTensor,
      { ...task, target: twoOfFour },
      keepBySorting(sizes, groups, range(36).fill(2)),
    );
  });

  test("wanda: |w|·‖x‖ within each row", async () => {
    const scores = sizes.map((size, at) => Math.fround(size * Math.sqrt(energy(at % 24))));
    await expectMask(wanda, task, keepBySorting(scores, rowGroups(task), range(6).fill(12)));
  });

  test("ria: both relative importances, with and without the root of the activation norm", async () => {
    const rowSum = (row: number) => range(24, row * 24).reduce((sum, at) => sum + sizes[at], 0);
    const colSum = (col: number) => range(6).reduce((sum, row) => sum + sizes[row * 24 + col], 0);
    const importance = sizes.map((size, at) => size / colSum(at % 24) + size / rowSum(Math.floor(at / 24)));
    await expectMask(relativeImportanceOnly, task, keepBySorting(importance, [range(144)], [72]));
    const active = importance.map((value, at) => value * energy(at % 24) ** 0.25);
    await expectMask(ria, task, keepBySorting(active, [range(144)], [72]));
  });

  test("balanced: after the sweeps every row of shares sums to the same, and the smallest shares go", async () => {
    const shares = sizes.map((value) => value);
    for (let sweep = 0; sweep < 8; sweep++) {
      for (let col = 0; col < 24; col++) {
        const sum = range(6).reduce((s, row) => s + shares[row * 24 + col], 0);
        for (let row = 0; row < 6; row++) shares[row * 24 + col] /= sum;
      }
      for (let row = 0; row < 6; row++) {
        const sum = range(24).reduce((s, col) => s + shares[row * 24 + col], 0);
        for (let col = 0; col < 24; col++) shares[row * 24 + col] /= sum;
      }
    }
    await expectMask(balanced, task, keepBySorting(shares, [range(144)], [72]));
  });

  test("a sparsity that rows cannot share evenly is met over the matrix", () => {
    expect([...keepPerRow(5, 64, 0.6)]).toEqual([25, 26, 25, 26, 26]);
    expect(keepPerRow(7, 10, 0.33).reduce((sum, keep) => sum + keep, 0)).toBe(Math.round(70 * 0.67));
  });
});

/** Gram with 1 % damping, f64. */
function dampedGram(task: PruneTask): Float64Array {
  const n = task.cols;
  const gram = Float64Array.from(task.inputs!.gram);
  const mean = range(n).reduce((sum, at) => sum + gram[at * n + at], 0) / n;
  for (let at = 0; at < n; at++) gram[at * n + at] += 0.01 * mean;
  return gram;
}

/**
 * SparseGPT as its paper derives it: column by column, with the inverse of the Gram of the columns not yet visited
 * computed afresh; masks are chosen for `maskBlock` columns at a time. Scores and updates then need no Cholesky factor at all.
 */
function plainSparseGpt(task: PruneTask, maskBlock = 128): { weights: number[]; alive: number[] } {
  const { rows, cols: n, target } = task;
  const gram = dampedGram(task);
  const weights = Array.from(task.weights);
  const inverses = range(n).map((from) => {
    const size = n - from;
    const rest = new Float64Array(size * size);
    for (let a = 0; a < size; a++) for (let b = 0; b < size; b++) rest[a * size + b] = gram[(from + a) * n + from + b];
    return invertFromCholesky(cholesky(rest, size), size);
  });
  const score = (row: number, col: number) => weights[row * n + col] ** 2 / inverses[col][0];
  const alive = new Array<number>(rows * n).fill(1);
  for (let col = 0; col < n; col++) {
    if (target.kind === "sparsity" && col % maskBlock === 0) {
      const block = range(Math.min(maskBlock, n - col), col);
      const places = range(rows).flatMap((row) => block.map((other) => row * n + other));
      const scores = places.map((at) => score(Math.floor(at / n), at % n));
      const keep = Math.round(places.length * (1 - target.sparsity));
      keepBySorting(scores, [range(places.length)], [keep]).forEach((bit, at) => {
        alive[places[at]] = bit;
      });
    }
    for (let row = 0; row < rows; row++) {
      if (target.kind === "pattern" && col % 4 === 0) {
        const scores = range(4, col).map((other) => score(row, other));
        keepBySorting(scores, [range(4)], [2]).forEach((bit, at) => {
          alive[row * n + col + at] = bit;
        });
      }
      if (alive[row * n + col] === 1) continue;
      const error = weights[row * n + col] / inverses[col][0];
      for (let other = col; other < n; other++) weights[row * n + other] -= error * inverses[col][other - col];
      weights[row * n + col] = 0;
    }
  }
  return { weights, alive };
}

describe("sparsegpt", () => {
  test.each([
    [half, 32],
    [twoOfFour, 32],
    [half, 150],
    [twoOfFour, 132],
  ])("is the optimal brain surgeon sweep of the paper (%j, %d columns)", async (target, cols) => {
    const task = syntheticTask(4, cols, 6, target);
    const expected = plainSparseGpt(task);
    const found = await sparsegpt.prune(task);
    expect([...found.alive]).toEqual(expected.alive);
    for (let at = 0; at < expected.weights.length; at++) {
      expect(Math.abs(found.weights[at] - expected.weights[at])).toBeLessThan(2e-4);
    }
  });
});

test("sparsegpt-narrow: masks of an eighth of a narrow matrix; a wide one is the same", async () => {
  const task = syntheticTask(4, 150, 6);
  const found = await sparsegptNarrow.prune(task);
  expect([...found.alive]).toEqual(plainSparseGpt(task, 18).alive);
  expect(found.alive).not.toEqual((await sparsegpt.prune(task)).alive);
  const gram = new Float32Array(1030 ** 2).map((_, at) => (at % 1031 === 0 ? 1 + (at % 3) : 0.1));
  const wide = { ...task, rows: 2, cols: 1030, weights: gaussWeights(2, 1030, 3), inputs: { tokens: 1, gram } };
  expect((await sparsegptNarrow.prune(wide)).weights).toEqual((await sparsegpt.prune(wide)).weights);
});

test("sparsegpt: weights of an input that never fires go first", async () => {
  const task = syntheticTask(4, 32, 6);
  const gram = task.inputs!.gram.slice();
  const weights = task.weights.slice();
  for (let at = 0; at < 32; at++) {
    gram[5 * 32 + at] = 0;
    gram[at * 32 + 5] = 0;
  }
  for (let row = 0; row < 4; row++) weights[row * 32 + 5] = 1e3;
  const found = await sparsegpt.prune({ ...task, weights, inputs: { ...task.inputs!, gram } });
  for (let row = 0; row < 4; row++) expect(found.weights[row * 32 + 5]).toBe(0);
  expect(found.weights.every(Number.isFinite)).toBe(true);
});

/** ALPS by rows and plain arrays, each (C + ρI) system solved on its own. */
function plainAlps(task: PruneTask, perRow: boolean): number[] {
  const { rows, cols: n } = task;
  const gram = dampedGram(task);
  const scale = range(n).map((at) => Math.sqrt(gram[at * n + at]));
  const coupling = gram.map((value, at) => value / scale[Math.floor(at / n)] / scale[at % n]);
  const times = (row: readonly number[]) =>
    range(n).map((col) => row.reduce((sum, value, at) => sum + value * coupling[at * n + col], 0));
  const start = range(rows).map((row) => range(n).map((col) => task.weights[row * n + col] * scale[col]));
  const wanted = start.map(times);
  const choose = (matrix: number[][]) => {
    const sizes = matrix.flat().map(Math.abs);
    return perRow
      ? keepBySorting(sizes, rowGroups(task), range(rows).fill(n / 2))
      : keepBySorting(sizes, [range(rows * n)], [(rows * n) / 2]);
  };
  const masked = (matrix: number[][], mask: number[]) =>
    matrix.map((row, r) => row.map((value, c) => (mask[r * n + c] === 1 ? value : 0)));
  let rho = 0.1;
  let settling = false;
  let mask = choose(start);
  let last = mask;
  const kept = mask.filter((bit) => bit === 1).length;
  const firstSparse = masked(start, mask);
  let dense = start;
  let sparse = firstSparse;
  let multiplier = start.map((row) => row.map(() => 0));
  for (let iteration = 1; iteration <= 300; iteration++) {
    const shifted = coupling.slice();
    for (let at = 0; at < n; at++) shifted[at * n + at] += rho;
    const factor = cholesky(shifted, n);
    dense = wanted.map((row, r) => {
      const right = Float64Array.from(row, (value, c) => value - multiplier[r][c] + rho * sparse[r][c]);
      solveCholesky(factor, n, right);
      return Array.from(right);
    });
    const moved = dense.map((row, r) => row.map((value, c) => value + multiplier[r][c] / rho));
    mask = choose(moved);
    sparse = masked(moved, mask);
    multiplier = multiplier.map((row, r) => row.map((value, c) => value + rho * (dense[r][c] - sparse[r][c])));
    if (iteration % 3 !== 0) continue;
    const changed = mask.filter((bit, at) => bit !== last[at]).length;
    if (changed / kept > 0.005) {
      settling = true;
      rho *= changed / kept > 0.1 ? 1.3 : 1.2;
    } else if (changed > 0 && settling) rho *= 1.1;
    else if (changed === 0 && settling) break;
    else {
      rho /= 5;
      if (changed > 0) {
        sparse = firstSparse;
        multiplier = start.map((row) => row.map(() => 0));
      }
    }
    last = mask;
    if (iteration - 1 >= 30 && changed / kept < 0.0003) break;
  }
  return choose(dense);
}

describe("alps", () => {
  test.each([
    [alpsPerTensor, false],
    [alpsPerRow, true],
  ])("ends on the support of the plain version (%#)", async (method, perRow) => {
    const task = syntheticTask(6, 32, 8);
    const expected = plainAlps(task, perRow);
    const { alive, weights } = await method.prune(task);
    expect(alive.filter((bit) => bit === 1)).toHaveLength(96);
    const different = expected.filter((bit, at) => bit !== alive[at]).length;
    expect(different).toBeLessThanOrEqual(2);
    const dropped = task.weights.map((weight, at) => (alive[at] === 1 ? weight : 0));
    expect(relativeError(task, weights)).toBeLessThan(relativeError(task, dropped));
  });
});

describe("order on correlated inputs", () => {
  test.each([[half], [twoOfFour]])("each method costs less than the one before it (%j)", async (target) => {
    const task = syntheticTask(24, 64, 9, target);
    const errors: number[] = [];
    for (const method of [magnitudePerTensor, wanda, sparsegpt, alpsPerRow, activationFlow({ alpha: 0 })]) {
      errors.push(relativeError(task, (await method.prune(task)).weights));
    }
    for (let at = 1; at < errors.length; at++) expect(errors[at], errors.join(" ")).toBeLessThan(errors[at - 1]);
  });

  test("the activation flow's own record of its errors falls from stage to stage and is true", async () => {
    const task = syntheticTask(24, 64, 10);
    const { stages, weights, exchangedShare } = await activationFlow({ alpha: 0 }).prune(task);
    expect(stages.map(({ stage }) => stage)).toEqual(["flow", "first heal", "sprout", "heal"]);
    for (let at = 1; at < stages.length; at++) {
      expect(stages[at].relativeError).toBeLessThan(stages[at - 1].relativeError!);
    }
    expect(stages.at(-1)!.relativeError).toBeCloseTo(relativeError(task, weights), 5);
    expect(exchangedShare).toBeGreaterThan(0);
  });

  test("blocks of rows change nothing, and without healing survivors keep their bits", async () => {
    const task = syntheticTask(10, 40, 11);
    const whole = await activationFlow({ alpha: 0 }).prune(task);
    const blocks = await activationFlow({ alpha: 0, blockBytes: 40 * 31 * 3 }).prune(task);
    expect(blocks.weights).toEqual(whole.weights);
    const kept = await activationFlow({ alpha: 0, heal: false }).prune(task);
    expect(kept.alive).toEqual(whole.alive);
    kept.weights.forEach((weight, at) => {
      expect(weight).toBe(kept.alive[at] === 1 ? task.weights[at] : 0);
    });
  });
});

test("every method keeps two of four, and of a last group of two one", async () => {
  const task = syntheticTask(5, 30, 12, twoOfFour);
  for (const method of METHODS) {
    const { alive, weights } = await method.prune(task);
    for (let row = 0; row < 5; row++) {
      for (let start = 0; start < 30; start += 4) {
        const width = Math.min(4, 30 - start);
        const kept = alive.subarray(row * 30 + start, row * 30 + start + width);
        expect(
          kept.reduce((sum, bit) => sum + bit, 0),
          `${method.name}, row ${row}, column ${start}`,
        ).toBe(width / 2);
        const dead = [...kept.keys()].filter((at) => kept[at] === 0);
        expect(dead.map((at) => weights[row * 30 + start + at])).toEqual(dead.map(() => 0));
      }
    }
  }
});
