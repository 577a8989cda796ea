import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { ModelConfig } from "../../dist/model/config.js";
import { architectureOf, KNOWN_MODEL_TYPES } from "../../dist/model/families/registry.js";

/**
 * What the reference's configurations hold by default, a line for each model type: `to_dict()` of transformers 5.24
 * without what no function depends on (ids of special tokens, dropout, labels).
 */
const DEFAULTS = JSON.parse(readFileSync("test/fixtures/class-defaults.json", "utf8")) as Record<string, object>;

function architecture(model_type: string, fields: object): string {
  return JSON.stringify(architectureOf(ModelConfig.parse(JSON.stringify({ ...fields, model_type }))));
}

describe("a field that config.json leaves out is what the reference's class takes", () => {
  for (const [modelType, fields] of Object.entries(DEFAULTS)) {
    test(modelType, () => {
      const whole = architecture(modelType, fields);
      for (const field of Object.keys(fields)) {
        const { [field]: _, ...rest } = fields as Record<string, unknown>;
        expect(architecture(modelType, rest), field).toBe(whole);
      }
      expect(architecture(modelType, {})).toBe(whole);
    });
  }

  test("every model type that runs forward is among them", () => {
    expect(Object.keys(DEFAULTS).sort()).toEqual([...KNOWN_MODEL_TYPES].sort());
  });
});

test("a sliding window counts where the class of the reference reads it", () => {
  const windowed = Object.keys(DEFAULTS).filter((modelType) => {
    const fields = { ...DEFAULTS[modelType], sliding_window: 7, use_sliding_window: true, max_window_layers: 1 };
    const { layers } = architectureOf(ModelConfig.parse(JSON.stringify({ ...fields, model_type: modelType })));
    return layers.some(({ slidingWindow }) => slidingWindow === 7);
  });
  expect(windowed).toEqual([
    ...["cohere2", "exaone4", "gemma2", "gemma3_text", "gemma3n_text", "gemma4_text", "gpt_oss", "ministral"],
    ...["ministral3", "mistral", "mixtral", "olmo3", "phi3", "phimoe", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe"],
    ...["smollm3", "starcoder2"],
  ]);
});

test("Gemma 3 has no cap on its scores, whatever the file says; Gemma 2 has", () => {
  const cap = (modelType: string) =>
    architectureOf(
      ModelConfig.parse(JSON.stringify({ ...DEFAULTS[modelType], attn_logit_softcapping: 2, model_type: modelType })),
    ).attentionSoftcap;
  expect([cap("gemma2"), cap("gemma3_text")]).toEqual([2, undefined]);
});

test("a rope that the file describes takes nothing from the class's own", () => {
  const rope = (fields: object) => {
    const whole = { ...DEFAULTS.gpt_oss, rope_scaling: undefined, rope_parameters: undefined, ...fields };
    const { layers } = architectureOf(ModelConfig.parse(JSON.stringify({ ...whole, model_type: "gpt_oss" })));
    return [...layers[0].rope!.inverseFrequencies];
  };
  const yarn = { rope_type: "yarn", rope_theta: 150_000, factor: 4, original_max_position_embeddings: 4096 };
  const plain = Array.from({ length: 32 }, (_, pair) => 150_000 ** (-pair / 32));
  expect(rope({ rope_parameters: { rope_type: "default", rope_theta: 150_000 } })).toEqual(plain);
  expect(rope({ rope_parameters: yarn })[31]).toBeCloseTo(plain[31] / 4, 12);
  expect(rope({ rope_parameters: yarn })).toEqual(rope({ rope_scaling: yarn }));
  expect(rope({})[31]).toBeCloseTo(plain[31] / 32, 12);
});
