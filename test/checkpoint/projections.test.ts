import { describe, expect, test } from "vitest";
import { classifyTensor } from "../../dist/checkpoint/projections.js";

const classify = (name: string, shape = [8, 8], dtype = "BF16", choice = {}) =>
  classifyTensor({ name, dtype, shape, byteOffset: 0, byteLength: 0 }, choice);

describe("targets by name and shape", () => {
  test.each([
    ["model.layers.0.self_attn.q_proj.weight", 0, "self_attn.q_proj"],
    ["model.layers.12.mlp.down_proj.weight", 12, "mlp.down_proj"],
    ["layers.3.mlp.up_proj.weight", 3, "mlp.up_proj"],
    ["language_model.model.layers.7.self_attn.o_proj.weight", 7, "self_attn.o_proj"],
    ["model.language_model.layers.7.mlp.gate_proj.weight", 7, "mlp.gate_proj"],
    ["model.layers.1.self_attn.qkv_proj.weight", 1, "self_attn.qkv_proj"],
    ["model.layers.1.mlp.gate_up_proj.weight", 1, "mlp.gate_up_proj"],
    ["model.layers.5.mlp.experts.37.gate_proj.weight", 5, "mlp.experts.gate_proj"],
    ["model.layers.5.mlp.shared_expert.up_proj.weight", 5, "mlp.shared_expert.up_proj"],
  ])("%s", (name, layer, projection) => {
    expect(classify(name)).toMatchObject({
      role: "target",
      layer,
      projection,
      target: { matrixCount: 1, rows: 8, cols: 8 },
    });
  });

  test("fused experts are a stack of matrices", () => {
    expect(classify("model.layers.2.mlp.experts.gate_up_proj", [16, 32, 64])).toMatchObject({
      role: "target",
      projection: "mlp.experts.gate_up_proj",
      target: { matrixCount: 16, rows: 32, cols: 64 },
    });
  });
});

describe("carried over", () => {
  test.each([
    ["model.embed_tokens.weight"],
    ["lm_head.weight"],
    ["model.norm.weight"],
    ["model.layers.0.input_layernorm.weight"],
    ["model.layers.0.mlp.gate.weight"],
    ["model.layers.0.mlp.router.weight"],
    ["model.layers.0.mlp.shared_expert_gate.weight"],
    ["model.layers.0.self_attn.q_proj.bias"],
    ["model.layers.0.self_attn.q_proj.lora_A.weight"],
    ["vision_tower.encoder.layers.0.self_attn.q_proj.weight"],
    ["model.visual.layers.0.mlp.up_proj.weight"],
    ["audio_tower.layers.3.self_attn.k_proj.weight"],
    ["my_layers.0.mlp.up_proj.weight"],
  ])("%s", (name) => {
    const { role, reason } = classify(name);
    expect(role).toBe("carried");
    expect(reason).not.toBe("");
  });

  test.each([
    [[8], /1 dimensions/],
    [[2, 2, 2, 2], /4 dimensions/],
    [[0, 8], /empty/],
  ])("shape %j says why", (shape, reason) => {
    expect(classify("model.layers.0.mlp.up_proj.weight", shape).reason).toMatch(reason);
  });

  test("integers say why", () => {
    expect(classify("model.layers.0.mlp.up_proj.weight", [8, 8], "I32").reason).toMatch(/dtype I32/);
  });
});

describe("--include and --exclude", () => {
  test("include replaces the choice", () => {
    const choice = { include: /embed_tokens|layers\.0\.mlp\.up_proj/u };
    expect(classify("model.embed_tokens.weight", [8, 8], "F16", choice).role).toBe("target");
    expect(classify("model.layers.0.mlp.up_proj.weight", [8, 8], "F16", choice).role).toBe("target");
    expect(classify("model.layers.1.mlp.up_proj.weight", [8, 8], "F16", choice)).toMatchObject({
      role: "carried",
      reason: "not matched by --include",
    });
  });

  test("exclude takes away, from both", () => {
    const choice = { include: /proj/u, exclude: /down/u };
    expect(classify("model.layers.0.mlp.down_proj.weight", [8, 8], "F16", choice)).toMatchObject({
      role: "carried",
      reason: "matched by --exclude",
    });
    expect(classify("model.layers.0.mlp.up_proj.weight", [8, 8], "F16", choice).role).toBe("target");
  });
});
