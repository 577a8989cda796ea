import { existsSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { differentiableOperators, gradientsOf } from "../../dist/engine/gradient.js";
import { OnnxGraph, type Value } from "../../dist/engine/onnx-graph.js";
import { Engine, type Feeds, floats } from "../../dist/engine/session.js";
import { layerTensors } from "../../dist/model/tensors.js";
import { gradientOutput, layerGradientGraph, type TrainedTensor } from "../../dist/probe/forward/layer-gradient.js";
import { LayerRunner } from "../../dist/probe/forward/layer-runner.js";
import { Places } from "../../dist/probe/forward/places.js";
import { storedValue } from "../../dist/probe/forward/weights.js";
import { hasEngine } from "../probe/engine-present.js";
import { randomNumbers, type TinyModel, temporaryFolder, writeTinyModel } from "../probe/tiny-model.js";
import { SHARED } from "../shared.js";
import { type Array64, array, interpret } from "./interpreter.js";

/** A graph of one operator or two, on inputs of these shapes; numbers between ±1 unless `positive`. */
interface Case {
  readonly inputs: Readonly<Record<string, readonly number[]>>;
  readonly positive?: boolean;
  build(graph: OnnxGraph, inputs: Readonly<Record<string, Value>>): Value;
}

const one = (op: string, attributes = {}, positive = false): Case => ({
  inputs: { x: [2, 3, 4] },
  positive,
  build: (graph, { x }) => graph.op(op, [x], attributes),
});
const two = (op: string, b: readonly number[]): Case => ({
  inputs: { a: [2, 3, 4], b },
  build: (graph, { a, b: other }) => graph.op(op, [a, other]),
});
const last = (graph: OnnxGraph): Value => graph.integers(-1);

const CASES: Readonly<Record<string, Case>> = {
  Identity: one("Identity"),
  Cast: one("Cast", { to: 1 }),
  "Add, spread over rows": two("Add", [4]),
  "Add, spread in the middle": two("Add", [2, 1, 4]),
  Sub: two("Sub", [3, 1]),
  Mul: two("Mul", [3, 4]),
  "Mul by itself": { inputs: { x: [3, 2] }, build: (graph, { x }) => graph.op("Mul", [x, x]) },
  Div: { ...two("Div", [4]), positive: true },
  Neg: one("Neg"),
  Abs: one("Abs"),
  Min: two("Min", [4]),
  Max: two("Max", [1]),
  Clip: {
    inputs: { x: [3, 4] },
    build: (graph, { x }) => graph.op("Clip", [x, graph.scalar(-0.4), graph.scalar(0.3)]),
  },
  Where: {
    inputs: { c: [3, 4], a: [3, 4], b: [4] },
    build: (graph, { c, a, b }) => graph.op("Where", [graph.op("Greater", [c, graph.scalar(0)]), a, b]),
  },
  Sigmoid: one("Sigmoid"),
  Tanh: one("Tanh"),
  Relu: one("Relu"),
  Softplus: one("Softplus"),
  Exp: one("Exp"),
  Log: one("Log", {}, true),
  Sqrt: one("Sqrt", {}, true),
  "Gelu, tanh": one("Gelu", { approximate: "tanh" }),
  "Gelu, exact": one("Gelu", { approximate: "none" }),
  Softmax: one("Softmax", { axis: -1 }),
  RMSNormalization: {
    inputs: { x: [2, 3, 5], w: [5] },
    build: (graph, { x, w }) => graph.op("RMSNormalization", [x, w], { axis: -1, epsilon: { float: 1e-3 } }),
  },
  LayerNormalization: {
    inputs: { x: [2, 3, 5], w: [5], b: [5] },
    build: (graph, { x, w, b }) => graph.op("LayerNormalization", [x, w, b], { axis: -1, epsilon: { float: 1e-3 } }),
  },
  ...Object.fromEntries(
    [0, 1].map((interleaved) => [
      `RotaryEmbedding, interleaved ${interleaved}`,
      {
        inputs: { x: [2, 3, 16] },
        build: (graph: OnnxGraph, { x }: Readonly<Record<string, Value>>) => {
          const angles = Float32Array.from({ length: 9 }, (_, at) => Math.floor(at / 3) * 0.7 + (at % 3));
          const tables = [angles.map(Math.cos), angles.map(Math.sin)].map((table) => graph.constant(table, [3, 3]));
          const ids = graph.constant(BigInt64Array.from([0, 1, 2, 0, 1, 2], BigInt), [2, 3]);
          const attributes = { num_heads: 2, rotary_embedding_dim: 6, interleaved };
          return graph.op("RotaryEmbedding", [x, ...tables, ids], attributes);
        },
      },
    ]),
  ),
  "MatMul of heads": {
    inputs: { a: [2, 2, 3, 4], b: [2, 2, 4, 5] },
    build: (graph, { a, b }) => graph.op("MatMul", [a, b]),
  },
  "FusedMatMul by rows": {
    inputs: { x: [2, 3, 4], w: [5, 4] },
    build: (graph, { x, w }) => graph.op("FusedMatMul", [x, w], { transB: 1 }, "com.microsoft"),
  },
  "FusedMatMul by columns": {
    inputs: { x: [2, 3, 4], w: [4, 5] },
    build: (graph, { x, w }) => graph.op("FusedMatMul", [x, w], { transB: 0 }, "com.microsoft"),
  },
  Gemm: { inputs: { x: [3, 4], w: [5, 4] }, build: (graph, { x, w }) => graph.op("Gemm", [x, w], { transB: 1 }) },
  Conv: {
    inputs: { x: [2, 3, 6], w: [3, 1, 3], b: [3] },
    build: (graph, { x, w, b }) => graph.op("Conv", [x, w, b], { group: 3, pads: [2n, 0n] }),
  },
  ReduceSum: {
    inputs: { x: [2, 3, 4] },
    build: (graph, { x }) => graph.op("ReduceSum", [x, graph.integers(1)], { keepdims: 0 }),
  },
  ReduceSumSquare: {
    inputs: { x: [2, 3, 4] },
    build: (graph, { x }) => graph.op("ReduceSumSquare", [x, last(graph)], { keepdims: 1 }),
  },
  Tile: { inputs: { x: [2, 3] }, build: (graph, { x }) => graph.op("Tile", [x, graph.integers(3, 2)]) },
  Expand: { inputs: { x: [3, 1] }, build: (graph, { x }) => graph.op("Expand", [x, graph.integers(2, 3, 4)]) },
  Reshape: { inputs: { x: [2, 6] }, build: (graph, { x }) => graph.op("Reshape", [x, graph.integers(3, -1)]) },
  "Squeeze and Unsqueeze": {
    inputs: { x: [2, 1, 3] },
    build: (graph, { x }) => graph.op("Unsqueeze", [graph.op("Squeeze", [x, graph.integers(1)]), graph.integers(0)]),
  },
  Transpose: { inputs: { x: [2, 3, 4] }, build: (graph, { x }) => graph.op("Transpose", [x], { perm: [2n, 0n, 1n] }) },
  "Split, one part unused": {
    inputs: { x: [2, 6] },
    build(graph, { x }) {
      const parts = graph.ops("Split", [x, graph.integers(2, 1, 3)], 3, { axis: -1 });
      return graph.op("Concat", [parts[2], parts[0]], { axis: -1 });
    },
  },
  Concat: {
    inputs: { a: [2, 1, 3], b: [2, 4, 3] },
    build: (graph, { a, b }) => graph.op("Concat", [a, b], { axis: 1 }),
  },
  Slice: {
    inputs: { x: [2, 5] },
    build: (graph, { x }) => graph.op("Slice", [x, graph.integers(1), graph.integers(-1), last(graph)]),
  },
  Pad: {
    inputs: { x: [2, 3] },
    build: (graph, { x }) => graph.op("Pad", [x, graph.integers(1, 2), "", last(graph)]),
  },
  "Gather of a column": {
    inputs: { x: [4, 5] },
    build: (graph, { x }) => graph.op("Gather", [x, graph.integers(3)], { axis: 1 }),
  },
  GatherElements: {
    inputs: { x: [2, 4] },
    build: (graph, { x }) =>
      graph.op("GatherElements", [x, graph.constant(BigInt64Array.from([3n, 3n, 0n, 1n]), [2, 2])], { axis: 1 }),
  },
  "GatherND and ScatterND": {
    inputs: { x: [4, 3], y: [4, 3] },
    build(graph, { x, y }) {
      const places = graph.constant(BigInt64Array.from([2n, 0n]), [2, 1]);
      const seen = graph.op("GatherND", [x, places]);
      return graph.op("ScatterND", [y, places, graph.op("Mul", [seen, seen])], { reduction: "add" });
    },
  },
  ScatterElements: {
    inputs: { x: [2, 4], y: [2, 2] },
    build: (graph, { x, y }) =>
      graph.op("ScatterElements", [x, graph.constant(BigInt64Array.from([3n, 1n, 0n, 1n]), [2, 2]), y], { axis: 1 }),
  },
  TopK: {
    inputs: { x: [3, 5] },
    build: (graph, { x }) => graph.ops("TopK", [x, graph.integers(2)], 2, { axis: -1, largest: 1, sorted: 1 })[0],
  },
};

const random = randomNumbers(7);
const draw = (length: number, isPositive = false): Float64Array =>
  // In f32 already, so that the engine gets the same numbers.
  Float64Array.from({ length }, () => Math.fround(isPositive ? 0.5 + random() : 2 * random() - 1));
const size = (dims: readonly number[]): number => dims.reduce((product, dim) => product * dim, 1);
const dot = (a: ArrayLike<number>, b: ArrayLike<number>): number => {
  let sum = 0;
  for (let at = 0; at < a.length; at++) sum += a[at] * b[at];
  return sum;
};

/** d loss along `direction` by central differences. */
function slopeAlong(
  loss: (feeds: Record<string, Array64>) => number,
  feeds: Record<string, Array64>,
  direction: Readonly<Record<string, Float64Array>>,
): number {
  // So small that hardly a kink of a ReLU lies between the two sides; f64 can still tell them apart.
  const step = 1e-7;
  const moved = (factor: number): Record<string, Array64> => ({
    ...feeds,
    ...Object.fromEntries(
      Object.entries(direction).map(([name, along]) => [
        name,
        { ...feeds[name], data: feeds[name].data.map((value, at) => value + factor * along[at]) },
      ]),
    ),
  });
  return (loss(moved(step)) - loss(moved(-step))) / (2 * step);
}

describe("gradients of every operator", () => {
  for (const [name, { inputs, positive, build }] of Object.entries(CASES)) {
    for (const portable of [false, true]) {
      test(`${name}${portable ? ", standard operators" : ""}`, async () => {
        const graph = new OnnxGraph();
        const names = Object.keys(inputs);
        const values = Object.fromEntries(names.map((each) => [each, graph.input(each, "FLOAT", inputs[each])]));
        const out = build(graph, values);
        const feeds = Object.fromEntries(
          names.map((each) => [each, array(inputs[each], draw(size(inputs[each]), positive))]),
        );
        const { dims } = interpret(graph, feeds).get(out)!;
        const seed = array(dims, draw(size(dims)));
        const forward = [...graph.tape];
        const loss = (given: Record<string, Array64>): number =>
          dot(interpret({ ...graph, tape: forward } as OnnxGraph, given).get(out)!.data, seed.data);

        const found = gradientsOf(graph, new Map([[out, graph.input("seed", "FLOAT", dims)]]), names, { portable });
        const all = { ...feeds, seed };
        const exact = interpret(graph, all);
        for (const each of names) {
          const gradient = found.get(each);
          const along = draw(size(inputs[each]));
          const expected = slopeAlong(loss, feeds, { [each]: along });
          if (gradient === undefined) {
            expect(Math.abs(expected)).toBeLessThan(1e-9);
            continue;
          }
          expect(exact.get(gradient)!.dims).toEqual(inputs[each]);
          expect(dot(exact.get(gradient)!.data, along)).toBeCloseTo(expected, 6);
          graph.output(`d ${each}`, gradient, "FLOAT", inputs[each]);
        }
        if (!hasEngine) return;
        const engine = await Engine.open();
        const session = await engine.session(graph, true);
        const tensors: Feeds = Object.fromEntries(
          Object.entries(all).map(([each, { data, dims: shape }]) => [
            each,
            engine.f32(Float32Array.from(data), shape),
          ]),
        );
        const given = await session.run(tensors);
        for (const each of names) {
          if (!found.has(each)) continue;
          const values64 = exact.get(found.get(each)!)!.data;
          floats(given[`d ${each}`]).forEach((value, at) => void expect(value).toBeCloseTo(values64[at], 4));
        }
        await session.close();
      });
    }
  }

  test("no rule is left out", () => {
    const seen = new Set<string>();
    for (const { inputs, build } of Object.values(CASES)) {
      const graph = new OnnxGraph();
      build(
        graph,
        Object.fromEntries(Object.keys(inputs).map((each) => [each, graph.input(each, "FLOAT", inputs[each])])),
      );
      for (const { type } of graph.tape) seen.add(type);
    }
    expect(differentiableOperators().filter((type) => !seen.has(type))).toEqual([]);
  });

  test("a recurrence is refused by its operator's name", () => {
    const graph = new OnnxGraph();
    const x = graph.input("x", "FLOAT", [2, 3]);
    const y = graph.op("Scan", [x]);
    expect(() => gradientsOf(graph, new Map([[y, y]]), [x])).toThrow(/do not pass Scan.*\(activation\)/s);
  });
});

/** Every float tensor that a layer is made of, as runs supply it. */
function tensorsOf(runner: LayerRunner, layer: number): TrainedTensor[] {
  const { architecture, weights } = runner;
  const projections = new Map(
    // A stack of experts is supplied whole here.
    runner.projections(layer).flatMap((each) => (each.stack === undefined ? [[each.tensor, each] as const] : [])),
  );
  return [...layerTensors(architecture, layer)].flatMap((path) => {
    const name = weights.layerNames(layer).find((each) => each.endsWith(`.${layer}.${path}`));
    if (name === undefined) return [];
    const place = projections.get(name);
    const { shape } = runner.donor.shards.flatMap(({ tensors }) => tensors).find((each) => each.name === name)!;
    return [{ name, shape: place === undefined ? shape : [place.rows, place.cols] }];
  });
}

async function valuesOf(runner: LayerRunner, layer: number, { name, shape }: TrainedTensor): Promise<Float32Array> {
  const place = runner.projections(layer).find(({ tensor, stack }) => tensor === name && stack === undefined);
  if (place !== undefined) return runner.weight(place);
  const graph = new OnnxGraph();
  graph.output("weight", storedValue(graph, runner.weights.get(name, shape)), "FLOAT", shape);
  const session = await runner.engine.session(graph, false);
  try {
    return floats((await session.run({})).weight);
  } finally {
    await session.close();
  }
}

/** All gradients of a layer against central differences in f64, and the engine's against those in f64. */
async function checkLayer(folder: string, layer: number, isEachTensor: boolean): Promise<void> {
  const runner = await LayerRunner.open(folder);
  const { architecture, weights, engine } = runner;
  const { hiddenSize } = architecture;
  const [batch, tokens] = [2, 3];
  const trained = tensorsOf(runner, layer);
  const shape = [batch, tokens, hiddenSize];
  const feeds: Record<string, Array64> = {
    residual_in: array(shape, draw(size(shape))),
    residual_gradient: array(shape, draw(size(shape))),
  };
  for (const tensor of trained) feeds[tensor.name] = array(tensor.shape, await valuesOf(runner, layer, tensor));
  const places = new Places(architecture, engine).feeds(batch, tokens, 0, true);
  for (const [name, tensor] of Object.entries(places)) {
    feeds[name] = array(tensor.dims, tensor.data as Float32Array | BigInt64Array);
  }
  const graph = layerGradientGraph(architecture, weights, layer, trained, { kind: "pull back" }, { portable: false });
  const exact = interpret(graph, feeds);

  // The layer's output, on the part of the graph that comes before gradients.
  const forward = layerGradientGraph(
    architecture,
    weights,
    layer,
    trained,
    { kind: "match", gradients: true },
    { portable: false },
  );
  const end = forward.tape.findIndex(({ inputs }) => inputs.includes("target"));
  const [out] = forward.tape[end].inputs;
  const cut = { ...forward, tape: forward.tape.slice(0, end) } as unknown as OnnxGraph;
  const loss = (given: Record<string, Array64>): number =>
    dot(interpret(cut, given).get(out)!.data, feeds.residual_gradient.data);

  const names = ["residual_in", ...trained.map(({ name }) => name)];
  const gradientOf = (name: string): Float64Array =>
    exact.get(name === "residual_in" ? "residual_in_gradient" : gradientOutput(name))!.data;
  const directions = isEachTensor ? names.map((name) => [name]) : [names, names];
  for (const together of directions) {
    const along = Object.fromEntries(together.map((name) => [name, draw(feeds[name].data.length)]));
    const expected = slopeAlong(loss, feeds, along);
    const found = together.reduce((sum, name) => sum + dot(gradientOf(name), along[name]), 0);
    const scale = together.reduce((sum, name) => sum + Math.hypot(...gradientOf(name)), 0);
    expect(Math.abs(found - expected)).toBeLessThan(1e-6 * (1 + scale));
  }

  const session = await engine.session(graph, true);
  const tensors: Feeds = { ...places };
  for (const name of ["residual_gradient", ...names]) {
    tensors[name] = engine.f32(Float32Array.from(feeds[name].data), feeds[name].dims);
  }
  const given = await session.run(tensors);
  for (const name of names) {
    const engines = floats(given[name === "residual_in" ? "residual_in_gradient" : gradientOutput(name)]);
    const expected = gradientOf(name);
    const largest = expected.reduce((most, value) => Math.max(most, Math.abs(value)), 1e-2);
    engines.forEach((value, at) => {
      if (!(Math.abs(value - expected[at]) < 2e-4 * largest)) expect(`${name} ${value}`).toBe(`${expected[at]}`);
    });
  }
  await session.close();
  await runner.close();
}

const SMALL = {
  hidden_size: 12,
  intermediate_size: 20,
  num_hidden_layers: 1,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  head_dim: 6,
};
const LAYERS: Readonly<Record<string, TinyModel>> = {
  "llama, two heads a key": { config: { model_type: "llama", ...SMALL } },
  "qwen2, biases": { config: { model_type: "qwen2", ...SMALL }, qkvBias: true },
  "qwen3, norms on heads": { config: { model_type: "qwen3", ...SMALL }, headNorms: true },
  "phi3, fused": { config: { model_type: "phi3", ...SMALL }, fused: true },
  "gemma2, softcap and a window": {
    config: { model_type: "gemma2", ...SMALL, sliding_window: 2, query_pre_attn_scalar: 6, attn_logit_softcapping: 3 },
    sandwich: true,
  },
};

describe.skipIf(!hasEngine)("gradients of a layer", () => {
  test.each(Object.keys(LAYERS))("%s: every tensor by itself", async (name) => {
    await checkLayer(writeTinyModel(temporaryFolder(), { dtype: "F32", ...LAYERS[name] }), 0, true);
  });

  const ORACLE = `${SHARED}oracle/`;
  const families = [
    ...["cohere2", "deepseek_v3", "exaone4", "falcon", "glm4", "gpt2", "gpt_oss", "gpt_neox", "granite", "lfm2"],
    ...["llama4_text", "llama_partial", "mixtral", "nemotron", "olmo2", "opt", "phi", "phi3_longrope", "qwen2_moe"],
    ...["qwen3_moe", "stablelm", "starcoder2"],
  ];
  test.skipIf(!existsSync(ORACLE)).each(families)("%s of the reference's families", async (name) => {
    const runner = await LayerRunner.open(`${ORACLE}${name}`);
    await runner.close();
    // The last layer: where the first ones are dense, it is the mixture.
    await checkLayer(`${ORACLE}${name}`, runner.layerCount - 1, false);
  });
});
