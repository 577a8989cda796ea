import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { FolderSource } from "../../dist/checkpoint/folder-source.js";
import { STEPS } from "../../dist/model/steps.js";
import { LayerRunner, type RunnerOptions } from "../../dist/probe/forward/layer-runner.js";
import { argmax, generateTokens, promptTokens, stopTokens } from "../../dist/probe/generate.js";
import { TextTokenizer } from "../../dist/probe/text/tokenizer.js";
import { readTensor } from "../read-tensor.js";
import { hasEngine, LOAM, sharedDonor } from "./engine-present.js";
import { Oracle } from "./oracle.js";
import { randomNumbers, TINY_CONFIG, type TinyModel, temporaryFolder, writeTinyModel } from "./tiny-model.js";

/**
 * Weights mapped and cast in each run, or kept as f32, in the CPU's operators or the standard's: all must give the same
 * numbers.
 */
const MODES: [string, RunnerOptions][] = [
  ["mapped", { memoryBytes: 0 }],
  ["kept as f32", {}],
  ["in standard operators only, as on other devices", { portable: true }],
];

async function logitsOf(folder: string, ids: readonly number[], options: RunnerOptions = {}): Promise<Float32Array> {
  const runner = await LayerRunner.open(folder, options);
  try {
    return (await runner.logits(await runner.forward(await runner.embed([ids])))).data;
  } finally {
    await runner.close();
  }
}

function largestDifference(a: ArrayLike<number>, b: ArrayLike<number>): number {
  expect(a.length).toBe(b.length);
  let largest = 0;
  for (let at = 0; at < a.length; at++) {
    const difference = Math.abs(a[at] - b[at]);
    // Written so that NaN is found.
    if (!(difference <= largest)) largest = difference;
  }
  return largest;
}

interface Golden {
  text: string;
  ids: number[];
  logits_file: string;
  greedy_next_64: { ids: number[]; text: string };
}

const stories = sharedDonor("stories260K");
const golden: [string, string | undefined, string][] = [
  ["loam", LOAM, "test/fixtures/loam"],
  ["stories260K", stories, stories ?? ""],
];

describe.skipIf(!hasEngine)("golden logits", () => {
  for (const [name, folder, expectedFolder] of golden) {
    for (const [mode, options] of MODES) {
      test.skipIf(folder === undefined)(`${name}, weights ${mode}: within 2e-4, the same greedy text`, async () => {
        const expected: Golden = JSON.parse(readFileSync(join(expectedFolder, "golden.json"), "utf8"));
        const reference = new Float32Array(
          new Uint8Array(readFileSync(join(expectedFolder, expected.logits_file))).buffer,
        );
        const logits = await logitsOf(folder!, expected.ids, options);
        expect(largestDifference(logits, reference)).toBeLessThan(2e-4);

        const tokenizer = await TextTokenizer.open(folder!);
        const withoutBos = await tokenizer.encode(expected.text);
        expect(expected.ids.slice(-withoutBos.length)).toEqual(withoutBos);
        expect(await promptTokens(tokenizer, expected.text)).toEqual(expected.ids);
        const runner = await LayerRunner.open(folder!, options);
        const ids: number[] = [];
        for await (const { id } of generateTokens(runner, expected.ids, { maxTokens: 64 })) ids.push(id);
        await runner.close();
        expect(ids).toEqual(expected.greedy_next_64.ids);
        const whole = await tokenizer.decode([...expected.ids, ...ids]);
        expect(whole.slice((await tokenizer.decode(expected.ids)).length)).toBe(expected.greedy_next_64.text);
      });
    }
  }

  test("loam ends a text where its end token comes", async () => {
    const tokenizer = await TextTokenizer.open(LOAM);
    expect(await stopTokens(new FolderSource(LOAM), tokenizer)).toEqual(new Set([2047]));
  });
});

