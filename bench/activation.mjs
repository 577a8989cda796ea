// Where the time of the activation flow goes on a donor: forward pass, Grams, each stage, and how near the products come to what the engine
// reaches alone in the same minute. Usage:
//   node bench/activation.mjs <donor> [--samples 16] [--window 512] [--layers N] [--threads N] [--pattern 2:4]
// Calibration tokens are random words of the vocabulary: speed does not depend on them.
import { availableParallelism } from "node:os";
import { parseArgs } from "node:util";
import { activationFlow } from "../dist/calibration/activation.js";
import { peakMemory } from "../dist/calibration/compare/peak-memory.js";
import { gramModeFor } from "../dist/calibration/memory.js";
import { openOnnxEngine } from "../dist/calibration/onnx-engine.js";
import { operateLayers } from "../dist/calibration/pipeline.js";
import { randomNumbers } from "../dist/calibration/random.js";
import { LayerRunner } from "../dist/probe/layer-runner.js";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    samples: { type: "string", default: "16" },
    window: { type: "string", default: "512" },
    layers: { type: "string" },
    threads: { type: "string", default: `${availableParallelism()}` },
    memory: { type: "string", default: "8" },
    gram: { type: "string", default: "auto" },
  },
});
const threads = Number(values.threads);
const runner = await LayerRunner.open(positionals[0], { threads });
const engine = await openOnnxEngine(threads);

const work = { flops: 0, seconds: 0 };
async function count(flops, run) {
  const started = performance.now();
  const result = await run();
  work.seconds += (performance.now() - started) / 1000;
  work.flops += flops;
  return result;
}
/** The engine, with every product's size and time written down. */
const counted = {
  ...engine,
  async bind(matrix, rows, cols) {
    const factor = await engine.bind(matrix, rows, cols);
    return {
      ...factor,
      multiply: (left, leftRows, out) => count(2 * leftRows * rows * cols, () => factor.multiply(left, leftRows, out)),
    };
  },
  multiply: (left, right, m, k, n) => count(2 * m * k * n, () => engine.multiply(left, right, m, k, n)),
};

/** GFLOP/s of one bound product of this width, the best of a few. */
async function alone(width) {
  const rows = 1024;
  const factor = await engine.bind(new Float32Array(width * width).fill(0.01), width, width);
  const left = new Float32Array(rows * width).fill(0.02);
  const out = new Float32Array(rows * width);
  let best = Number.POSITIVE_INFINITY;
  for (let run = 0; run < 8; run++) {
    const started = performance.now();
    await factor.multiply(left, rows, out);
    best = Math.min(best, (performance.now() - started) / 1000);
  }
  await factor.release();
  return (2 * rows * width * width) / best / 1e9;
}

const { hiddenSize, intermediateSize, vocabSize } = runner.architecture;
const widths = [hiddenSize, intermediateSize];
const before = [];
for (const width of widths) before.push(await alone(width));

const random = randomNumbers(1);
const sequences = Array.from({ length: Number(values.samples) }, () =>
  Array.from({ length: Number(values.window) }, () => Math.floor(random() * vocabSize)),
);
const layers = Math.min(Number(values.layers ?? runner.layerCount), runner.layerCount);
const parts = new Map();
const add = (name, seconds) => parts.set(name, (parts.get(name) ?? 0) + seconds);
const started = performance.now();
let weights = 0;
const options = {
  method: activationFlow(),
  target: { kind: "sparsity", sparsity: 0.5 },
  engine: counted,
  gramOf: (cols) => gramModeFor(cols, values.gram, Number(values.memory) * 2 ** 30),
};
for await (const { layer, tensors, seconds } of operateLayers(runner, sequences, options)) {
  add("forward pass, both streams", seconds.forward);
  add("Grams", seconds.gram);
  let staged = 0;
  for (const { stages, rows, cols } of tensors) {
    weights += rows * cols;
    for (const { stage, seconds: spent } of stages) {
      add(stage, spent);
      staged += spent;
    }
  }
  add("isolation, packing, reading, rounding", seconds.methods - staged);
  process.stderr.write(`layer ${layer + 1} of ${layers}: ${((performance.now() - started) / 1000).toFixed(1)} s\n`);
  if (layer + 1 === layers) break;
}
const seconds = (performance.now() - started) / 1000;
const after = [];
for (const width of widths) after.push(await alone(width));

console.log(
  `${layers} of ${runner.layerCount} layers, ${weights.toLocaleString("en")} target weights, ${sequences.length} × ${values.window} tokens, ${threads} threads`,
);
for (const [name, spent] of parts) {
  console.log(
    `${name.padEnd(40)} ${spent.toFixed(1).padStart(8)} s  ${((100 * spent) / seconds).toFixed(1).padStart(5)} %`,
  );
}
console.log(
  `${"all".padEnd(40)} ${seconds.toFixed(1).padStart(8)} s, peak memory ${(peakMemory() / 2 ** 20).toFixed(0)} MiB`,
);
console.log(
  `products of the method: ${(work.flops / 1e12).toFixed(2)} TFLOP in ${work.seconds.toFixed(1)} s, ${(work.flops / work.seconds / 1e9).toFixed(0)} GFLOP/s`,
);
widths.forEach((width, at) => {
  console.log(`engine alone, ${width} wide: ${before[at].toFixed(0)} GFLOP/s before, ${after[at].toFixed(0)} after`);
});
await engine.release();
await runner.close();
