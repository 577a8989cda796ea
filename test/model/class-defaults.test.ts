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
