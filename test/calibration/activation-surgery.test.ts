import { expect, test } from "vitest";
import { openCalibration } from "../../dist/calibration/calibration-source.js";
import { type LayerSurgeryOptions, operateOnLayers } from "../../dist/calibration/layer-surgery.js";
import { blockThreads, checkMemory, gramModeFor, layerBytes } from "../../dist/calibration/memory.js";
import type { OperatedTensor } from "../../dist/calibration/operated-tensor.js";
import { openDonor } from "../../dist/checkpoint/donor.js";
import { LayerRunner } from "../../dist/probe/forward/layer-runner.js";
import { decodeFloats } from "../../dist/safetensors/float-bits.js";
import { readTensor } from "../read-tensor.js";

const donor = await openDonor("examples/donors/loam");
const opened = await LayerRunner.open(donor, { threads: 1 });
const calibration = await (await openCalibration(opened, { samples: 4, window: 48, seed: 2 })).take();
/** Two small projections a layer keep these runs short. */
const targets = new Set(
  [0, 1, 2, 3].flatMap((layer) => ["q_proj", "o_proj"].map((name) => `model.layers.${layer}.self_attn.${name}.weight`)),
);

const everyMlp = new Set(
  [0, 1, 2, 3].flatMap((layer) =>
    ["gate", "up", "down"].map((name) => `model.layers.${layer}.mlp.${name}_proj.weight`),
  ),
);

async function run(options: Partial<LayerSurgeryOptions> = {}): Promise<Map<string, OperatedTensor>> {
  const all = new Map<string, OperatedTensor>();
  const { sequences } = calibration;
  const target = { kind: "sparsity", sparsity: 0.5 } as const;
  const { threads = 1 } = options;
  const runner = await LayerRunner.open(donor, { threads });
  for await (const { tensors } of operateOnLayers(runner, { sequences, target, targets, ...options, threads })) {
    for (const tensor of tensors) all.set(tensor.name, tensor);
  }
  return all;
}

test("every target once, in the donor's dtype, half of it dead, with its records", async () => {
  const tensors = await run();
  expect(new Set(tensors.keys())).toEqual(targets);
  for (const { name, bytes, dtype, rows, cols, zeros, survivorsChanged, stages, exchangedShare } of tensors.values()) {
    expect(dtype).toBe("BF16");
    const values = decodeFloats(bytes, dtype);
    expect(values.length).toBe(rows * cols);
    expect(values.filter((value) => value === 0).length).toBe(zeros);
    expect(Math.abs(zeros / values.length - 0.5), name).toBeLessThan(0.001);
    expect(survivorsChanged).toBeGreaterThan(0);
    expect(exchangedShare).toBeGreaterThan(0);
    const errors = stages.filter(({ stage }) => stage !== "anchor").map(({ relativeError }) => relativeError!);
    expect(errors).toEqual([...errors].sort((a, b) => b - a));
  }
});

test("the same again, resumed after a layer: the same bytes", async () => {
  const whole = await run();
  const half = new Map([...whole].filter(([, { layer }]) => layer < 2));
  const rest = await run({ isDone: (name) => half.has(name), stored: async (name) => half.get(name)!.bytes });
  expect([...rest.keys()]).toEqual([...whole.keys()].filter((name) => !half.has(name)));
  for (const [name, { bytes }] of rest) expect(bytes, name).toEqual(whole.get(name)!.bytes);
});

test("on two threads: the same bytes and errors", async () => {
  const [alone, beside] = [await run(), await run({ threads: 2 })];
  for (const [name, { bytes, stages }] of beside) {
    expect(bytes, name).toEqual(alone.get(name)!.bytes);
    expect(stages.at(-1)!.relativeError).toBe(alone.get(name)!.stages.at(-1)!.relativeError);
  }
});

test.each([1, 2])("stops in the middle of a matrix (%d threads)", async (threads) => {
  const controller = new AbortController();
  // All projections of four layers take seconds.
  const running = run({ threads, settings: { sproutRounds: 40 }, targets: everyMlp, signal: controller.signal });
  setTimeout(() => controller.abort(), 300);
  await expect(running).rejects.toMatchObject({ code: "STOPPED" });
});

test("without healing survivors keep their bits; patterns hold; tiles work", async () => {
  const pattern = { kind: "pattern", pattern: { keep: 2, of: 4 } } as const;
  const tensors = await run({
    target: pattern,
    settings: { heal: false },
    gram: "tile",
    targets: new Set(["model.layers.0.self_attn.q_proj.weight"]),
  });
  for (const { name, bytes, dtype, survivorsChanged } of tensors.values()) {
    expect(survivorsChanged).toBe(0);
    const { values } = await readTensor(donor, name);
    const found = decodeFloats(bytes, dtype);
    for (let at = 0; at < found.length; at += 4) {
      const alive = [0, 1, 2, 3].filter((offset) => found[at + offset] !== 0);
      expect(alive.length).toBeLessThanOrEqual(2);
      for (const offset of alive) expect(found[at + offset]).toBe(values[at + offset]);
    }
  }
});

test("emergent: sparsity comes from the survival", async () => {
  const sparsity = async (survival: number) => {
    const only = new Set(["model.layers.1.self_attn.q_proj.weight"]);
    const [{ zeros, rows, cols }] = (await run({ target: { kind: "emergent", survival }, targets: only })).values();
    return zeros / (rows * cols);
  };
  const [low, high] = [await sparsity(0.3), await sparsity(0.9)];
  expect(low).toBeGreaterThan(0.02);
  expect(high).toBeGreaterThan(low + 0.1);
});

test("what does not fit or is not known is refused", async () => {
  await expect(run({ memoryBytes: 1e5 })).rejects.toMatchObject({ code: "USAGE_MEMORY" });
  await expect(run({ targets: new Set(["lm_head.weight"]) })).rejects.toMatchObject({ code: "USAGE_TARGET" });
  expect([512, 18_944].map((cols) => gramModeFor(cols, "auto", 8 * 2 ** 30))).toEqual(["full", "tile"]);
  expect(gramModeFor(18_944, "full", 1)).toBe("full");
});

test("the layer in work is counted: what it takes beyond the share of weights is not there for activations", () => {
  const layer = layerBytes(opened);
  // Seven projections in BF16 and f32, and the largest three times more.
  const { hiddenSize, intermediateSize, headCount, kvHeadCount, headDim } = opened.architecture;
  const weights = hiddenSize * (2 * headDim * (headCount + kvHeadCount) + 3 * intermediateSize);
  expect(layer).toBe(6 * weights + 12 * hiddenSize * intermediateSize);
  expect(() => checkMemory(opened, 1, layer)).toThrow(/leaves nothing of the \d+ MiB of --memory/);
  expect(() => checkMemory(opened, 100_000, 16 * layer)).toThrow(/take at most \d+ tokens with --samples/);
  expect(() => checkMemory(opened, 1, 2 * layer)).not.toThrow();
});

test("as many threads take blocks side by side as their copies of the coupling have room", () => {
  const GiB = 2 ** 30;
  const runner = { layerCount: 1, sites: () => [{ width: 3584 }, { width: 18_944 }] };
  const count = (mode: "auto" | "full", memory: number, threads: number) =>
    blockThreads(runner as unknown as LayerRunner, mode, memory, threads);
  expect(count("auto", 8 * GiB, 16)).toBe(16);
  expect(count("auto", 3 * GiB, 16)).toBe(4);
  // One copy of a Gram of 18,944 inputs is 1.4 GB.
  expect(count("full", 8 * GiB, 16)).toBe(1);
  expect(count("full", 64 * GiB, 16)).toBe(2);
});
