import { describe, expect, test } from "vitest";
import { operateLayers } from "../../dist/calibration/pipeline.js";
import { plainEngine } from "../../dist/engine/products.js";
import type { PruneMethod, PruneTask } from "../../dist/methods/method.js";
import { STEPS, type Step } from "../../dist/model/steps.js";
import { type Activations, LayerRunner, type LayerState } from "../../dist/probe/forward/layer-runner.js";
import { hasEngine, LOAM } from "../probe/engine-present.js";

const sequences = Array.from({ length: 3 }, (_, row) =>
  Array.from({ length: 20 }, (_, at) => (row * 97 + at * 31) % 2000),
);
const LAYERS = 2;
const only = (name: string) => /layers\.[01]\./.test(name);

/** A method that halves every weight and keeps what it was told: the streams part, by an amount that shows. */
function spy(told: Map<string, PruneTask>): PruneMethod {
  return {
    name: "spy",
    title: "spy",
    reference: "",
    needs: "both",
    steps: "four",
    async prune(task) {
      told.set(task.name, task);
      const weights = task.weights.map((weight) => weight / 2);
      return { weights, alive: new Uint8Array(weights.length).fill(1), stages: [] };
    },
  };
}

/** Mean over tokens of left_i · right_j, each token's rows times its weight. */
function meanOuter(left: Activations, right: Activations, weights: readonly number[]): number[] {
  const sums = new Array<number>(left.width * right.width).fill(0);
  weights.forEach((weight, token) => {
    for (let i = 0; i < left.width; i++) {
      const scaled = (left.data[token * left.width + i] * weight * weight) / weights.length;
      for (let j = 0; j < right.width; j++) sums[i * right.width + j] += scaled * right.data[token * right.width + j];
    }
  });
  return sums;
}

function expectClose(found: Float32Array | undefined, expected: readonly number[], what: string): void {
  const size = expected.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  expect(found, what).toHaveLength(expected.length);
  const worst = expected.reduce((most, value, at) => Math.max(most, Math.abs(value - found![at])), 0);
  expect(worst <= 1e-4 * size, `${what}: off by ${worst} of ${size}`).toBe(true);
}

describe.skipIf(!hasEngine)("what the pipeline tells a method", () => {
  test("Gram, cross-Gram and drift of both streams, tokens weighed by what becomes of their errors", async () => {
    const told = new Map<string, PruneTask>();
    const runner = await LayerRunner.open(LOAM, { threads: 1 });
    const layers = [];
    for await (const { layer } of operateLayers(runner, sequences, {
      method: spy(told),
      target: { kind: "sparsity", sparsity: 0.5 },
      engine: plainEngine,
      isTarget: only,
    })) {
      layers.push(layer);
    }
    // Behind the last layer with a target nothing is run.
    expect(layers).toEqual([0, 1]);

    const halved = new Map([...told].map(([name, { weights }]) => [name, weights.map((weight) => weight / 2)]));
    const ones = new Array<number>(60).fill(1);
    let donor = await runner.embed(sequences);
    let operated = donor;
    for (let layer = 0; layer < LAYERS; layer++) {
      let d: LayerState = await runner.begin(layer, donor);
      let o: LayerState = await runner.begin(layer, operated);
      for (const step of STEPS) {
        const weights = await expectedWeights(runner, layer, step, d, ones);
        for (const { tensor } of runner.projections(layer, step)) {
          const { inputs } = told.get(tensor)!;
          expectClose(inputs!.gram, meanOuter(o.input!, o.input!, weights), `${tensor} Gram`);
          const havePartedWays = layer > 0 || step !== "qkv";
          expect(inputs!.cross !== undefined, tensor).toBe(havePartedWays);
          if (havePartedWays)
            expectClose(inputs!.cross, meanOuter(d.input!, o.input!, weights), `${tensor} cross-Gram`);
          const meetsResidual = step === "o" || step === "down";
          expect(inputs!.drift !== undefined, tensor).toBe(meetsResidual && havePartedWays);
          if (inputs!.drift === undefined) continue;
          const lag = d.residual.data.map((value, at) => value - o.residual.data[at]);
          expectClose(inputs!.drift, meanOuter({ ...d.residual, data: lag }, o.input!, weights), `${tensor} drift`);
        }
        d = await runner.advance(layer, step, d);
        o = await runner.advance(layer, step, o, halved);
      }
      [donor, operated] = [d.residual, o.residual];
    }
    await runner.close();
  });
});

/** 1 for q, k, v; else 1/rms of the donor's stream, for gate and up times the root of what they pass on. */
async function expectedWeights(
  runner: LayerRunner,
  layer: number,
  step: Step,
  { residual, input }: LayerState,
  ones: readonly number[],
): Promise<number[]> {
  if (step === "qkv") return [...ones];
  const sizes = ones.map((_, token) => {
    const h = residual.data.subarray(token * residual.width, (token + 1) * residual.width);
    return 1 / Math.sqrt(h.reduce((sum, value) => sum + value * value, 0) / residual.width);
  });
  if (step !== "gate_up") return sizes;
  const heard = await runner.listening(layer, input!);
  return sizes.map((size, token) => size * Math.sqrt(heard[token]));
}
