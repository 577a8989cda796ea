import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { tiledStatistics } from "../../dist/calibration/statistics.js";
import { openOnnxEngine } from "../../dist/engine/onnx-products.js";
import { type MatrixEngine, plainEngine } from "../../dist/engine/products.js";
import { activationFlow, rowBlocks } from "../../dist/methods/activation.js";
import type { RowBlock } from "../../dist/methods/rows/row-block.js";
import { type BlockRunner, openBlocks, threadedBlocks } from "../../dist/methods/rows/runner.js";
import { hasEngine } from "../probe/engine-present.js";
import { collectStatistics, twoStreamTask } from "./synthetic.js";

const half = { kind: "sparsity", sparsity: 0.5 } as const;
const twoOfFour = { kind: "pattern", pattern: { keep: 2, of: 4 } } as const;

test("blocks cover all rows once, alike in size, within the bytes, as many for each thread", () => {
  const size = fc.integer({ min: 1, max: 5000 });
  fc.assert(
    fc.property(
      size,
      size,
      fc.integer({ min: 1, max: 1 << 24 }),
      fc.integer({ min: 1, max: 16 }),
      (rows, cols, bytes, width) => {
        const blocks = rowBlocks(rows, cols, bytes, width);
        expect(blocks[0][0]).toBe(0);
        expect(blocks.at(-1)![1]).toBe(rows);
        const heights = blocks.map(([top, bottom], at) => {
          if (at > 0) expect(top).toBe(blocks[at - 1][1]);
          return bottom - top;
        });
        const [least, most] = [Math.min(...heights), Math.max(...heights)];
        expect(least).toBeGreaterThan(0);
        expect(most - least).toBeLessThanOrEqual(1);
        // 44 bytes a tube: what a block holds at its widest.
        if (most > 1) expect(most * cols * 44).toBeLessThanOrEqual(bytes);
        if (rows >= 16 * width && bytes >= 44 * cols * 16)
          expect(blocks.length % width === 0 || least <= 16).toBe(true);
      },
    ),
  );
});

describe.skipIf(!hasEngine)("threads", () => {
  test.each([
    ["whole", half],
    ["whole", twoOfFour],
    ["in tiles", half],
  ] as const)("give what one engine gives, bit for bit, records included (%s, %j)", async (kind, target) => {
    const [rows, cols] = [150, 72];
    const { base, chunk } = twoStreamTask(rows, cols, 400, target);
    const statistics =
      kind === "whole"
        ? { inputs: await collectStatistics(cols, rows, chunk) }
        : { tiled: tiledStatistics([chunk], cols, plainEngine) };
    const flow = activationFlow({ tileWidth: 40 });
    const engine = await openOnnxEngine({ threads: 1 });
    const blocks = await threadedBlocks(3, 1);
    try {
      const alone = await flow.prune({ ...base, ...statistics, engine });
      const beside = await flow.prune({ ...base, ...statistics, engine, blocks });
      expect(beside.weights).toEqual(alone.weights);
      expect(beside.alive).toEqual(alone.alive);
      expect(beside.exchangedShare).toBe(alone.exchangedShare);
      expect(beside.stages.map(({ stage }) => stage)).toEqual(["anchor", "flow", "first heal", "sprout", "heal"]);
      expect(beside.stages.map(({ relativeError }) => relativeError)).toEqual(
        alone.stages.map(({ relativeError }) => relativeError),
      );
    } finally {
      await blocks.close();
      await engine.release();
    }
  });

  /** The runner with its jobs seen, or changed, on their way. */
  function watched(blocks: BlockRunner, see: (job: RowBlock) => RowBlock): BlockRunner {
    return {
      ...blocks,
      operate: (setup, jobs, signal) => {
        async function* seen() {
          for await (const { job, done } of jobs) yield { job: see(job), done };
        }
        return blocks.operate(setup, seen(), signal);
      },
    };
  }

  test("an error in a block fails the matrix, and does not hang", async () => {
    const { base, chunk } = twoStreamTask(40, 24, 100, half);
    const inputs = await collectStatistics(24, 40, chunk);
    const blocks = await threadedBlocks(2, 1);
    const broken = watched(blocks, (job) => ({ ...job, drive: new Float32Array(job.drive.length + 1) }));
    try {
      await expect(activationFlow().prune({ ...base, inputs, blocks: broken })).rejects.toThrow(/out of bounds/);
    } finally {
      await blocks.close();
    }
  });

  test("a signal ends the matrix while its blocks are worked on, and closing afterwards is safe", async () => {
    const { base, chunk } = twoStreamTask(64, 24, 100, half);
    const inputs = await collectStatistics(24, 64, chunk);
    const blocks = await threadedBlocks(2, 1);
    const controller = new AbortController();
    let issued = 0;
    const stopping = watched(blocks, (job) => {
      if (++issued === 2) controller.abort();
      return job;
    });
    // Healing for hours: only the signal ends this.
    const flow = activationFlow({ healSteps: 1e9, blockBytes: 24 * 44 * 16 });
    const run = flow.prune({ ...base, inputs, blocks: stopping, signal: controller.signal });
    await expect(run).rejects.toMatchObject({ code: "STOPPED" });
    await blocks.close();
  });
});

test.skipIf(!hasEngine).each([40, 90, 200, 450])(
  "stopped in the middle of a product, threads end well and the process lives (after %d ms)",
  async (milliseconds) => {
    // Products of milliseconds: a thread ended during one would take the process with it.
    const { base } = twoStreamTask(512, 1, 1, half);
    const [rows, cols] = [512, 512];
    const weights = new Float32Array(rows * cols).map((_, at) => Math.sin(1.7 * at));
    const gram = new Float32Array(cols * cols).map((_, at) => 0.4 ** Math.abs((at % cols) - Math.floor(at / cols)));
    const blocks = await threadedBlocks(2, 1);
    const controller = new AbortController();
    setTimeout(() => controller.abort(), milliseconds);
    const flow = activationFlow({ alpha: 0, healSteps: 1e9 });
    const task = { ...base, rows, cols, weights, inputs: { tokens: 1, gram }, blocks, signal: controller.signal };
    await expect(flow.prune(task)).rejects.toMatchObject({ code: "STOPPED" });
    await blocks.close();
  },
);

test("in this thread a signal ends a block at its next product", async () => {
  const { base, chunk } = twoStreamTask(8, 24, 100, half);
  const inputs = await collectStatistics(24, 8, chunk);
  const controller = new AbortController();
  let products = 0;
  const engine: MatrixEngine = {
    ...plainEngine,
    async bind(matrix, rows, cols) {
      const factor = await plainEngine.bind(matrix, rows, cols);
      return {
        ...factor,
        multiply(left, leftRows, out) {
          if (++products === 9) controller.abort();
          return factor.multiply(left, leftRows, out);
        },
      };
    },
  };
  const run = activationFlow().prune({ ...base, inputs, engine, signal: controller.signal });
  await expect(run).rejects.toMatchObject({ code: "STOPPED" });
  expect(products).toBe(9);
});

test("one thread for blocks is this one", async () => {
  const blocks = await openBlocks(1, 8, plainEngine);
  expect(blocks.width).toBe(1);
  await blocks.close();
});
