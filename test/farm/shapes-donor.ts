import { closeSync, ftruncateSync, mkdirSync, openSync, writeFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import { layoutTensors } from "../../dist/export/gguf/layout.js";
import { parseModelConfig } from "../../dist/export/model-config.js";
import { serializeHeader } from "../../dist/safetensors/writer.js";

/** The numbers of Qwen2.5-7B: 339 tensors, 7,615,616,512 weights. */
export const SEVEN_BILLION = {
  architectures: ["Qwen2ForCausalLM"],
  model_type: "qwen2",
  hidden_size: 3584,
  intermediate_size: 18944,
  num_hidden_layers: 28,
  num_attention_heads: 28,
  num_key_value_heads: 4,
  vocab_size: 152064,
  max_position_embeddings: 32768,
  rms_norm_eps: 1e-6,
  rope_theta: 1000000,
  hidden_act: "silu",
  tie_word_embeddings: false,
};

/**
 * A donor of a configuration's exact shapes, BF16, whose weights are holes in one file: as long as a real one, on no
 * disk space.
 */
export function holeyDonor(config: object, output: string): string {
  mkdirSync(output, { recursive: true });
  const text = JSON.stringify(config);
  writeFileSync(join(output, "config.json"), text);
  const isBias = (name: string): boolean => /\.(q|k|v)_proj\.bias$/.test(name);
  const tensors = layoutTensors(parseModelConfig(text, "config.json"))
    .filter(({ name, optional }) => !optional || isBias(name) || name === "lm_head.weight")
    .map(({ name, shape }) => ({ name, shape, dtype: "BF16" }));
  const { bytes, fileByteLength } = serializeHeader(tensors);
  const file = openSync(join(output, "model.safetensors"), "w");
  writeSync(file, bytes);
  ftruncateSync(file, fileByteLength);
  closeSync(file);
  return output;
}
