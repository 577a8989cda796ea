import type { Value } from "../../engine/onnx-graph.js";
import type { LayerParts } from "./layer-parts.js";

/**
 * Each channel of (batch, tokens, channels) as a weighted sum of its last `kernelSize` tokens; nothing stands before
 * the first. The weights `<path>.weight` are (channels, 1, kernelSize).
 */
export function causalConvolution(
  parts: LayerParts,
  path: string,
  channels: number,
  kernelSize: number,
  x: Value,
): Value {
  const { graph } = parts;
  const byChannel = graph.op("Transpose", [x], { perm: [0n, 2n, 1n] });
  const weights = parts.stored(`${path}.weight`, [channels, 1, kernelSize]);
  const bias = parts.has(`${path}.bias`) ? [parts.stored(`${path}.bias`, [channels])] : [];
  const mixed = graph.op("Conv", [byChannel, weights, ...bias], {
    group: channels,
    pads: [BigInt(kernelSize - 1), 0n],
  });
  return graph.op("Transpose", [mixed], { perm: [0n, 2n, 1n] });
}

/**
 * The gated short convolution of LFM2: input of the layer → input of out_proj, both (batch, tokens, hidden).
 * source: `Lfm2ShortConv` of transformers 5.24
 */
export function shortConvolution(parts: LayerParts, hiddenSize: number, kernelSize: number, x: Value): Value {
  const { graph } = parts;
  const [before, after, content] = graph.ops(
    "Split",
    [parts.linear(x, "conv.in_proj", 3 * hiddenSize, hiddenSize), graph.integers(hiddenSize, hiddenSize, hiddenSize)],
    3,
    { axis: -1 },
  );
  const mixed = causalConvolution(parts, "conv.conv", hiddenSize, kernelSize, graph.op("Mul", [before, content]));
  return graph.op("Mul", [after, mixed]);
}
