// How fast is a forward pass, beside the matrix products of the engine alone, in the same run?
//
//   npm run build && node bench/probe.mjs [--size 0.5b|1b|7b] [--layers 4] [--window 2048] [--repeats 5] [--threads N]
//
// A random donor of the model's own matrix sizes (fewer layers, a smaller vocabulary) is written by `synth` into a
// temporary folder. Each repeat times, one after the other: plain MatMul of the engine (weights constant), a forward
// pass with mapped weights, one with f32 copies kept, and scoring. Shares are medians over repeats of useful products
// (2 · weights · tokens; attention's own products not counted) against the plain MatMul of the same repeat, so a busy
// machine slows both. Every repeat is saved in bench/results/.
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { availableParallelism, cpus, tmpdir, totalmem } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { OnnxGraph } from "../dist/engine/onnx-graph.js";
import { Engine } from "../dist/engine/session.js";
import { LayerRunner } from "../dist/probe/forward/layer-runner.js";
import { Scorer } from "../dist/probe/scorer.js";
import { synthesize } from "../dist/synth/synth.js";

const SIZES = {
  // Qwen2.5-0.5B, Llama-3.2-1B, Qwen2.5-7B: hidden, inner, heads, key-value heads, head_dim.
  "0.5b": [896, 4864, 14, 2, 64],
  "1b": [2048, 8192, 32, 8, 64],
  "7b": [3584, 18944, 28, 4, 128],
};
const { values: flags } = parseArgs({
  options: {
    size: { type: "string", default: "1b" },
    layers: { type: "string", default: "4" },
    vocabulary: { type: "string", default: "32768" },
    window: { type: "string", default: "2048" },
    repeats: { type: "string", default: "5" },
    threads: { type: "string", default: `${availableParallelism()}` },
  },
});
const [hidden, inner, heads, kvHeads, headDim] = SIZES[flags.size];
const tokens = Number(flags.window);
const repeats = Number(flags.repeats);

const folder = mkdtempSync(join(tmpdir(), "physarium-bench-"));
process.on("exit", () => rmSync(folder, { recursive: true, force: true }));
for (const signal of ["SIGINT", "SIGTERM"]) process.once(signal, () => process.exit(130));
mkdirSync(join(folder, "config"));
writeFileSync(
  join(folder, "config", "config.json"),
  JSON.stringify({
    architectures: ["LlamaForCausalLM"],
    model_type: "llama",
    hidden_size: hidden,
    intermediate_size: inner,
    num_hidden_layers: Number(flags.layers),
    num_attention_heads: heads,
    num_key_value_heads: kvHeads,
    head_dim: headDim,
    vocab_size: Number(flags.vocabulary),
    max_position_embeddings: Math.max(tokens, 2048),
    rms_norm_eps: 1e-5,
    rope_theta: 500000,
    tie_word_embeddings: false,
    initializer_range: 0.02,
    torch_dtype: "bfloat16",
  }),
);
const model = join(folder, "model");
const { totalSize } = await synthesize(join(folder, "config"), model, { seed: "bench" });

const engine = await Engine.open({ threads: Number(flags.threads) });
const rss = () => process.resourceUsage().maxRSS * 1024;
const timed = async (run) => {
  const started = performance.now();
  const result = await run();
  return { result, seconds: (performance.now() - started) / 1000 };
};

const peak = await peakMeter();
const mapped = await timed(() => LayerRunner.open(model, { engine, memoryBytes: 0 }));
const kept = await LayerRunner.open(model, { engine, memoryBytes: 2 ** 40 });
let weights = 0;
for (let layer = 0; layer < kept.layerCount; layer++) {
  for (const { rows, cols } of kept.projections(layer)) weights += rows * cols;
}
const headWeights = hidden * Number(flags.vocabulary);
const ids = Array.from({ length: tokens }, (_, at) => (at * 7919 + 13) % Number(flags.vocabulary));
const places = Int32Array.from(ids.keys());
const targets = Int32Array.from(ids);
const embedded = await kept.embed([ids]);

const first = { mapped: await timed(() => mapped.result.forward(embedded)), memory: rss() };
const firstKept = await timed(() => kept.forward(embedded));
const scorer = new Scorer([kept]);
await scorer.score([firstKept.result], places, targets);
const scorerOfMapped = new Scorer([mapped.result]);

