import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { verify } from "../../dist/audit/verify.js";
import { openDonor } from "../../dist/checkpoint/donor.js";
import { evaluate } from "../../dist/probe/evaluate.js";
import { LayerRunner } from "../../dist/probe/forward/layer-runner.js";
import { checkOptions } from "../../dist/surgery/options.js";
import { planSurgery } from "../../dist/surgery/plan.js";
import { byteTokenizer } from "../export/random-donor.js";
import { operateOn } from "../surgery/operate.js";
import { hasEngine } from "./engine-present.js";
import { temporaryFolder, writeRandomModel } from "./tiny-model.js";

const H = 32;
const COPIES = 3;
const PER_LAYER = 8;
const SIZES = [48, 48, 48, 48, 64, 48];
const CONFIG = {
  model_type: "gemma3n_text",
  vocab_size: 256,
  vocab_size_per_layer_input: 256,
  hidden_size: H,
  hidden_size_per_layer_input: PER_LAYER,
  intermediate_size: SIZES,
  num_hidden_layers: SIZES.length,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  head_dim: 16,
  num_kv_shared_layers: 2,
  layer_types: SIZES.map((_, layer) => (layer % 2 === 0 ? "sliding_attention" : "full_attention")),
  sliding_window: 5,
  activation_sparsity_pattern: [0.9, 0.5, 0, 0, 0, 0],
  altup_num_inputs: COPIES,
  altup_active_idx: 0,
  altup_correct_scale: true,
  altup_coef_clip: 120,
  laurel_rank: 4,
  final_logit_softcapping: 3,
  max_position_embeddings: 128,
  rms_norm_eps: 1e-6,
  rope_theta: 1e6,
  rope_local_base_freq: 1e4,
  tie_word_embeddings: true,
};

function tensors(): { name: string; shape: number[] }[] {
  const layers = SIZES.length;
  const list: { name: string; shape: number[] }[] = [];
  const add = (name: string, ...shape: number[]) => list.push({ name: `model.${name}`, shape });
  add("embed_tokens.weight", 256, H);
  add("embed_tokens_per_layer.weight", 256, layers * PER_LAYER);
  add("per_layer_model_projection.weight", layers * PER_LAYER, H);
  add("per_layer_projection_norm.weight", PER_LAYER);
  add("norm.weight", H);
  for (let copy = 0; copy < COPIES - 1; copy++) {
    add(`altup_projections.${copy}.weight`, H, H);
    add(`altup_unembed_projections.${copy}.weight`, H, H);
  }
  SIZES.forEach((size, layer) => {
    const own = (name: string, ...shape: number[]) => add(`layers.${layer}.${name}`, ...shape);
    for (const norm of ["input", "post_attention", "pre_feedforward", "post_feedforward"])
      own(`${norm}_layernorm.weight`, H);
    own("post_per_layer_input_norm.weight", H);
    own("altup.correct_output_scale", H);
    own("altup.correction_coefs.weight", COPIES, COPIES);
    own("altup.prediction_coefs.weight", COPIES * COPIES, COPIES);
    own("altup.modality_router.weight", COPIES, H);
    own("altup.router_norm.weight", H);
    own("laurel.linear_left.weight", 4, H);
    own("laurel.linear_right.weight", H, 4);
    own("laurel.post_laurel_norm.weight", H);
    own("per_layer_input_gate.weight", PER_LAYER, H);
    own("per_layer_projection.weight", H, PER_LAYER);
    own("self_attn.q_proj.weight", 64, H);
    own("self_attn.k_proj.weight", 32, H);
    own("self_attn.v_proj.weight", 32, H);
    own("self_attn.o_proj.weight", H, 64);
    own("self_attn.q_norm.weight", 16);
    own("self_attn.k_norm.weight", 16);
    own("mlp.gate_proj.weight", size, H);
    own("mlp.up_proj.weight", size, H);
    own("mlp.down_proj.weight", H, size);
  });
  return list;
}

/** A small random Gemma 3n: copies of the stream, detours of low rank, shared keys, gates that hear what stands out. */
function writeModel(): string {
  const folder = writeRandomModel(temporaryFolder(), CONFIG, tensors(), "F32");
  writeFileSync(join(folder, "tokenizer.json"), JSON.stringify(byteTokenizer()));
  writeFileSync(join(folder, "tokenizer_config.json"), "{}");
  writeFileSync(join(folder, "text.txt"), TEXT);
  return folder;
}

const TEXT = "The mould that lived in a wood knew every way to the oats, and 27 more. ".repeat(4);
/** Of transformers 5.24 on this folder, eager attention, f32, over the first four windows of 64 tokens. */
const REFERENCE_NLL = 5.690452800992646;

describe.skipIf(!hasEngine)("Gemma 3n", () => {
  const folder = writeModel();

  test("gives the number of the reference", async () => {
    const { quality } = await evaluate(folder, join(folder, "text.txt"), { window: 64, limit: 4 });
    expect(Math.abs(quality.model.mean_nll - REFERENCE_NLL)).toBeLessThan(1e-5);
  });

  test("tokens one by one give what all at once give", async () => {
    const runner = await LayerRunner.open(folder);
    try {
      const tokens = [...Buffer.from(TEXT)].slice(0, 20);
      const { data: whole } = await runner.logits(await runner.forward(await runner.embed([tokens])));
      let { cache } = await runner.extend([tokens.slice(0, 8)]);
      for (let place = 8; place < tokens.length; place++) {
        const next = await runner.extend([[tokens[place]]], cache);
        cache = next.cache;
        const { data } = await runner.logits(next.residual);
        for (let id = 0; id < 256; id++) expect(Math.abs(data[id] - whole[place * 256 + id])).toBeLessThan(1e-3);
      }
    } finally {
      await runner.close();
    }
  });

  test("v2 leaves the detours beside its steps, says so, and operates on the rest", async () => {
    const output = join(temporaryFolder(), "half");
    const options = { flow: "activation", targetSparsity: 0.5, calibration: join(folder, "text.txt") } as const;
    const { report } = await operateOn(folder, output, { ...options, samples: 4, window: 32, workers: 0 });
    const stay = report.decoder!.untouched.filter(({ why }) => why.includes("beside the steps"));
    expect(stay.map(({ pattern }) => pattern.replace(/^.*layers\.N\./, "")).sort()).toEqual([
      "laurel.linear_left.weight",
      "laurel.linear_right.weight",
      "per_layer_input_gate.weight",
      "per_layer_projection.weight",
    ]);
    expect(report.totals.killed_of_target).toBeCloseTo(0.5, 2);
    const { differences } = await verify(output, { donorPath: folder, parity: "full", workers: 0 });
    expect(differences).toEqual([]);
    // The data-free flows need no inputs: there they are targets.
    const { decoder } = planSurgery(await openDonor(folder), checkOptions({}));
    expect(decoder.untouched.some(({ why }) => why.includes("beside the steps"))).toBe(false);
  });
});
