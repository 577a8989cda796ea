import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import * as fs from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { openDonor } from "../../dist/checkpoint/donor.js";
import { nodeFiles } from "../../dist/checkpoint/file-layer.js";
import { deriveTensors, scaleModel } from "../../dist/synth/model-shape.js";
import { splitByCount, splitBySize } from "../../dist/synth/shard-layout.js";
import { synthesize } from "../../dist/synth/synth.js";
import { planSynth } from "../../dist/synth/synth-plan.js";

const LOAM = "examples/donors/loam";
const SHARED = "../shared/donors";
const SMALL = {
  architectures: ["Qwen2ForCausalLM"],
  model_type: "qwen2",
  hidden_size: 64,
  intermediate_size: 96,
  num_hidden_layers: 4,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  vocab_size: 640,
  eos_token_id: 639,
  initializer_range: 0.02,
  tie_word_embeddings: false,
  torch_dtype: "bfloat16",
};

let scratch: string;
let small: string;
beforeAll(async () => {
  scratch = await fs.mkdtemp(join(tmpdir(), "physarium-synth-"));
  small = join(scratch, "config");
  await fs.mkdir(small);
  await fs.writeFile(join(small, "config.json"), JSON.stringify(SMALL));
  await fs.writeFile(join(small, "tokenizer.json"), `{"kept": "byte for byte"}\n`);
});
afterAll(() => fs.rm(scratch, { recursive: true }));

async function weightsDigest(folder: string): Promise<string> {
  return createHash("sha256")
    .update(await fs.readFile(join(folder, "model.safetensors")))
    .digest("hex");
}

const code = async (attempt: Promise<unknown>) => {
  try {
    await attempt;
  } catch (error) {
    return (error as { code?: string }).code;
  }
  return "nothing was thrown";
};

describe("the bytes", () => {
  // Recorded from the first version: a change of these digests is a change of every donor anyone made.
  test.each([
    ["gaussian", "BF16", "2579c0f01ee2726e2f4df619e39639e1a8cc43d6a637facaa70c8299294c7cca"],
    ["student", "F16", "303ad302a8908f1a3fcf24d38aef166e95d0c9d9ae70e292032170deb99170ab"],
    ["weak-channels", "F32", "2a7e1c480268b12a1a9512683d1fb956287d61b9f571ae9fcdc43ec908b0bbf7"],
    ["uniform", "BF16", "329857a2694a5a219c59906e2eb998498914ad9ba012cea9c1a0ccf0b7ed2beb"],
  ] as const)("%s %s are the same for ever", async (distribution, dtype, golden) => {
    const output = join(scratch, `${distribution}-${dtype}`);
    await synthesize(small, output, { seed: "golden", distribution, dtype });
    expect(await weightsDigest(output)).toBe(golden);
  });

  test("norms are 1, biases small and Gaussian, side files come along, dtype stands in config.json", async () => {
    const output = join(scratch, "parts");
    await synthesize(small, output, { dtype: "F32" });
    const donor = await openDonor(output);
    const bytes = await fs.readFile(join(output, "model.safetensors"));
    const values = (name: string) => {
      const tensor = donor.shards[0].tensors.find((t) => t.name === name)!;
      return Array.from({ length: tensor.byteLength / 4 }, (_, i) => bytes.readFloatLE(tensor.byteOffset + 4 * i));
    };
    expect(new Set(values("model.norm.weight"))).toEqual(new Set([1]));
    expect(new Set(values("model.layers.3.post_attention_layernorm.weight"))).toEqual(new Set([1]));
    const bias = values("model.layers.0.self_attn.q_proj.bias");
    expect(bias.every((b) => b !== 0 && Math.abs(b) < 0.1)).toBe(true);
    expect(await fs.readFile(join(output, "tokenizer.json"), "utf8")).toBe(`{"kept": "byte for byte"}\n`);
    expect(JSON.parse(await fs.readFile(join(output, "config.json"), "utf8")).torch_dtype).toBe("float32");
    expect(existsSync(`${output}.partial`)).toBe(false);
  });

  test("progress ends at the last byte", async () => {
    const seen: number[] = [];
    const result = await synthesize(small, join(scratch, "progress"), { onProgress: (p) => seen.push(p.bytesDone) });
    expect(seen.at(-1)).toBe(result.totalSize);
    expect(seen).toEqual([...seen].sort((a, b) => a - b));
  });
});

