import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { dequantise } from "../../dist/export/dequantise.js";
import { exportGguf } from "../../dist/export/gguf/export.js";
import { importGguf } from "../../dist/export/gguf/import.js";
import { permuteRows } from "../../dist/export/gguf/layout.js";
import { readGguf } from "../../dist/export/gguf/reader.js";
import { llama3RopeFactors } from "../../dist/export/gguf/rope-factors.js";
import { TENSOR_TYPES } from "../../dist/export/gguf/types.js";
import { QUANTISED_TYPES } from "../../dist/export/quantiser.js";
import type { ExportType } from "../../dist/export/weight-band.js";
import type { FloatDtype } from "../../dist/safetensors/dtypes.js";
import { memorySource } from "../../dist/safetensors/source.js";
import { smallConfig, writeDonor } from "./random-donor.js";
import { weightsOf } from "./weights-of.js";

const scratch = mkdtempSync(join(tmpdir(), "physarium-gguf-"));
afterAll(() => rmSync(scratch, { recursive: true }));
let serial = 0;
const fresh = (ending = ""): string => join(scratch, `${++serial}${ending}`);

async function roundTrip(donor: string, type: ExportType, dtype: FloatDtype) {
  const path = fresh(".gguf");
  const exported = await exportGguf(donor, path, { type });
  const folder = fresh();
  const imported = await importGguf(path, folder, { dtype });
  return { path, folder, exported, imported };
}

async function expectSameWeights(donor: string, folder: string): Promise<void> {
  const before = await weightsOf(donor);
  const after = await weightsOf(folder);
  expect([...after.keys()].sort()).toEqual([...before.keys()].sort());
  const bytes = (weights?: Float32Array) => new Uint8Array(weights?.buffer ?? new ArrayBuffer(0));
  const different = [...before].filter(
    ([name, weights]) => Buffer.compare(bytes(weights), bytes(after.get(name))) !== 0,
  );
  expect(different.map(([name]) => name)).toEqual([]);
}

const repository = new URL("../..", import.meta.url).pathname;
const shared = join(repository, "..", "shared", "donors");
const donors: [string, string, FloatDtype][] = [["loam", join(repository, "examples/donors/loam"), "BF16"]];
for (const [name, dtype] of [
  ["stories260K", "F32"],
  ["tiny_llama3", "BF16"],
  ["tiny_qwen3", "BF16"],
] as const) {
  if (existsSync(join(shared, name))) donors.push([name, join(shared, name), dtype]);
  else console.log(`skipped: ${name} is not in ${shared}`);
}

describe.each(donors)("%s", (_, path, dtype) => {
  it("import(export f32) has the same weights", async () => {
    const { folder, imported } = await roundTrip(path, "F32", "F32");
    await expectSameWeights(path, folder);
    expect(imported.tensors.every(({ rounded }) => rounded === 0)).toBe(true);
  });

  it.runIf(dtype === "BF16")("import(export bf16) has the same weights", async () => {
    const { folder } = await roundTrip(path, "BF16", "BF16");
    await expectSameWeights(path, folder);
  });

  it("a second trip changes nothing: q8_0 of q8_0's weights", async () => {
    const first = await roundTrip(path, "Q8_0", "F32");
    const second = await roundTrip(first.folder, "F32", "F32");
    await expectSameWeights(first.folder, second.folder);
  });
});

describe("threads", () => {
  const loam = join(repository, "examples/donors/loam");

  it("any number gives the same file, the same folder, the same sums", async () => {
    const files: Buffer[] = [];
    const sums: unknown[] = [];
    for (const workers of [1, 2, 3]) {
      const path = fresh(".gguf");
      const { tensors } = await exportGguf(loam, path, { type: "Q4_K_M", workers });
      files.push(readFileSync(path));
      sums.push(tensors);
    }
    expect(files[1].equals(files[0]) && files[2].equals(files[0])).toBe(true);
    expect(sums[1]).toEqual(sums[0]);
    expect(sums[2]).toEqual(sums[0]);
    const path = fresh(".gguf");
    await exportGguf(loam, path, { type: "Q5_K" });
    const folders: Buffer[] = [];
    for (const workers of [1, 3]) {
      const folder = fresh();
      await importGguf(path, folder, { workers });
      folders.push(readFileSync(join(folder, "model.safetensors")));
    }
    expect(folders[1].equals(folders[0])).toBe(true);
  });
});

