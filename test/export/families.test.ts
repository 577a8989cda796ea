import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { exportGguf } from "../../dist/export/gguf/export.js";
import { rebuildFamilyConfig } from "../../dist/export/gguf/family-config.js";
import { importGguf } from "../../dist/export/gguf/import.js";
import { type GgufFile, readGguf } from "../../dist/export/gguf/reader.js";
import type { GgufValue } from "../../dist/export/gguf/types.js";
import { ModelConfig } from "../../dist/model/config.js";
import { architectureOf } from "../../dist/model/families/registry.js";
import { memorySource } from "../../dist/safetensors/source.js";
import { SHARED } from "../shared.js";
import { weightsOf } from "./weights-of.js";

const oracle = join(SHARED, "oracle");
const scratch = mkdtempSync(join(tmpdir(), "physarium-families-"));
afterAll(() => rmSync(scratch, { recursive: true }));
if (!existsSync(oracle)) console.log("skipped: the models of ../shared/oracle are not there");

/** What llama.cpp has no word for, in the oracle's models, and the reason that the refusal gives. */
const REFUSED: Readonly<Record<string, string>> = {
  cohere2: "takes the embedding for the output matrix",
  exaone4: "sliding windows in 4 layers",
  gemma3_bidir: "use_bidirectional_attention",
  opt: "llama.cpp does not know it",
  qwen3_moe: "norm_topk_prob",
};
/** Models whose metadata does not say everything: an import wants the config.json that our own files carry. */
const NEEDS_CONFIG = ["deepseek_v3", "gpt_oss"];

const names = !existsSync(oracle)
  ? []
  : readdirSync(oracle, { withFileTypes: true })
      .filter((entry) => entry.isDirectory())
      .map(({ name }) => name);

/** What a rebuilt configuration makes of a model, but for what no forward pass looks at. */
const functionOf = (config: string | Uint8Array): unknown =>
  JSON.parse(JSON.stringify(architectureOf(ModelConfig.parse(config))));

describe("models of the oracle through GGUF and back", () => {
  it.each(names.filter((name) => !(name in REFUSED)))("%s: the same tensors, the same function", async (name) => {
    const donor = join(oracle, name);
    const path = join(scratch, `${name}.gguf`);
    const { architecture } = await exportGguf(donor, path, { type: "F32" });
    const folder = join(scratch, name);
    await importGguf(path, folder, { dtype: "F32" });
    const before = await weightsOf(donor);
    const after = await weightsOf(folder);
    const tied = [...before.keys()].filter((tensor) => !after.has(tensor));
    expect(
      tied.every((tensor) => tensor.includes("lm_head") || tensor.endsWith("attn.bias")),
      `${tied}`,
    ).toBe(true);
    for (const [tensor, weights] of after) {
      const other = before.get(tensor);
      expect(other?.length, tensor).toBe(weights.length);
      const different = weights.findIndex((weight, at) => weight !== other![at]);
      // 1 + weight rounds once in F32 where a norm is stored so.
      if (different !== -1) expect(Math.abs(weights[different] - other![different]), tensor).toBeLessThan(2.5e-7);
    }
    const wanted = functionOf(readFileSync(join(donor, "config.json")));
    expect(functionOf(readFileSync(join(folder, "config.json")))).toEqual(wanted);
    // A file of llama.cpp's own converter carries no config.json: its metadata alone must say as much.
    const bytes = new Uint8Array(readFileSync(path));
    const file = await readGguf(memorySource(bytes), path);
    if (architecture === "gemma4") {
      expect(() => rebuildFamilyConfig(file, {}, "float32", name)).toThrow("only files that carry config.json");
      return;
    }
    const rebuilt = rebuildFamilyConfig(file, {}, "float32", name);
    if (rebuilt !== undefined && !NEEDS_CONFIG.includes(name)) {
      expect(functionOf(JSON.stringify(rebuilt))).toEqual(wanted);
      expect(architecture).toBeTruthy();
    }
  });

  it.each(Object.entries(REFUSED).filter(([name]) => names.includes(name)))("%s is refused: %s", async (name, why) => {
    const path = join(scratch, `${name}.gguf`);
    await expect(exportGguf(join(oracle, name), path, { type: "F32" })).rejects.toThrow(why);
    expect(existsSync(path)).toBe(false);
  });
});

it.each([
  [undefined, "olmo2"],
  [4096, "olmo3"],
])("llama.cpp's olmo2 with a window of %s is %s", (window, modelType) => {
  const u32 = { embedding_length: 64, block_count: 4, feed_forward_length: 96, context_length: 512 };
  const numbers = { ...u32, "attention.head_count": 4, ...(window && { "attention.sliding_window": window }) };
  const metadata = new Map<string, GgufValue>([["general.architecture", { type: "string", value: "olmo2" }]]);
  for (const [key, value] of Object.entries(numbers)) metadata.set(`olmo2.${key}`, { type: "u32", value });
  const file = { metadata, tensors: [{ name: "token_embd.weight", shape: [100, 64] }] } as unknown as GgufFile;
  const rebuilt = rebuildFamilyConfig(file, {}, "float32", "x.gguf");
  expect([rebuilt?.model_type, rebuilt?.sliding_window]).toEqual([modelType, window]);
});
