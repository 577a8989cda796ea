import type { Value } from "../../engine/onnx-graph.js";
import type { LatentAttention } from "../../model/mixers.js";
import type { LayerParts } from "./layer-parts.js";

/** What the layer does for any kind of attention. */
export interface AttentionParts {
  /** Turn (batch, tokens, heads × dim) by the layer's rope. */
  turn(x: Value, headCount: number, dim: number): Value;
  /** Softmax attention of (batch, tokens, heads × dim) queries, keys, values of one width. */
  mix(query: Value, key: Value, value: Value): Value;
}

/** Input of the layer → the latents that queries, and keys with values, are unfolded from, and the key that turns. */
export function latentsOf(
  parts: LayerParts,
  { queryRank, keyValueRank, ropeDim }: LatentAttention,
  hiddenSize: number,
  x: Value,
): { query: Value | undefined; key: Value; turningKey: Value } {
  const { graph } = parts;
  const at = (path: string): string => `self_attn.${path}`;
  const query =
    queryRank === undefined
      ? undefined
      : parts.norm(parts.linear(x, at("q_a_proj"), queryRank, hiddenSize), at("q_a_layernorm"), queryRank);
  const compressed = parts.linear(x, at("kv_a_proj_with_mqa"), keyValueRank + ropeDim, hiddenSize);
  const [latent, turningKey] = graph.ops("Split", [compressed, graph.integers(keyValueRank, ropeDim)], 2, {
    axis: -1,
  });
  return { query, key: parts.norm(latent, at("kv_a_layernorm"), keyValueRank), turningKey };
}

/**
 * Attention through a latent: input of the layer → input of o (batch, tokens, heads × value dim).
 * Values are filled up to the width of keys, so that one operator serves all kinds of attention.
 * source: arXiv:2405.04434; `DeepseekV3Attention` of transformers 5.24
 */
export function attendThroughLatent(
  parts: LayerParts,
  attention: AttentionParts,
  mixer: LatentAttention,
  headCount: number,
  hiddenSize: number,
  x: Value,
): Value {
  const { graph } = parts;
  const { queryRank, keyValueRank, plainDim, ropeDim, valueDim } = mixer;
  const headDim = plainDim + ropeDim;
  const heads = (value: Value, dim: number): Value =>
    graph.op("Reshape", [value, graph.integers(0, 0, headCount, dim)]);
  const flat = (value: Value, width: number): Value => graph.op("Reshape", [value, graph.integers(0, 0, width)]);

  const latent = latentsOf(parts, mixer, hiddenSize, x);
  const queries =
    queryRank === undefined
      ? parts.linear(x, "self_attn.q_proj", headCount * headDim, hiddenSize)
      : parts.linear(latent.query!, "self_attn.q_b_proj", headCount * headDim, queryRank);
  const [plainQuery, turningQuery] = graph.ops(
    "Split",
    [heads(queries, headDim), graph.integers(plainDim, ropeDim)],
    2,
    { axis: -1 },
  );

  const unfolded = parts.linear(latent.key, "self_attn.kv_b_proj", headCount * (plainDim + valueDim), keyValueRank);
  const [plainKey, value] = graph.ops(
    "Split",
    [heads(unfolded, plainDim + valueDim), graph.integers(plainDim, valueDim)],
    2,
    { axis: -1 },
  );

  const turnedQuery = heads(attention.turn(flat(turningQuery, headCount * ropeDim), headCount, ropeDim), ropeDim);
  // One turned key for all heads.
  const turnedKey = graph.op("Unsqueeze", [attention.turn(latent.turningKey, 1, ropeDim), graph.integers(2)]);
  const everyHead = graph.op("Tile", [turnedKey, graph.integers(1, 1, headCount, 1)]);
  const query = graph.op("Concat", [plainQuery, turnedQuery], { axis: -1 });
  const key = graph.op("Concat", [plainKey, everyHead], { axis: -1 });
  const filled =
    valueDim === headDim
      ? value
      : graph.op("Pad", [value, graph.integers(0, headDim - valueDim), "", graph.integers(-1)]);
  const width = headCount * headDim;
  const mixed = attention.mix(flat(query, width), flat(key, width), flat(filled, width));
  if (valueDim === headDim) return mixed;
  const [kept] = graph.ops("Split", [heads(mixed, headDim), graph.integers(valueDim, headDim - valueDim)], 2, {
    axis: -1,
  });
  return flat(kept, headCount * valueDim);
}
