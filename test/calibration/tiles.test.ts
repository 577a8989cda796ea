import { expect, test } from "vitest";
import { StatisticsCollector, tiledStatistics } from "../../dist/calibration/statistics.js";
import { plainEngine } from "../../dist/engine/products.js";
import { activationFlow } from "../../dist/methods/activation.js";
import { collectStatistics, correlatedInputs, gaussWeights, relativeError, twoStreamTask } from "./synthetic.js";

const half = { kind: "sparsity", sparsity: 0.5 } as const;

test("strips are the columns of the whole statistics", async () => {
  const { chunk } = twoStreamTask(6, 20, 80, half);
  const whole = await collectStatistics(20, 6, chunk);
  const strip = await tiledStatistics([chunk], 20, plainEngine).strip(8, 13);
  for (const [name, rows] of [
    ["gram", 20],
    ["cross", 20],
    ["drift", 6],
  ] as const) {
    for (let row = 0; row < rows; row++) {
      for (let col = 0; col < 5; col++) {
        expect(strip[name]![row * 5 + col]).toBeCloseTo(whole[name]![row * 20 + 8 + col], 3);
      }
    }
  }
});

test("a matrix of one tile comes out as with the whole Gram", async () => {
  const { base, chunk } = twoStreamTask(8, 32, 160, half);
  const whole = await activationFlow().prune({ ...base, inputs: await collectStatistics(32, 8, chunk) });
  const tiled = await activationFlow().prune({ ...base, tiled: tiledStatistics([chunk], 32, plainEngine) });
  expect(tiled.alive.filter((bit, at) => bit !== whole.alive[at]).length).toBeLessThanOrEqual(4);
  expect(tiled.stages.at(-1)!.relativeError).toBeCloseTo(whole.stages.at(-1)!.relativeError!, 3);
});

test.each([[half], [{ kind: "pattern", pattern: { keep: 2, of: 4 } } as const]])(
  "what a tile leaves undone the next takes over: a little worse than the whole Gram, better than tiles on their own (%j)",
  async (target) => {
    const rows = 6;
    const cols = 520;
    const tokens = 700;
    const operated = correlatedInputs(cols, tokens, 71);
    const base = { name: "tiles", rows, cols, weights: gaussWeights(rows, cols, 72), target, engine: plainEngine };
    const collector = new StatisticsCollector(cols, plainEngine, false);
    await collector.add(operated);
    const inputs = collector.finish();
    const flow = activationFlow({ alpha: 0 });
    const statistics = tiledStatistics([{ operated }], cols, plainEngine);
    const whole = await flow.prune({ ...base, inputs });
    const tiled = await flow.prune({ ...base, tiled: statistics });
    const alone = await flow.prune({
      ...base,
      tiled: {
        ...statistics,
        // Only the tile's own Gram: nothing reaches the next.
        strip: async (from, to) => {
          const { gram } = await statistics.strip(from, to);
          return { gram: gram.map((value, at) => (at >= from * (to - from) && at < to * (to - from) ? value : 0)) };
        },
      },
    });
    expect(tiled.alive.reduce((sum, bit) => sum + bit, 0)).toBe((rows * cols) / 2);
    const [full, tiles, apart] = [whole, tiled, alone].map(({ weights }) =>
      relativeError({ ...base, inputs }, weights),
    );
    expect(full).toBeLessThan(tiles);
    expect(tiles).toBeLessThan(apart);
  },
);

test("with every tube kept, each tile solves for what donor, drift and the tiles before it ask of it", async () => {
  const [rows, cols, alpha] = [5, 20, 0.6];
  const { base, chunk } = twoStreamTask(rows, cols, 120, { kind: "sparsity", sparsity: 0 });
  const { gram, cross, drift } = await collectStatistics(cols, rows, chunk);
  const flow = activationFlow({ alpha, damping: 1e-7, tileWidth: 12, anchorSteps: 80, healSteps: 80 });
  const { weights } = await flow.prune({ ...base, tiled: tiledStatistics([chunk], cols, plainEngine) });
  // What is left of (W − X) G + α (W (K − G) + R), the later tile's weights being still the donor's while the first is
  // solved.
  const left = (changed: Float32Array, row: number, col: number) => {
    let sum = alpha * drift![row * cols + col];
    for (let at = 0; at < cols; at++) {
      const [w, x] = [base.weights[row * cols + at], changed[row * cols + at]];
      sum += (w - x) * gram[at * cols + col] + alpha * w * (cross![at * cols + col] - gram[at * cols + col]);
    }
    return sum;
  };
  const afterFirst = weights.map((value, at) => (at % cols < 12 ? value : base.weights[at]));
  for (const [solved, from, to] of [
    [afterFirst, 0, 12],
    [weights, 12, 20],
  ] as const) {
    for (let row = 0; row < rows; row++) {
      for (let col = from; col < to; col++) {
        const asked = Math.max(...Array.from({ length: cols }, (_, at) => Math.abs(left(base.weights, row, at))));
        expect(Math.abs(left(solved, row, col)) <= 0.01 * asked, `row ${row}, column ${col}`).toBe(true);
      }
    }
  }
});

test.each([
  ["whole", 40 * 31 * 3],
  ["in tiles", 16 * 31 * 3],
])("blocks of rows change nothing where donor and drift pull (%s)", async (kind, blockBytes) => {
  const { base, chunk } = twoStreamTask(10, 40, 200, half);
  const statistics =
    kind === "whole"
      ? { inputs: await collectStatistics(40, 10, chunk) }
      : { tiled: tiledStatistics([chunk], 40, plainEngine) };
  const once = await activationFlow({ tileWidth: 16 }).prune({ ...base, ...statistics });
  const inBlocks = await activationFlow({ tileWidth: 16, blockBytes }).prune({ ...base, ...statistics });
  expect(inBlocks.weights).toEqual(once.weights);
});
