import { expect, test } from "vitest";
import { allocate } from "../../dist/calibration/allocation.js";
import { LayerRunner } from "../../dist/probe/forward/layer-runner.js";

const sequences = Array.from({ length: 4 }, (_, row) =>
  Array.from({ length: 24 }, (_, at) => (row * 97 + at * 31) % 2000),
);

test.each(["uniform", "owl", "emergent"] as const)(
  "%s meets the target over all weights and stays near it",
  async (kind) => {
    const runner = await LayerRunner.open("examples/donors/loam", { threads: 1 });
    const shares = await allocate(kind, runner, sequences, 0.6, (name) => !name.includes("layers.3."));
    const projections = [0, 1, 2].flatMap((layer) => runner.projections(layer));
    await runner.close();
    expect([...shares.keys()].sort()).toEqual(projections.map(({ tensor }) => tensor).sort());
    let dead = 0;
    let weights = 0;
    for (const { tensor, rows, cols } of projections) {
      dead += rows * cols * shares.get(tensor)!;
      weights += rows * cols;
      if (kind === "emergent") expect(Math.abs(shares.get(tensor)! - 0.6)).toBeLessThanOrEqual(0.0800001);
    }
    expect(dead / weights).toBeCloseTo(0.6, 6);
    const layers = [0, 1, 2].map(
      (layer) => new Set(runner.projections(layer).map(({ tensor }) => shares.get(tensor)!)),
    );
    const different = new Set(shares.values()).size;
    if (kind === "uniform") expect(different).toBe(1);
    // OWL speaks of layers, the load of tensors.
    if (kind === "owl") expect(Math.max(...shares.values()) - Math.min(...shares.values())).toBeCloseTo(0.16, 6);
    if (kind === "owl") expect(layers.map(({ size }) => size)).toEqual([1, 1, 1]);
    if (kind === "emergent") expect(different).toBeGreaterThan(3);
  },
);
