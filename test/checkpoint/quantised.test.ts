import { describe, expect, test } from "vitest";
import { refuseQuantised } from "../../dist/checkpoint/quantised.js";

const donor = (...tensors: [name: string, dtype: string, shape: number[]][]) =>
  tensors.map(([name, dtype, shape]) => ({
    info: { name, dtype, shape, byteOffset: 0, byteLength: 0 },
    shard: "model.safetensors",
  }));

describe("quantised tensors are known by what they are", () => {
  const expert = "model.layers.0.block_sparse_moe.experts.0.w1";
  test.each([
    ["Mixtral's experts in GPTQ", donor([`${expert}.qweight`, "I32", [4, 48]], [`${expert}.scales`, "F16", [1, 48]])],
    ["compressed-tensors", donor([`${expert}.weight_packed`, "I32", [48, 4]])],
    [
      "FP8 with scales",
      donor([`${expert}.weight`, "F8_E4M3", [48, 32]], [`${expert}.weight_scale_inv`, "F32", [1, 1]]),
    ],
    ["int8 without a scale in sight", donor([`${expert}.weight`, "I8", [48, 32]])],
    ["EXL3", donor(["model.layers.0.mlp.up_proj.trellis", "I16", [2, 2, 48]])],
    ["HQQ", donor(["model.layers.0.mlp.up_proj.W_q", "U8", [24, 32]], ["model.layers.0.mlp.up_proj.meta", "F16", [2]])],
    ["TorchAO", donor(["model.layers.0.mlp.up_proj._weight_qdata", "I8", [48, 32]])],
    ["MXFP4", donor(["model.layers.0.mlp.experts.gate_up_proj_blocks", "U8", [4, 96, 1, 16]])],
    [
      "MLX",
      donor(
        ["model.layers.0.mlp.up_proj.weight", "U32", [48, 4]],
        ["model.layers.0.mlp.up_proj.scales", "F16", [48, 1]],
      ),
    ],
    ["bitsandbytes", donor(["model.layers.0.mlp.up_proj.weight.quant_state.bitsandbytes__nf4", "U8", [99]])],
    ["a family nobody knows", donor(["net.stage.5.mix.qweight", "I32", [4, 48]])],
    [
      "scales beside codes, a family nobody knows",
      donor(["net.stage.5.mix.weight", "U8", [4, 48]], ["net.stage.5.mix.weight_scale", "F32", [4]]),
    ],
  ])("%s", (_scheme, tensors) => {
    expect(() => refuseQuantised(tensors)).toThrow(expect.objectContaining({ code: "DONOR_QUANTISED" }));
  });

  test("float models with masks, indices and scales of their own pass", () => {
    refuseQuantised(
      donor(
        ["transformer.h.0.attn.bias", "BOOL", [1, 1, 64, 64]],
        ["transformer.h.0.attn.masked_bias", "F32", []],
        ["model.embed.position_ids", "I64", [1, 64]],
        ["model.layers.0.layer_scalar", "F32", [1]],
        ["model.layers.0.mlp.up_proj.weight", "BF16", [48, 32]],
      ),
    );
  });
});