describe("synthetic donors of every family", () => {
  const families: [string, Record<string, unknown>, string[]][] = [
    ["llama", { tie_word_embeddings: true }, []],
    [
      "llama",
      { attention_bias: true, head_dim: 32 },
      ["self_attn.q_proj.bias", "self_attn.k_proj.bias", "v_proj.bias", "o_proj.bias"],
    ],
    ["mistral", { sliding_window: 64 }, []],
    ["qwen2", { use_sliding_window: false }, ["q_proj.bias", "k_proj.bias", "v_proj.bias"]],
    ["qwen3", { head_dim: 32, num_key_value_heads: 1 }, []],
    ["phi3", { sliding_window: null }, []],
    ["llama", { rope_scaling: { rope_type: "linear", factor: 4 } }, []],
    [
      "llama",
      {
        rope_scaling: {
          rope_type: "llama3",
          factor: 32,
          low_freq_factor: 1,
          high_freq_factor: 4,
          original_max_position_embeddings: 8192,
        },
      },
      [],
    ],
    [
      "llama",
      // A scaling of no model: found by its factors alone. Heads of 64 have enough waves between short and long.
      {
        head_dim: 64,
        rope_scaling: {
          rope_type: "llama3",
          factor: 5,
          low_freq_factor: 1,
          high_freq_factor: 3,
          original_max_position_embeddings: 1000,
        },
      },
      [],
    ],
    ["qwen2", { rope_scaling: { rope_type: "yarn", factor: 4, original_max_position_embeddings: 64 } }, []],
    ["smollm3", { num_hidden_layers: 4, tie_word_embeddings: true }, []],
    ["gemma", { head_dim: 16, tie_word_embeddings: true, hidden_act: "gelu_pytorch_tanh" }, []],
    [
      "gemma2",
      {
        head_dim: 16,
        tie_word_embeddings: true,
        sliding_window: 32,
        attn_logit_softcapping: 50,
        final_logit_softcapping: 30,
        query_pre_attn_scalar: 16,
      },
      [],
    ],
    ["gemma3_text", { head_dim: 16, tie_word_embeddings: true, sliding_window: 32, num_hidden_layers: 7 }, []],
    ["qwen3", { rope_theta: undefined, rope_parameters: { rope_type: "default", rope_theta: 1e6 } }, []],
  ];

  it.each(families)("%s %j", async (modelType, overrides, withOptional) => {
    const config = smallConfig(modelType, overrides);
    const donor = writeDonor(fresh(), { config, withOptional, tokenizer: true });
    const { folder, exported } = await roundTrip(donor, "BF16", "BF16");
    await expectSameWeights(donor, folder);
    expect(exported.tensors.filter(({ ggufName }) => ggufName.endsWith(".bias")).length).toBe(withOptional.length * 2);
    const rebuilt = JSON.parse(readFileSync(join(folder, "config.json"), "utf8"));
    const { model_type, sliding_window, use_sliding_window, attention_bias, rope_parameters, ...kept } = config;
    for (const [key, value] of Object.entries(kept)) if (value !== undefined) expect(rebuilt[key], key).toEqual(value);
    expect(rebuilt.model_type).toBe(model_type);
    // A window that the engine has no key for comes back with the configuration that the file carries.
    if (modelType === "mistral") expect(rebuilt.sliding_window).toBe(sliding_window);
    if (rope_parameters !== undefined) expect(rebuilt.rope_theta).toBe(1e6);
    expect(exported.warnings.some((warning) => warning.includes("windows of 64"))).toBe(modelType === "mistral");
    expect(readFileSync(join(folder, "tokenizer.json"), "utf8")).toBe(
      readFileSync(join(donor, "tokenizer.json"), "utf8"),
    );
  });

  it("K-quants: types, errors and zeros are those of the blocks in the file", async () => {
    const config = smallConfig("qwen3", { hidden_size: 256, intermediate_size: 320, head_dim: 64 });
    const donor = writeDonor(fresh(), { config, sparsity: 0.3, tokenizer: true });
    const before = await weightsOf(donor);
    const fallbackOf: Partial<Record<ExportType, ExportType>> = { Q4_K: "Q5_0", Q5_K: "Q5_1", Q6_K: "Q8_0" };
    for (const type of QUANTISED_TYPES) {
      const path = fresh(".gguf");
      const result = await exportGguf(donor, path, { type });
      const bytes = new Uint8Array(readFileSync(path));
      const file = await readGguf(memorySource(bytes), path);
      for (const tensor of result.tensors) {
        const info = file.tensors.find(({ name }) => name === tensor.ggufName)!;
        expect(info.type).toBe(tensor.type);
        const decoded = dequantise(info.type, bytes.slice(info.byteOffset, info.byteOffset + info.byteLength));
        const weights = before.get(tensor.name)!;
        let squaredError = 0;
        let lost = 0;
        weights.forEach((weight, i) => {
          squaredError += (weight - decoded[i]) * (weight - decoded[i]);
          if (weight === 0 && decoded[i] !== 0) lost++;
        });
        expect(tensor.squaredError, tensor.name).toBe(squaredError);
        expect(tensor.zerosLost).toBe(lost);
        expect(tensor.zerosAfter).toBe(decoded.filter((value) => value === 0).length);
        if (result.holdsExactZeros) expect(lost).toBe(0);
      }
      // Rows of 320 weights are no whole number of super-blocks of 256, as blocks of 32 they are.
      const fallbacks = result.tensors.filter(({ fallback }) => fallback !== undefined);
      expect(fallbacks.map(({ name }) => name)).toEqual(
        type.endsWith("_K") ? ["model.layers.0.mlp.down_proj.weight", "model.layers.1.mlp.down_proj.weight"] : [],
      );
      expect(fallbacks.every((tensor) => tensor.type === fallbackOf[type])).toBe(true);
      const matrices = result.tensors.filter(({ isMatrix }) => isMatrix);
      expect(matrices.reduce((sum, { zerosLost }) => sum + zerosLost, 0) > 0).toBe(!TENSOR_TYPES[type].holdsExactZeros);
    }
  });
});

