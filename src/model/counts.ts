import { PhysariumError } from "../errors.js";
import type { ModelConfig } from "./config.js";

/** What is needed of a tensor to bound a configuration. */
export interface ShapedTensor {
  readonly name: string;
  readonly shape: readonly number[];
}

/** Fields that say how long something is: an axis of a tensor, or a part of one. */
const LENGTHS = [
  "hidden_size",
  "intermediate_size",
  "moe_intermediate_size",
  "shared_expert_intermediate_size",
  "vocab_size",
  "head_dim",
  "num_attention_heads",
  "num_key_value_heads",
  "q_lora_rank",
  "kv_lora_rank",
  "qk_nope_head_dim",
  "qk_rope_head_dim",
  "v_head_dim",
  "linear_num_key_heads",
  "linear_num_value_heads",
  "linear_key_head_dim",
  "linear_value_head_dim",
];

/** Fields that say how many there are of something that has a tensor of its own, or is an axis of one. */
const COUNTS = ["num_hidden_layers", "num_experts", "num_local_experts", "n_routed_experts"];

/** Fields that say which part of a head turns. */
const SHARES = ["partial_rotary_factor"];

/**
 * Refuse a configuration that speaks of more than the checkpoint holds, before anybody makes room for it: a billion
 * layers are an array of a billion entries, and an array that long ends the process. What fits and is wrong all the
 * same is found tensor by tensor.
 *
 * Throws `DONOR_CONFIG`.
 */
export function refuseImpossibleCounts(config: ModelConfig, tensors: Iterable<ShapedTensor>): void {
  let count = 0;
  let widest = 0;
  for (const { shape } of tensors) {
    count++;
    for (const length of shape) widest = Math.max(widest, length);
  }
  const decoder = config.decoder;
  const refuse = (key: string, value: number, room: string): never => {
    throw new PhysariumError(
      "DONOR_CONFIG",
      `config.json: ${key} is ${value}, and ${room}; configuration and weights do not belong together`,
      { key, value },
    );
  };
  for (const key of LENGTHS) {
    const value = decoder.raw(key);
    if (typeof value === "number" && value > widest) refuse(key, value, `the longest axis of any tensor has ${widest}`);
  }
  for (const key of COUNTS) {
    const value = decoder.raw(key);
    if (typeof value === "number" && value > Math.max(count, widest)) refuse(key, value, `there are ${count} tensors`);
  }
  const parameters = decoder.record("rope_parameters") ?? {};
  const perKind = Object.values(parameters).filter((inner) => typeof inner === "object" && inner !== null);
  for (const key of SHARES) {
    const values = [decoder.raw(key), parameters[key], ...perKind.map((inner) => (inner as typeof parameters)[key])];
    for (const value of values) {
      if (typeof value === "number" && !(value > 0 && value <= 1)) refuse(key, value, "a part of a head is 0 to 1");
    }
  }
}