describe("names, shapes and shards", () => {
  test("a real model's index, shards, names and shapes come back (loam)", async () => {
    const output = join(scratch, "loam");
    await synthesize(LOAM, output);
    const real = await openDonor(LOAM);
    const random = await openDonor(output);
    const outline = (donor: typeof real) =>
      donor.shards.map((s) => [s.file, s.tensors.map((t) => `${t.name} ${t.dtype} ${t.shape}`).sort()]);
    expect(outline(random)).toEqual(outline(real));
    const index = "model.safetensors.index.json";
    expect(await fs.readFile(join(output, index))).toEqual(await fs.readFile(join(LOAM, index)));
    expect(await fs.readFile(join(output, "config.json"))).toEqual(await fs.readFile(join(LOAM, "config.json")));
  });

  test.each(["stories260K", "tiny_llama3", "tiny_qwen3"])("derived from config.json alone: %s", async (name) => {
    const folder = join(SHARED, name);
    if (!existsSync(folder)) {
      console.log(`skipped: ${folder} is not there`);
      return;
    }
    const donor = await openDonor(folder);
    const config = JSON.parse(await fs.readFile(join(folder, "config.json"), "utf8"));
    const derived = deriveTensors(config, "config.json").map((t) => `${t.name} ${t.shape}`);
    expect(derived.sort()).toEqual(donor.shards[0].tensors.map((t) => `${t.name} ${t.shape}`).sort());
  });

  test("Qwen2.5-7B: 339 tensors, 4 shards, 15,231,233,024 bytes, and derivation agrees with the list", async () => {
    const folder = join(SHARED, "qwen2.5-7b-shapes");
    if (!existsSync(folder)) {
      console.log(`skipped: ${folder} is not there`);
      return;
    }
    const plan = await planSynth(folder, {}, nodeFiles);
    expect([plan.tensorCount, plan.shards.length, plan.totalSize]).toEqual([339, 4, 15_231_233_024]);
    const listed = JSON.parse(await fs.readFile(join(folder, "tensor_shapes.json"), "utf8"));
    const config = JSON.parse(await fs.readFile(join(folder, "config.json"), "utf8"));
    expect(Object.fromEntries(deriveTensors(config, "").map((t) => [t.name, t.shape]))).toEqual(listed);
    const shrunk = await planSynth(folder, { scale: 0.13 }, nodeFiles);
    expect([shrunk.shards.length, shrunk.totalSize]).toEqual([4, 2_147_978_240]);
  });

  test("scaling keeps widths, trims layers and vocabulary, and says so in config.json", () => {
    const { config, tensors } = scaleModel(SMALL, deriveTensors(SMALL, ""), 0.3, "");
    expect([config.num_hidden_layers, config.vocab_size, config.eos_token_id]).toEqual([1, 192, null]);
    expect(tensors).toEqual(deriveTensors(config, ""));
    const least = scaleModel(SMALL, deriveTensors(SMALL, ""), 0.001, "");
    expect([least.config.num_hidden_layers, least.config.vocab_size]).toEqual([1, 64]);
  });

  test("a sharded donor that is scaled keeps its number of shards", async () => {
    const output = join(scratch, "scaled");
    await synthesize(LOAM, output, { scale: 0.5 });
    const donor = await openDonor(output);
    expect([donor.shards.length, donor.index?.totalSize]).toEqual([4, donor.totalSize]);
  });

  test("shards fill up to the limit, a larger tensor stands alone, none is lost", () => {
    const tensors = [10, 60, 30, 300, 40, 60].map((rows, i) => ({ name: `t${i}`, dtype: "BF16", shape: [rows, 1] }));
    const files = splitBySize(tensors, 200).map((s) => [s.file, s.tensors.map((t) => t.name).join()]);
    expect(files).toEqual([
      ["model-00001-of-00003.safetensors", "t0,t1,t2"],
      ["model-00002-of-00003.safetensors", "t3"],
      ["model-00003-of-00003.safetensors", "t4,t5"],
    ]);
    expect(splitBySize(tensors).map((s) => s.file)).toEqual(["model.safetensors"]);
    for (const count of [1, 2, 3, 6, 9]) {
      const shards = splitByCount(tensors, count);
      expect(shards.length).toBeLessThanOrEqual(count);
      expect(shards.flatMap((s) => s.tensors.map((t) => t.name)).join()).toBe("t0,t1,t2,t3,t4,t5");
    }
  });
});