const SLIDING = ["sliding_attention", "full_attention", "sliding_attention"];
const FAMILIES: Record<string, TinyModel> = {
  "llama, untied, linear rope, biases everywhere": {
    config: { model_type: "llama", rope_scaling: { rope_type: "linear", factor: 4 } },
    untied: true,
    allBiases: true,
  },
  "llama with llama3 rope, F16": {
    config: {
      model_type: "llama",
      rope_scaling: {
        rope_type: "llama3",
        factor: 8,
        low_freq_factor: 1,
        high_freq_factor: 4,
        original_max_position_embeddings: 32,
      },
    },
    dtype: "F16",
  },
  "llama with yarn, F32": {
    config: {
      model_type: "llama",
      rope_scaling: { rope_type: "yarn", factor: 4, original_max_position_embeddings: 64 },
    },
    dtype: "F32",
  },
  "llama, one head for all keys, odd sizes": {
    config: { model_type: "llama", num_key_value_heads: 1, head_dim: 8, intermediate_size: 37, hidden_size: 40 },
  },
  "mistral with a sliding window": { config: { model_type: "mistral", sliding_window: 7 } },
  "smollm3 with layers without rope": { config: { model_type: "smollm3", no_rope_layers: [1, 0, 1] } },
  "qwen2 with biases; a window not in use": {
    config: { model_type: "qwen2", sliding_window: 5, use_sliding_window: false },
    qkvBias: true,
  },
  "qwen3 with norms on q and k": { config: { model_type: "qwen3" }, headNorms: true, untied: true },
  "phi3, fused, a part of the channels turning": {
    config: { model_type: "phi3", partial_rotary_factor: 0.5, sliding_window: null },
    fused: true,
    untied: true,
  },
  "gemma 1": { config: { model_type: "gemma", hidden_act: "gelu", hidden_activation: null } },
  "gemma 2 with soft caps and sliding layers": {
    config: {
      model_type: "gemma2",
      hidden_activation: "gelu_pytorch_tanh",
      query_pre_attn_scalar: 24,
      attn_logit_softcapping: 5,
      final_logit_softcapping: 6,
      sliding_window: 6,
      layer_types: SLIDING,
    },
    sandwich: true,
  },
  "gemma 3 with its two ropes": {
    config: {
      model_type: "gemma3_text",
      hidden_activation: "gelu_pytorch_tanh",
      query_pre_attn_scalar: 16,
      sliding_window: 6,
      rope_theta: 1000000,
      rope_local_base_freq: 10000,
      rope_scaling: { rope_type: "linear", factor: 8 },
      layer_types: SLIDING,
    },
    sandwich: true,
    headNorms: true,
  },
};

describe.skipIf(!hasEngine)("an oracle in f64 agrees to 1e-4", () => {
  const random = randomNumbers(77);
  const ids = Array.from({ length: 41 }, () => Math.floor(random() * TINY_CONFIG.vocab_size));

  for (const [name, model] of Object.entries(FAMILIES)) {
    test(name, async () => {
      const folder = writeTinyModel(temporaryFolder(), model);
      const expected = new Oracle(folder).logits(ids);
      for (const [, options] of MODES) {
        expect(largestDifference(await logitsOf(folder, ids, options), expected)).toBeLessThan(1e-4);
      }
    });
  }

  for (const name of ["tiny_qwen3", "tiny_llama3"]) {
    const folder = sharedDonor(name);
    test.skipIf(folder === undefined)(name, async () => {
      const long = Array.from({ length: 200 }, (_, at) => (at * 37 + 11) % 256);
      expect(largestDifference(await logitsOf(folder!, long), new Oracle(folder!).logits(long))).toBeLessThan(1e-4);
    });
  }

  test("loam", async () => {
    const { ids } = JSON.parse(readFileSync("test/fixtures/loam/golden.json", "utf8")) as Golden;
    // The oracle reads all shards of the folder.
    expect(largestDifference(await logitsOf(LOAM, ids), new Oracle(LOAM).logits(ids))).toBeLessThan(1e-4);
  });
});

describe.skipIf(!hasEngine)("the parts of a layer", () => {
  const folder = hasEngine ? writeTinyModel(temporaryFolder(), FAMILIES["qwen3 with norms on q and k"]) : "";
  const ids = Array.from({ length: 23 }, (_, at) => (at * 31 + 5) % 97);

  test("steps one by one are the whole pass, and show every input", async () => {
    const runner = await LayerRunner.open(folder);
    const whole = await runner.forward(await runner.embed([ids]));
    let residual = await runner.embed([ids]);
    for (let layer = 0; layer < runner.layerCount; layer++) {
      const seen: string[] = [];
      residual = await runner.forwardLayer(layer, residual, {
        onInput: (step, input) => {
          seen.push(step);
          for (const projection of runner.projections(layer, step)) expect(input.width).toBe(projection.cols);
          expect(input.data.length).toBe(input.batch * input.tokens * input.width);
        },
      });
      expect(seen).toEqual([...STEPS]);
      await runner.closeLayer(layer);
    }
    expect(largestDifference(residual.data, whole.data)).toBeLessThan(1e-5);
    await runner.close();
  });

  test("supplied weights take the place of the file's", async () => {
    const other = writeTinyModel(temporaryFolder(), FAMILIES["qwen3 with norms on q and k"], 2);
    const runner = await LayerRunner.open(folder);
    const weights = new Map<string, Float32Array>();
    const tensors = readF32(other);
    for (let layer = 0; layer < runner.layerCount; layer++) {
      for (const { tensor } of runner.projections(layer)) weights.set(tensor, tensors(tensor));
    }
    const own = new Map([...weights.keys()].map((name) => [name, readF32(folder)(name)]));
    const start = await runner.embed([ids]);
    const plain = await runner.forwardLayer(1, start);
    const again = await runner.forwardLayer(1, start, { supplied: own });
    const supplied = await runner.forwardLayer(1, start, { supplied: weights });
    expect(largestDifference(again.data, plain.data)).toBeLessThan(1e-5);
    expect(largestDifference(supplied.data, plain.data)).toBeGreaterThan(0.1);
    await runner.close();
  });

  test("a cache gives what the whole text gives, in any pieces", async () => {
    for (const [name, portable] of [
      ["qwen3 with norms on q and k", false],
      ["mistral with a sliding window", false],
      ["mistral with a sliding window", true],
    ] as const) {
      const model = writeTinyModel(temporaryFolder(), FAMILIES[name]);
      const runner = await LayerRunner.open(model, { portable });
      const whole = await runner.forward(await runner.embed([ids]));
      let cache: Awaited<ReturnType<typeof runner.extend>>["cache"] | undefined;
      const pieces: number[] = [];
      for (const [start, end] of [
        [0, 9],
        [9, 10],
        [10, 11],
        [11, 23],
      ]) {
        const step = await runner.extend([ids.slice(start, end)], cache);
        cache = step.cache;
        pieces.push(...step.residual.data);
      }
      expect(largestDifference(pieces, whole.data)).toBeLessThan(1e-4);
      await runner.close();
    }
  });

  test("a batch gives what each sequence gives alone, padding on the right or not", async () => {
    const runner = await LayerRunner.open(folder);
    const short = ids.slice(3, 14);
    const padded = [...short, ...new Array(ids.length - short.length).fill(0)];
    const both = await runner.forward(await runner.embed([ids, padded]));
    const alone = await runner.forward(await runner.embed([short]));
    const from = ids.length * both.width;
    expect(largestDifference(both.data.subarray(from, from + alone.data.length), alone.data)).toBeLessThan(1e-5);
    await runner.close();
  });

  test("argmax takes the lower id of two equal logits", () => {
    expect(argmax(Float32Array.of(1, 3, 2, 3))).toBe(1);
  });
});