const rows = [];
for (let repeat = 0; repeat < repeats; repeat++) {
  const flops = await peak();
  const share = (useful, seconds) => (2 * useful * tokens) / seconds / flops;
  const row = { peak_gflops: flops / 1e9 };
  const mappedForward = await timed(() => mapped.result.forward(embedded));
  const mappedScore = await timed(() => scorerOfMapped.score([mappedForward.result], places, targets));
  const keptForward = await timed(() => kept.forward(embedded));
  const keptScore = await timed(() => scorer.score([keptForward.result], places, targets));
  for (const [name, forward, score] of [
    ["mapped", mappedForward, mappedScore],
    ["kept", keptForward, keptScore],
  ]) {
    row[`${name}_forward_share`] = share(weights, forward.seconds);
    row[`${name}_score_share`] = share(headWeights, score.seconds);
    row[`${name}_share`] = share(weights + headWeights, forward.seconds + score.seconds);
    row[`${name}_tokens_per_second`] = tokens / (forward.seconds + score.seconds);
  }
  rows.push(row);
}

const median = (key) => {
  const sorted = rows.map((row) => row[key]).sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)];
};
const percent = (key) => `${(100 * median(key)).toFixed(0)} %`;
console.log(
  `${flags.size} matrices, ${flags.layers} layers, ${(weights / 1e6).toFixed(0)} M weights in projections, ${(headWeights / 1e6).toFixed(0)} M in the head, ${(totalSize / 1e9).toFixed(2)} GB of BF16`,
);
console.log(
  `${cpus()[0].model}, ${engine.threads} threads, onnxruntime-node ${engine.version}, Node ${process.version}`,
);
console.log(`plain MatMul       ${median("peak_gflops").toFixed(0)} GFLOP/s (median of ${repeats})`);
for (const name of ["mapped", "kept"]) {
  console.log(
    `weights ${name.padEnd(10)} ${median(`${name}_tokens_per_second`).toFixed(0)} tokens/s; share of plain MatMul: ${percent(`${name}_share`)} in all, ` +
      `${percent(`${name}_forward_share`)} layers, ${percent(`${name}_score_share`)} head and scores`,
  );
}
console.log(
  `opening            mapped ${(1000 * mapped.seconds).toFixed(0)} ms and first pass ${first.mapped.seconds.toFixed(1)} s; f32 copies and first pass ${firstKept.seconds.toFixed(1)} s`,
);
console.log(
  `peak memory        ${(first.memory / 2 ** 20).toFixed(0)} MiB mapped (mapped pages included), ${(rss() / 2 ** 20).toFixed(0)} MiB with f32 copies`,
);

mkdirSync("bench/results", { recursive: true });
writeFileSync(
  `bench/results/probe-${flags.size}-${Date.now()}.json`,
  JSON.stringify(
    {
      flags,
      cpu: cpus()[0].model,
      memory: totalmem(),
      node: process.version,
      engine: engine.version,
      weights,
      headWeights,
      rows,
    },
    null,
    2,
  ),
);

/** The engine's plain MatMul, with this model's largest matrix as a constant: best of three, in FLOP/s. */
async function peakMeter() {
  const data = Float32Array.from({ length: hidden * inner }, (_, at) => Math.sin(at) / 50);
  const path = join(folder, "matrix.f32");
  writeFileSync(path, data);
  const graph = new OnnxGraph();
  const x = graph.input("x", "FLOAT", ["tokens", hidden]);
  const w = graph.external("FLOAT", [hidden, inner], path.slice(1), 0, data.byteLength);
  graph.output("y", graph.op("MatMul", [x, w]), "FLOAT", ["tokens", inner]);
  const session = await engine.session(graph, true);
  const feeds = {
    x: engine.f32(
      Float32Array.from({ length: tokens * hidden }, (_, at) => Math.cos(at)),
      [tokens, hidden],
    ),
  };
  await session.run(feeds);
  return async () => {
    let best = Infinity;
    for (let repeat = 0; repeat < 3; repeat++) best = Math.min(best, (await timed(() => session.run(feeds))).seconds);
    return (2 * tokens * hidden * inner) / best;
  };
}
