import { describe, expect, test } from "vitest";
import { configFacts, DecoderStructure } from "../../dist/checkpoint/decoder-structure.js";
import { classifyTensor } from "../../dist/checkpoint/projections.js";

type Shapes = Record<string, readonly number[]>;

const tensor = (name: string, shape: readonly number[]) => ({
  name,
  dtype: "BF16",
  shape: [...shape],
  byteOffset: 0,
  byteLength: 0,
});

/**
 * Every tensor of a model by its name: `projection (kind)` with `ᵀ` where stored by input, or `- why` where carried.
 */
function plan(shapes: Shapes, config: object = {}): Record<string, string> {
  const structure = new DecoderStructure(
    Object.entries(shapes).map(([name, shape]) => tensor(name, shape)),
    configFacts(config),
  );
  return Object.fromEntries(
    Object.entries(shapes).map(([name, shape]) => {
      const { role, reason, projection, kind, target } = classifyTensor(tensor(name, shape), {}, structure);
      return [name, role === "carried" ? `- ${reason}` : `${projection} (${kind})${target?.storedByInput ? "ᵀ" : ""}`];
    }),
  );
}

describe("targets of one layer, family by family", () => {
  test("Mixtral: experts w1, w2, w3; the gate is their router", () => {
    const base = "model.layers.0.block_sparse_moe";
    expect(
      plan({
        [`${base}.experts.3.w1.weight`]: [48, 32],
        [`${base}.experts.3.w2.weight`]: [32, 48],
        [`${base}.gate.weight`]: [4, 32],
      }),
    ).toEqual({
      [`${base}.experts.3.w1.weight`]: "block_sparse_moe.experts.w1 (expert)",
      [`${base}.experts.3.w2.weight`]: "block_sparse_moe.experts.w2 (expert)",
      [`${base}.gate.weight`]: "- a router: it chooses or weighs experts",
    });
  });

  test.each([
    ["Phi-2", "model.layers.1.mlp.fc1.weight", "mlp.fc1 (MLP in)"],
    ["Phi-2", "model.layers.1.mlp.fc2.weight", "mlp.fc2 (MLP out)"],
    ["Phi-2", "model.layers.1.self_attn.dense.weight", "self_attn.dense (attention out)"],
    ["OPT", "model.decoder.layers.1.fc1.weight", "fc1 (MLP in)"],
    ["OPT", "model.decoder.layers.1.self_attn.out_proj.weight", "self_attn.out_proj (attention out)"],
    ["StarCoder2", "model.layers.1.mlp.c_fc.weight", "mlp.c_fc (MLP in)"],
    ["StarCoder2", "model.layers.1.mlp.c_proj.weight", "mlp.c_proj (MLP out)"],
    ["Qwen3-Next", "model.layers.1.linear_attn.in_proj_qkvz.weight", "linear_attn.in_proj_qkvz (linear attention)"],
    ["Qwen3.5", "model.layers.1.linear_attn.out_proj.weight", "linear_attn.out_proj (linear attention)"],
    ["DeepSeek", "model.layers.1.self_attn.q_a_proj.weight", "self_attn.q_a_proj (latent)"],
    ["DeepSeek", "model.layers.1.self_attn.kv_a_proj_with_mqa.weight", "self_attn.kv_a_proj_with_mqa (latent)"],
    ["DeepSeek", "model.layers.1.self_attn.kv_b_proj.weight", "self_attn.kv_b_proj (latent)"],
    ["LFM2", "model.layers.1.conv.in_proj.weight", "conv.in_proj (linear attention)"],
    ["LFM2", "model.layers.1.feed_forward.w2.weight", "feed_forward.w2 (MLP out)"],
    ["GPT-NeoX", "gpt_neox.layers.1.attention.query_key_value.weight", "attention.query_key_value (attention in)"],
    ["GPT-NeoX", "gpt_neox.layers.1.mlp.dense_4h_to_h.weight", "mlp.dense_4h_to_h (MLP out)"],
    ["Falcon", "transformer.h.1.self_attention.dense.weight", "self_attention.dense (attention out)"],
    ["BLOOM", "h.1.self_attention.query_key_value.weight", "self_attention.query_key_value (attention in)"],
    ["MPT", "transformer.blocks.1.attn.Wqkv.weight", "attn.Wqkv (attention in)"],
    ["T5", "decoder.block.1.layer.2.DenseReluDense.wo.weight", "layer.DenseReluDense.wo (MLP out)"],
    ["PEFT", "base_model.model.model.layers.1.self_attn.q_proj.base_layer.weight", "self_attn.q_proj (attention in)"],
    ["torch.compile", "_orig_mod.model.layers.1.self_attn.q_proj.weight", "self_attn.q_proj (attention in)"],
    ["wrapper", "language_model.model.layers.1.mlp.up_proj.weight", "mlp.up_proj (MLP in)"],
    ["Nemotron-H", "backbone.layers.1.mixer.in_proj.weight", "mixer.in_proj (linear attention)"],
    ["GraniteMoE", "model.layers.1.block_sparse_moe.input_linear.weight", "block_sparse_moe.input_linear (expert)"],
  ])("%s: %s", (_family, name, expected) => {
    expect(plan({ [name]: [48, 32] })[name]).toBe(expected);
  });

  test.each([
    ["model.layers.1.conv.conv.weight", [32, 1, 3], /convolution/],
    ["model.layers.1.linear_attn.conv1d.weight", [64, 1, 4], /convolution/],
    ["model.layers.1.time_mix.shift.weight", [64, 1, 4], /convolution/],
    ["model.layers.1.mlp.router.weight", [4, 32], /router/],
    ["model.layers.1.block_sparse_moe.router.layer.weight", [4, 32], /router/],
    ["model.layers.1.mlp.shared_expert_gate.weight", [1, 32], /router/],
    ["model.layers.1.self_attn.q_norm.weight", [4, 16], /norm/],
    ["model.layers.1.mixer.A_log", [64, 16], /parameter/],
    ["model.layers.1.mlp.experts.down_proj_bias", [4, 32], /bias/],
    ["decoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight", [32, 4], /embedding/],
    ["model.layers.1.self_attn.q_proj.lora_A.default.weight", [8, 32], /adapter/],
    ["visual.blocks.1.attn.qkv.weight", [96, 32], /vision/],
    ["vpm.encoder.layers.1.self_attn.q_proj.weight", [32, 32], /vision/],
    ["talker.model.layers.1.mlp.up_proj.weight", [48, 32], /audio/],
    ["mtp.layers.0.mlp.up_proj.weight", [48, 32], /draft/],
    ["eagle.layers.0.mlp.up_proj.weight", [48, 32], /draft/],
  ])("%s stays", (name, shape, why) => {
    expect(plan({ [name]: shape })[name]).toMatch(why);
  });

  test("a gate without experts beside it is a matrix", () => {
    const shapes = { "rwkv.blocks.0.attention.gate.weight": [32, 32], "rwkv.blocks.0.attention.key.weight": [32, 32] };
    expect(plan(shapes)["rwkv.blocks.0.attention.gate.weight"]).toMatch(/^attention\.gate \(/);
  });
});

describe("draft layers", () => {
  const layer = (n: number): Shapes => ({ [`model.layers.${n}.mlp.up_proj.weight`]: [48, 32] });

  test("an extra layer after the last, by what only it holds", () => {
    const found = plan({ ...layer(0), ...layer(1), "model.layers.1.eh_proj.weight": [32, 64] });
    expect(found["model.layers.0.mlp.up_proj.weight"]).toBe("mlp.up_proj (MLP in)");
    expect(found["model.layers.1.mlp.up_proj.weight"]).toMatch(/draft head/);
    expect(found["model.layers.1.eh_proj.weight"]).toMatch(/draft head/);
  });

  test("an extra layer after the last, by config.json", () => {
    expect(plan({ ...layer(0), ...layer(1) }, { num_hidden_layers: 1 })["model.layers.1.mlp.up_proj.weight"]).toMatch(
      /after the last/,
    );
    const nested = { num_hidden_layers: 9, text_config: { num_hidden_layers: 1 } };
    expect(plan({ ...layer(0), ...layer(1) }, nested)["model.layers.1.mlp.up_proj.weight"]).toMatch(/after the last/);
  });

  test("of an encoder-decoder, one number counts the encoder's layers", () => {
    const config = { num_hidden_layers: 1, is_encoder_decoder: true };
    expect(plan(layer(1), config)["model.layers.1.mlp.up_proj.weight"]).toBe("mlp.up_proj (MLP in)");
  });
});

describe("matrices stored (inputs, outputs)", () => {
  const gpt2: Shapes = {
    "h.0.attn.c_attn.weight": [32, 96],
    "h.0.attn.c_attn.bias": [96],
    "h.0.attn.c_proj.weight": [32, 32],
    "h.0.attn.c_proj.bias": [32],
  };

  test("GPT-2, by its biases and by its configuration", () => {
    expect(plan(gpt2)).toMatchObject({
      "h.0.attn.c_attn.weight": "attn.c_attn (attention in)ᵀ",
      "h.0.attn.c_proj.weight": "attn.c_proj (attention out)ᵀ",
    });
    expect(plan({ "h.0.attn.c_proj.weight": [32, 32] }, { model_type: "gpt2" })).toEqual({
      "h.0.attn.c_proj.weight": "attn.c_proj (attention out)ᵀ",
    });
  });

  test("GPT-BigCode uses the same names the other way round", () => {
    const found = plan({ ...gpt2, "h.0.attn.c_attn.weight": [40, 32], "h.0.attn.c_attn.bias": [40] });
    expect(found["h.0.attn.c_attn.weight"]).toBe("attn.c_attn (attention in)");
    expect(found["h.0.attn.c_proj.weight"]).toBe("attn.c_proj (attention out)");
  });

  test.each([
    ["gpt_oss", [4, 32, 96], [4, 48, 32], "ᵀ"],
    ["unknown_moe", [4, 32, 96], [4, 48, 32], "ᵀ"],
    ["qwen3_moe", [4, 96, 32], [4, 32, 48], ""],
  ])("expert stacks of %s", (model_type, up, down, mark) => {
    const base = "model.layers.0.mlp.experts";
    expect(
      plan({ [`${base}.gate_up_proj`]: up, [`${base}.down_proj`]: down }, { model_type, hidden_size: 32 }),
    ).toEqual({
      [`${base}.gate_up_proj`]: `mlp.experts.gate_up_proj (expert)${mark}`,
      [`${base}.down_proj`]: `mlp.experts.down_proj (expert)${mark}`,
    });
  });
});

test.each([null, 7, [], { text_config: null }, { num_hidden_layers: "4", hidden_size: -1, model_type: 3 }])(
  "a configuration like %j says nothing and breaks nothing",
  (config) => {
    expect(configFacts(config)).toEqual({
      modelType: undefined,
      layerCount: undefined,
      hiddenSize: undefined,
      quantMethod: undefined,
    });
  },
);

describe("what is named as no matrix and shaped as one stays, and is counted", () => {
  test.each([
    ["model.layers.0.self_attn.layernorm_qkv.weight", "named as a norm, and no vector", true],
    ["model.layers.0.self_attn.relative_attention_bias.weight", "an embedding", true],
    ["model.layers.0.self_attn.q_norm.weight", "a norm", false],
    ["model.layers.0.ln_1.weight", "a norm", false],
  ])("%s", (name, reason, inDecoder) => {
    expect(classifyTensor(tensor(name, [96, 32]))).toMatchObject({ role: "carried", reason, inDecoder });
  });

  test("a vector is none", () => {
    expect(classifyTensor(tensor("model.layers.0.self_attn.layernorm_qkv.weight", [32])).inDecoder).toBe(false);
  });
});