/** Tensors of a tiny BF16 model as f32, by name. */
function readF32(folder: string): (name: string) => Float32Array {
  const file = readFileSync(join(folder, "model.safetensors"));
  const length = Number(file.readBigUInt64LE(0));
  const header = JSON.parse(file.subarray(8, 8 + length).toString());
  return (name) => {
    const [begin, end] = header[name].data_offsets;
    const bits = new Uint32Array((end - begin) / 2);
    for (let at = 0; at < bits.length; at++) bits[at] = file.readUInt16LE(8 + length + begin + 2 * at) << 16;
    return new Float32Array(bits.buffer);
  };
}

describe.skipIf(!hasEngine)("how much of an error in gate and up a token passes on", () => {
  const cases: [string, TinyModel, (g: number) => number, (g: number) => number][] = [
    [
      "silu",
      { config: { model_type: "llama" } },
      (g) => g / (1 + Math.exp(-g)),
      (g) => 1 / (1 + Math.exp(-g)) + (g * Math.exp(-g)) / (1 + Math.exp(-g)) ** 2,
    ],
    [
      "gelu, its tanh form, gate and up in one tensor",
      { config: { model_type: "phi3", hidden_act: "gelu_pytorch_tanh" }, fused: true },
      (g) => 0.5 * g * (1 + tanhOf(g)),
      (g) => 0.5 * (1 + tanhOf(g)) + 0.5 * g * (1 - tanhOf(g) ** 2) * ROOT * (1 + 3 * 0.044715 * g * g),
    ],
  ];
  const ROOT = Math.sqrt(2 / Math.PI);
  function tanhOf(g: number): number {
    return Math.tanh(ROOT * (g + 0.044715 * g ** 3));
  }
  for (const [name, model, f, slope] of cases) {
    for (const [mode, options] of MODES) {
      test(`${name}, ${mode}`, async () => {
        const folder = writeTinyModel(join(temporaryFolder(), "model"), { ...model, dtype: "F32" });
        const runner = await LayerRunner.open(folder, options);
        const { hidden_size: H, intermediate_size: I } = TINY_CONFIG;
        const random = randomNumbers(5);
        const x = Float32Array.from({ length: 3 * H }, () => 2 * random() - 1);
        const heard = await runner.listening(1, { data: x, batch: 1, tokens: 3, width: H });
        const matrix = async (part: string) =>
          (await readTensor(runner.donor, `model.layers.1.mlp.${part}.weight`)).values;
        const down = await matrix("down_proj");
        const both = model.fused ? await matrix("gate_up_proj") : undefined;
        const gate = both?.subarray(0, I * H) ?? (await matrix("gate_proj"));
        const up = both?.subarray(I * H) ?? (await matrix("up_proj"));
        await runner.close();
        for (let token = 0; token < 3; token++) {
          let expected = 0;
          for (let neuron = 0; neuron < I; neuron++) {
            let g = 0;
            let u = 0;
            let energy = 0;
            for (let col = 0; col < H; col++) {
              g += gate[neuron * H + col] * x[token * H + col];
              u += up[neuron * H + col] * x[token * H + col];
            }
            for (let row = 0; row < H; row++) energy += down[row * I + neuron] ** 2;
            expected += energy * (f(g) ** 2 + (u * slope(g)) ** 2);
          }
          expect(Math.abs(heard[token] / expected - 1) <= 1e-3, `${heard[token]}, expected ${expected}`).toBe(true);
        }
      });
    }
  }
});