describe("rows of rotary heads", () => {
  it("permute and back is nothing; pairs i, i + n/2 become 2i, 2i + 1", () => {
    const rows = Uint8Array.from({ length: 2 * 8 }, (_, row) => row);
    const there = permuteRows(rows, 1, 8, true);
    expect([...there]).toEqual([0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15]);
    expect(permuteRows(there, 1, 8, false)).toEqual(rows);
  });

  it("llama3 factors: short waves untouched, long ones slowed by the factor, in between in order", () => {
    const scaling = {
      kind: "llama3",
      factor: 8,
      lowFreqFactor: 1,
      highFreqFactor: 4,
      originalContextLength: 8192,
    } as const;
    const factors = llama3RopeFactors(scaling, 128, 500_000);
    expect(factors[0]).toBe(1);
    expect(factors[63]).toBe(8);
    expect([...factors]).toEqual([...factors].sort((a, b) => a - b));
    // What transformers' formula gives for Llama 3.1's channel 30: inverse frequency over its scaled self, worked by
    // hand.
    const wave = 2 * Math.PI * 500_000 ** (60 / 128);
    const smooth = (8192 / wave - 1) / 3;
    expect(factors[30]).toBeCloseTo(1 / ((1 - smooth) / 8 + smooth), 5);
  });
});

