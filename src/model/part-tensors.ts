import type { Experts } from "./experts.js";
import type { Mixer } from "./mixers.js";

/** Names, inside a layer, of the tensors of a mixture of experts. */
export function expertTensors({ count, routing, layout, shared }: Experts): string[] {
  const names = [`${routing.path}.weight`, `${routing.path}.bias`];
  if (routing.correction !== undefined) names.push(routing.correction);
  if (layout.kind === "stacked") {
    names.push(layout.gateUp, layout.down);
    if (layout.biased) names.push(`${layout.gateUp}_bias`, `${layout.down}_bias`);
  } else {
    for (let expert = 0; expert < count; expert++) {
      for (const path of [layout.gate, layout.up, layout.down])
        names.push(`${path.replace("{e}", `${expert}`)}.weight`);
    }
  }
  if (shared !== undefined) {
    for (const part of ["gate_proj", "up_proj", "down_proj"]) names.push(`${shared.path}.${part}.weight`);
    if (shared.gate !== undefined) names.push(`${shared.gate}.weight`);
  }
  return names;
}

/** Names, inside a layer, of the tensors of what stands in the place of attention, its last product aside. */
export function mixerTensors(mixer: Mixer): string[] {
  if (mixer.kind === "convolution") {
    return ["conv.in_proj.weight", "conv.in_proj.bias", "conv.conv.weight", "conv.conv.bias"];
  }
  const paths =
    mixer.kind === "latent"
      ? [
          ...(mixer.queryRank === undefined ? ["q_proj"] : ["q_a_proj", "q_a_layernorm", "q_b_proj"]),
          "kv_a_proj_with_mqa",
          "kv_a_layernorm",
          "kv_b_proj",
        ].map((name) => `self_attn.${name}`)
      : (mixer.layout === "grouped"
          ? ["in_proj_qkvz", "in_proj_ba"]
          : ["in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a"]
        ).map((name) => `linear_attn.${name}`);
  const names = paths.flatMap((path) => [`${path}.weight`, `${path}.bias`]);
  if (mixer.kind === "delta rule") {
    for (const name of ["A_log", "dt_bias", "conv1d.weight", "norm.weight"]) names.push(`linear_attn.${name}`);
  }
  return names;
}