describe("refusals come before the first byte", () => {
  test("an output that exists; --overwrite takes only what synth wrote", async () => {
    const output = join(scratch, "twice");
    await synthesize(small, output);
    expect(await code(synthesize(small, output))).toBe("USAGE_OUTPUT_EXISTS");
    await synthesize(small, output, { overwrite: true, seed: "other" });
    await fs.writeFile(join(output, "notes.txt"), "mine");
    expect(await code(synthesize(small, output, { overwrite: true }))).toBe("USAGE_OUTPUT_FOREIGN");
    expect(await fs.readFile(join(output, "notes.txt"), "utf8")).toBe("mine");
    const file = join(scratch, "a-file");
    await fs.writeFile(file, "");
    expect(await code(synthesize(small, file, { overwrite: true }))).toBe("USAGE_OUTPUT_EXISTS");
  });

  test("what a stopped run left is cleared, another's folder of that name is not", async () => {
    const output = join(scratch, "stopped");
    const tooFew = { ...nodeFiles, open: failingOpen(/model\.safetensors$/) };
    expect(await code(synthesize(small, output, { files: tooFew }))).toBe("IO_DISK_FULL");
    expect(existsSync(`${output}.partial`)).toBe(true);
    expect(existsSync(output)).toBe(false);
    await synthesize(small, output);
    expect(existsSync(`${output}.partial`)).toBe(false);

    const other = join(scratch, "other");
    await fs.mkdir(`${other}.partial`);
    await fs.writeFile(join(`${other}.partial`, "thesis.txt"), "mine");
    expect(await code(synthesize(small, other))).toBe("USAGE_OUTPUT_FOREIGN");
  });

  test("no room on the disk", async () => {
    const statfs = (async () => ({ bavail: 10, bsize: 4096 })) as unknown as typeof nodeFiles.statfs;
    const output = join(scratch, "full", "deep");
    expect(await code(synthesize(small, output, { files: { ...nodeFiles, statfs } }))).toBe("USAGE_DISK_SPACE");
    expect(existsSync(join(scratch, "full"))).toBe(false);
  });

  test("an output in, on or around the config folder", async () => {
    for (const output of [small, join(small, "sub"), scratch]) {
      expect(await code(synthesize(small, output))).toBe("USAGE_OUTPUT_OVERLAP");
    }
  });

  test.each([
    ["an unknown distribution", { distribution: "cauchy" as never }, "USAGE_SYNTH_DISTRIBUTION"],
    ["an unknown dtype", { dtype: "F8" as never }, "USAGE_SYNTH_DTYPE"],
    ["a scale of 0", { scale: 0 }, "USAGE_SYNTH_SCALE"],
    ["a scale above 1", { scale: 1.5 }, "USAGE_SYNTH_SCALE"],
    ["no number as scale", { scale: Number.NaN }, "USAGE_SYNTH_SCALE"],
  ])("%s", async (_, options, expected) => {
    expect(await code(synthesize(small, join(scratch, "never"), options))).toBe(expected);
  });

  test.each([
    ["no folder", undefined, "DONOR_NOT_FOUND"],
    ["no config.json", {}, "DONOR_CONFIG"],
    ["an unknown model type", { "config.json": { ...SMALL, model_type: "mamba" } }, "DONOR_CONFIG"],
    ["a missing width", { "config.json": { ...SMALL, hidden_size: undefined } }, "DONOR_CONFIG"],
    ["shapes that are none", { "config.json": SMALL, "tensor_shapes.json": { a: [1.5] } }, "DONOR_CONFIG"],
    [
      "an index of another model",
      { "config.json": SMALL, "model.safetensors.index.json": { weight_map: { a: "model.safetensors" } } },
      "DONOR_INDEX_MISMATCH",
    ],
  ])("%s", async (name, contents, expected) => {
    const folder = join(scratch, name.replaceAll(" ", "-"));
    if (contents !== undefined) {
      await fs.mkdir(folder);
      for (const [file, value] of Object.entries(contents))
        await fs.writeFile(join(folder, file), JSON.stringify(value));
    }
    expect(await code(synthesize(folder, join(scratch, "never")))).toBe(expected);
    expect(existsSync(join(scratch, "never.partial"))).toBe(false);
  });
});

function failingOpen(pattern: RegExp): typeof nodeFiles.open {
  return async (path, flags, mode) => {
    if (pattern.test(path)) throw Object.assign(new Error("no space left on device"), { code: "ENOSPC" });
    return nodeFiles.open(path, flags, mode);
  };
}
