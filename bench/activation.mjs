// Where the time of the activation flow goes on a donor: forward pass, Grams, each stage, and how near the products
// come to what the engine reaches alone in the same minute. Usage:
//   node bench/activation.mjs <donor> [--samples 16] [--window 512] [--layers N] [--threads N] [--side N] [--memory
// GiB] [--gram auto|full|tile]
//     [--extrapolate <folder of another config.json>]
// `--side`: blocks of rows worked on side by side, each with its share of the threads; 1 gives all threads to one
// block's products. Calibration tokens are random words of the vocabulary: speed does not depend on them.
// `--extrapolate` scales each part to another model: products by their operations, element-wise work by weights,
// forward passes by weights × tokens, Grams by their operations.
import { readFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { blockThreads, gramModeFor } from "../dist/calibration/memory.js";
import { operateLayers } from "../dist/calibration/pipeline.js";
import { peakMemory } from "../dist/compare/peak-memory.js";
import { openOnnxEngine } from "../dist/engine/onnx-products.js";
import { activationFlow } from "../dist/methods/activation.js";
import { openBlocks } from "../dist/methods/rows/runner.js";
import { LayerRunner } from "../dist/probe/forward/layer-runner.js";
import { randomNumbers } from "../dist/probe/text/random.js";
import { printMachine, threadSeconds } from "./machine.mjs";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    samples: { type: "string", default: "16" },
    window: { type: "string", default: "512" },
    layers: { type: "string" },
    threads: { type: "string", default: `${availableParallelism()}` },
    side: { type: "string" },
    memory: { type: "string", default: "8" },
    gram: { type: "string", default: "auto" },
    extrapolate: { type: "string" },
  },
});
const threads = Number(values.threads);
const runner = await LayerRunner.open(positionals[0], { threads });
const engine = await openOnnxEngine({ threads });
const memoryBytes = Number(values.memory) * 2 ** 30;
const side = Number(values.side ?? blockThreads(runner, values.gram, memoryBytes, threads));
const blocks = await openBlocks(side, threads, engine);
/** Products of the method; seconds are those of a thread. */
const work = { flops: 0, seconds: 0 };

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
const [mainBefore = 0] = threadSeconds();
const parts = new Map();
const add = (name, seconds) => parts.set(name, (parts.get(name) ?? 0) + seconds);
const started = performance.now();
let weights = 0;
const options = {
  method: activationFlow(),
  target: { kind: "sparsity", sparsity: 0.5 },
  engine,
  blocks,
  gramOf: (cols) => gramModeFor(cols, values.gram, memoryBytes),
};
for await (const { layer, tensors, seconds } of operateLayers(runner, sequences, options)) {
  add("forward pass, both streams", seconds.forward);
  add("Grams", seconds.gram);
  let staged = 0;
  for (const { stages, rows, cols, products } of tensors) {
    work.flops += products.flops;
    work.seconds += products.seconds / side;
    weights += rows * cols;
    for (const { stage, seconds: spent } of stages) {
      add(stage, spent);
      staged += spent;
    }
  }
  add("isolation, pull, reading, rounding", seconds.methods - staged);
  process.stderr.write(`layer ${layer + 1} of ${layers}: ${((performance.now() - started) / 1000).toFixed(1)} s\n`);
  if (layer + 1 === layers) break;
}
const seconds = (performance.now() - started) / 1000;
const [mainThread, ...otherThreads] = threadSeconds();
const after = [];
for (const width of widths) after.push(await alone(width));

printMachine();
console.log(
  `${layers} of ${runner.layerCount} layers, ${weights.toLocaleString("en")} target weights, ${sequences.length} × ${values.window} tokens, ${threads} threads, ${side} blocks side by side`,
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
  `products with couplings: ${(work.flops / 1e12).toFixed(2)} TFLOP in ${work.seconds.toFixed(1)} s, ${(work.flops / work.seconds / 1e9).toFixed(0)} GFLOP/s`,
);
if (mainThread !== undefined) {
  const busy = otherThreads.filter((spent) => spent > 0.005 * seconds).map((spent) => spent.toFixed(1));
  console.log(`processor time: main thread ${(mainThread - mainBefore).toFixed(1)} s, others ${busy.join(", ")} s`);
}
widths.forEach((width, at) => {
  console.log(`engine alone, ${width} wide: ${before[at].toFixed(0)} GFLOP/s before, ${after[at].toFixed(0)} after`);
});
if (values.extrapolate !== undefined) {
  const config = JSON.parse(readFileSync(join(values.extrapolate, "config.json"), "utf8"));
  const tokens = sequences.length * Number(values.window);
  const here = workOf(runner.architecture, layers, tokens, memoryBytes);
  const shape = {
    hiddenSize: config.hidden_size,
    intermediateSize: config.intermediate_size,
    headCount: config.num_attention_heads,
    kvHeadCount: config.num_key_value_heads,
    headDim: config.head_dim ?? config.hidden_size / config.num_attention_heads,
  };
  const forward = parts.get("forward pass, both streams");
  const grams = parts.get("Grams");
  const between = seconds - forward - grams - work.seconds;
  for (const count of [tokens, 128 * 2048]) {
    for (const gram of ["auto", "full"]) {
      const there = workOf(shape, config.num_hidden_layers, count, memoryBytes, gram);
      const scaled = [
        (work.seconds * there.products) / here.products,
        (between * there.weights) / here.weights,
        (forward * there.weights * count) / (here.weights * tokens),
        (grams * there.grams) / here.grams,
      ].map((value) => value / 3600);
      const total = scaled.reduce((sum, value) => sum + value, 0);
      console.log(
        `extrapolated to ${values.extrapolate}, ${count.toLocaleString("en")} tokens, ${there.tiled ? "down in tiles" : "whole Grams"}: ${total.toFixed(1)} h (products ${scaled[0].toFixed(1)}, between them ${scaled[1].toFixed(1)}, forward ${scaled[2].toFixed(1)}, Grams ${scaled[3].toFixed(1)}); activations ${(there.activations / 2 ** 30).toFixed(1)} GiB`,
      );
    }
  }
}
await blocks.close();
await engine.release();
await runner.close();

/** Operations of the products (up to a factor common to all models) and of the Grams, weights, bytes of activations. */
function workOf(architecture, layerCount, tokens, memoryBytes, gram = values.gram) {
  const { hiddenSize, intermediateSize, headCount, kvHeadCount, headDim } = architecture;
  const queries = headCount * headDim;
  const matrices = [
    [queries + 2 * kvHeadCount * headDim, hiddenSize],
    [hiddenSize, queries],
    [2 * intermediateSize, hiddenSize],
    [hiddenSize, intermediateSize],
  ];
  let products = 0;
  let grams = 0;
  let weights = 0;
  let tiled = false;
  for (const [at, [rows, cols]] of matrices.entries()) {
    const isTiled = gramModeFor(cols, gram, memoryBytes) === "tile";
    tiled ||= isTiled;
    // Some 165 products a matrix; in tiles they are narrow, and two more carry what other tiles left undone.
    products += isTiled ? rows * cols * (256 + (2 * cols) / 165) : rows * cols * cols;
    grams += tokens * (2 * cols * cols + (at % 2 === 1 ? hiddenSize * cols : 0));
    weights += rows * cols;
  }
  return {
    products: layerCount * products,
    grams: layerCount * grams,
    weights: layerCount * weights,
    activations: tokens * 4 * (5 * hiddenSize + 2 * intermediateSize),
    tiled,
  };
}
