import type { Architecture, QueryKeyNorm } from "./architecture.js";
import { expertTensors, mixerTensors } from "./part-tensors.js";
import { projectionsOf } from "./sites.js";

/** Paths of the weights of a norm of queries or keys: one, or one a head. */
export function headNormPaths(norm: QueryKeyNorm, path: string, heads: number): string[] {
  return norm.over === "tensors" ? Array.from({ length: heads }, (_, head) => `${path}.norms.${head}`) : [path];
}

/** Names, inside a layer, of all tensors that the forward pass uses. */
export function layerTensors(architecture: Architecture, layer: number): Set<string> {
  const { block, names, norm, qkNorm, headCount, kvHeadCount } = architecture;
  const known = new Set<string>(Object.values(names.extra ?? {}));
  for (const { projection, stack } of projectionsOf(architecture, "", layer)) {
    if (stack === undefined) known.add(`${projection}.weight`).add(`${projection}.bias`);
  }
  const norms = [block.attentionIn, block.attentionOut, block.mlpIn, block.mlpOut].map((name) => ({
    name,
    kind: norm.kind,
  }));
  if (qkNorm !== undefined) {
    for (const name of [
      ...headNormPaths(qkNorm, qkNorm.query, headCount),
      ...headNormPaths(qkNorm, qkNorm.key, kvHeadCount),
    ]) {
      norms.push({ name, kind: qkNorm.kind });
    }
  }
  for (const { name, kind } of norms) {
    if (name === undefined) continue;
    known.add(`${name}.weight`);
    if (kind === "layer") known.add(`${name}.bias`);
  }
  const { experts, mixer, takesKeys } = architecture.layers[layer];
  if (names.perLayer !== undefined) {
    for (const path of [names.perLayer.gate, names.perLayer.out, names.perLayer.outNorm]) known.add(`${path}.weight`);
  }
  if (names.altUp !== undefined) {
    const { layer: altUp, laurel } = names.altUp;
    known.add(`${altUp}.correct_output_scale`).add(`${laurel}.post_laurel_norm.weight`);
    for (const path of ["correction_coefs", "prediction_coefs", "modality_router", "router_norm"])
      known.add(`${altUp}.${path}.weight`);
    for (const path of ["linear_left", "linear_right"]) known.add(`${laurel}.${path}.weight`);
  }
  if (names.layerScalar !== undefined) known.add(names.layerScalar);
  // A layer that takes another's keys and values may have its own in the file, unused.
  if (takesKeys !== undefined) {
    for (const path of [...names.qkv.slice(1), qkNorm?.key]) known.add(`${path}.weight`);
  }
  if (experts !== undefined) for (const name of expertTensors(experts)) known.add(name);
  if (mixer !== undefined) for (const name of mixerTensors(mixer)) known.add(name);
  return known;
}
