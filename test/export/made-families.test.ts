import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { exportGguf } from "../../dist/export/gguf/export.js";
import { importGguf } from "../../dist/export/gguf/import.js";
import { ModelConfig } from "../../dist/model/config.js";
import { architectureOf } from "../../dist/model/families/registry.js";
import { evaluate } from "../../dist/probe/evaluate.js";
import { hasEngine } from "../probe/engine-present.js";
import { temporaryFolder } from "../temporary.js";
import { writeFamilyDonor } from "./family-donor.js";
import { openLlama, openModel } from "./llama-cpp.js";
import { smallConfig } from "./random-donor.js";
import { weightsOf } from "./weights-of.js";

const folder = temporaryFolder();
const text = join(import.meta.dirname, "../../examples/texts/loam-stories.txt");
const llama = await openLlama();

const EXPERTS = { num_experts: 4, num_experts_per_tok: 2, moe_intermediate_size: 48, norm_topk_prob: true };
const LINEAR = {
  head_dim: 16,
  num_hidden_layers: 4,
  linear_num_key_heads: 2,
  linear_num_value_heads: 6,
  linear_key_head_dim: 16,
  linear_value_head_dim: 16,
  shared_expert_intermediate_size: 48,
};
const YARN = { rope_type: "yarn", rope_theta: 1e6, factor: 16, original_max_position_embeddings: 32 };

/** A model of each architecture that needs more than names. */
const MADE: readonly [string, Record<string, unknown>][] = [
  ["apertus", smallConfig("apertus", { hidden_act: "xielu" })],
  [
    "gemma4_text",
    smallConfig("gemma4_text", {
      num_hidden_layers: 7,
      head_dim: 16,
      global_head_dim: 32,
      sliding_window: 24,
      layer_types: [0, 1, 2, 3, 4, 5, 6].map((layer) =>
        layer === 3 || layer === 6 ? "full_attention" : "sliding_attention",
      ),
      hidden_size_per_layer_input: 8,
      vocab_size_per_layer_input: 256,
      num_kv_shared_layers: 3,
      use_double_wide_mlp: true,
      final_logit_softcapping: 30,
    }),
  ],
  ["glm", smallConfig("glm", { head_dim: 16 })],
  ["helium", smallConfig("helium", { head_dim: 16 })],
  ["ministral", smallConfig("ministral", { head_dim: 16, sliding_window: null })],
  [
    "ministral3",
    smallConfig("ministral3", {
      head_dim: 16,
      max_position_embeddings: 512,
      rope_parameters: {
        ...YARN,
        beta_fast: 24,
        beta_slow: 2,
        mscale: 1,
        mscale_all_dim: 1,
        llama_4_scaling_beta: 0.1,
      },
    }),
  ],
  [
    "llama4_text",
    smallConfig("llama4_text", {
      num_hidden_layers: 4,
      head_dim: 16,
      num_local_experts: 2,
      interleave_moe_layer_step: 2,
      intermediate_size_mlp: 64,
    }),
  ],
  ["qwen3_next", smallConfig("qwen3_next", { ...LINEAR, ...EXPERTS })],
  ["qwen3_5_text", smallConfig("qwen3_5_text", LINEAR)],
  ["qwen3_5_moe_text", smallConfig("qwen3_5_moe_text", { ...LINEAR, ...EXPERTS })],
  [
    "gemma3 with a head of its own",
    smallConfig("gemma3_text", { head_dim: 16, query_pre_attn_scalar: 16, sliding_window: 64 }),
  ],
  [
    "phi3 with longrope",
    smallConfig("phi3", {
      original_max_position_embeddings: 256,
      max_position_embeddings: 1024,
      rope_scaling: {
        type: "longrope",
        short_factor: [1, 1.1, 1.2, 1.3, 1.5, 1.7, 2, 2.5],
        long_factor: [1, 2, 3, 4, 5, 6, 8, 10],
      },
    }),
  ],
];

const functionOf = (folder: string): unknown =>
  JSON.parse(JSON.stringify(architectureOf(ModelConfig.parse(readFileSync(join(folder, "config.json"))))));

describe.each(MADE)("%s", (name, config) => {
  const donor = writeFamilyDonor(join(folder, name), config);
  const path = join(folder, `${name}.gguf`);

  it("comes back from GGUF as it went", async () => {
    await exportGguf(donor, path, { type: "F32", overwrite: true });
    const back = join(folder, `${name} again`);
    await importGguf(path, back, { dtype: "F32" });
    const [before, after] = [await weightsOf(donor), await weightsOf(back)];
    expect([...after.keys()].sort()).toEqual([...before.keys()].sort());
    for (const [tensor, weights] of after) {
      const apart = weights.reduce((most, weight, at) => Math.max(most, Math.abs(weight - before.get(tensor)![at])), 0);
      // 1 + weight and −exp(weight) round once in F32.
      expect(apart, tensor).toBeLessThan(3e-7);
    }
    expect(functionOf(back)).toEqual(functionOf(donor));
  });

  it.runIf(hasEngine && llama !== undefined)("llama.cpp computes what we compute", async () => {
    await exportGguf(donor, path, { type: "F32", overwrite: true });
    for (const window of name === "phi3 with longrope" ? [128, 512] : [128]) {
      const ours = (await evaluate(donor, text, { window, limit: 1 })).quality.model.mean_nll;
      const model = await openModel(llama!, path, window);
      const nll = await model.nll(model.tokenize(readFileSync(text, "utf8").slice(0, 4000)).slice(0, window));
      await model.close();
      const theirs = nll.reduce((sum, each) => sum + each, 0) / nll.length;
      // 0.02 % of perplexity; GELU comes from a table of F16 there.
      expect(Math.abs(theirs - ours)).toBeLessThan(2e-4);
    }
  });
});

if (llama === undefined) console.log("skipped: llama.cpp, node-llama-cpp is not installed");

it("layers of Gemma 4 whose keys llama.cpp would take elsewhere are refused", async () => {
  const [, gemma] = MADE.find(([name]) => name === "gemma4_text")!;
  const donor = writeFamilyDonor(join(folder, "fitting"), gemma);
  writeFileSync(join(donor, "config.json"), JSON.stringify({ ...gemma, num_kv_shared_layers: 2 }));
  await expect(exportGguf(donor, join(folder, "shared.gguf"), { type: "F32" })).rejects.toThrow(
    "keys shared from layer 5 on: llama.cpp's gemma4 cannot say that",
  );
});