describe("refusals leave nothing behind", () => {
  const refuse = async (recipe: Parameters<typeof writeDonor>[1], type: ExportType, code: string): Promise<void> => {
    const donor = writeDonor(fresh(), recipe);
    const output = fresh(".gguf");
    await expect(exportGguf(donor, output, { type })).rejects.toMatchObject({ code });
    expect(readdirSync(scratch).filter((name) => name.includes("partial"))).toEqual([]);
    expect(existsSync(output)).toBe(false);
  };
  const setFirst = (target: string, value: number) => (name: string, weights: Float32Array) => {
    if (name.includes(target)) weights[5] = value;
    return weights;
  };

  it("a weight that is no number", () =>
    refuse({ config: smallConfig("llama"), change: setFirst("up_proj", Number.NaN) }, "Q8_0", "DONOR_NON_FINITE"));
  it("a weight too large for F16", () =>
    refuse({ config: smallConfig("llama"), change: setFirst("up_proj", 1e6) }, "F16", "DONOR_EXPORT_RANGE"));
  it("a weight too large for a block's scale", () =>
    refuse({ config: smallConfig("llama"), change: setFirst("up_proj", 1e30) }, "Q8_0", "DONOR_EXPORT_RANGE"));
  it("a tensor without a place", async () => {
    const donor = writeDonor(fresh(), { config: smallConfig("qwen3", { head_dim: 16 }) });
    writeFileSync(join(donor, "config.json"), JSON.stringify(smallConfig("qwen2")));
    await expect(exportGguf(donor, fresh(".gguf"), { type: "F16" })).rejects.toMatchObject({
      code: "DONOR_EXPORT_TENSOR",
    });
  });

  it("a config that another model's weights lie beside", async () => {
    const donor = writeDonor(fresh(), { config: smallConfig("llama") });
    writeFileSync(join(donor, "config.json"), JSON.stringify(smallConfig("llama", { intermediate_size: 97 })));
    await expect(exportGguf(donor, fresh(".gguf"), { type: "F16" })).rejects.toMatchObject({
      code: "DONOR_EXPORT_SHAPE",
    });
  });

  it.each([
    ["an unknown family", { model_type: "mamba" }],
    ["a mixture of experts", { num_local_experts: 8 }],
    ["yarn of another kind", { rope_scaling: { rope_type: "yarn", factor: 4, beta_fast: 16 } }],
    ["longrope", { rope_scaling: { rope_type: "longrope", factor: 4 } }],
    ["gelu", { hidden_act: "gelu" }],
  ])("%s", async (_, overrides) => {
    const donor = writeDonor(fresh(), { config: smallConfig("llama") });
    writeFileSync(join(donor, "config.json"), JSON.stringify(smallConfig("llama", overrides)));
    await expect(exportGguf(donor, fresh(".gguf"), { type: "F16" })).rejects.toMatchObject({
      code: "DONOR_ARCHITECTURE",
    });
  });

  it("an output that exists, or lies in the donor", async () => {
    const donor = writeDonor(fresh(), { config: smallConfig("llama") });
    const text = fresh(".gguf");
    writeFileSync(text, "not a model");
    await expect(exportGguf(donor, text, { type: "F16" })).rejects.toMatchObject({ code: "USAGE_OUTPUT_EXISTS" });
    await expect(exportGguf(donor, text, { type: "F16", overwrite: true })).rejects.toMatchObject({
      code: "USAGE_OUTPUT_EXISTS",
    });
    await expect(exportGguf(donor, join(donor, "x.gguf"), { type: "F16" })).rejects.toMatchObject({
      code: "USAGE_OUTPUT_OVERLAP",
    });
    const output = fresh(".gguf");
    const first = await exportGguf(donor, output, { type: "F16" });
    await expect(exportGguf(donor, output, { type: "F16" })).rejects.toMatchObject({ code: "USAGE_OUTPUT_EXISTS" });
    const again = await exportGguf(donor, output, { type: "F16", overwrite: true });
    expect(again.byteLength).toBe(first.byteLength);
    expect(readFileSync(text, "utf8")).toBe("not a model");
    await expect(importGguf(output, donor)).rejects.toMatchObject({ code: "USAGE_OUTPUT_EXISTS" });
  });
});
