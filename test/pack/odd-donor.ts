import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { FloatDtype } from "../../src/safetensors/dtypes.js";
import { gaussianBand, seededRandom, wildBand } from "./random-bands.js";

interface OddTensor {
  name: string;
  dtype: string;
  shape: number[];
  data: Uint8Array;
}

function bytesOf(length: number, seed: number): Uint8Array {
  const random = seededRandom(seed);
  return Uint8Array.from({ length }, () => Math.floor(random() * 256));
}

function float(name: string, dtype: FloatDtype, shape: number[], cut: number, seed: number): OddTensor {
  const count = shape.reduce((product, dimension) => product * dimension, 1);
  return { name, dtype, shape, data: gaussianBand(dtype, count, cut, seededRandom(seed)) };
}

/**
 * Everything that a packer may meet: all kinds of dtypes and shapes, empty tensors, names that look like ours, odd
 * lengths.
 */
const SHARDS: OddTensor[][] = [
  [
    float("model.layers.0.mlp.down_proj.weight", "BF16", [97, 130], 0.2825, 1),
    float("model.layers.0.mlp.up_proj.weight", "F16", [64, 64], 0.6745, 2),
    float("model.layers.0.mlp.gate_proj.weight", "F32", [33, 77], 0.2825, 3),
    float("experts", "BF16", [3, 20, 40], 0.5, 4),
    { name: "wild", dtype: "BF16", shape: [50, 50], data: wildBand("BF16", 2500, seededRandom(5)) },
    { name: "noise", dtype: "BF16", shape: [999], data: bytesOf(1998, 6) },
    { name: "zeros", dtype: "F32", shape: [40, 41], data: new Uint8Array(40 * 41 * 4) },
    { name: "data/noise", dtype: "U8", shape: [3], data: bytesOf(3, 7) },
    { name: "header", dtype: "I64", shape: [5], data: bytesOf(40, 8) },
    { name: 'bands/é"\\__proto__', dtype: "F8_E4M3", shape: [7, 3], data: bytesOf(21, 9) },
    { name: "1", dtype: "F4", shape: [2, 3, 4], data: bytesOf(12, 10) },
    { name: "empty", dtype: "BF16", shape: [0, 5], data: new Uint8Array(0) },
    { name: "scalar", dtype: "F32", shape: [], data: bytesOf(4, 11) },
    { name: "one", dtype: "BF16", shape: [1], data: Uint8Array.of(0, 0x80) },
  ],
  [
    float("model.embed_tokens.weight", "BF16", [300, 100], 0, 12),
    { name: "tail", dtype: "BOOL", shape: [5], data: bytesOf(5, 13) },
  ],
];

/**
 * A shard with a header as strange as the format allows: foreign metadata, keys in another order, spaces, no alignment.
 */
function serialize(tensors: OddTensor[], padding: string): Uint8Array {
  let position = 0;
  const members = tensors.map(({ name, dtype, shape, data }) => {
    const offsets = [position, position + data.byteLength];
    position += data.byteLength;
    return `${JSON.stringify(name)}: {"data_offsets":[${offsets}] , "shape":[${shape}],"dtype":"${dtype}"}`;
  });
  // Described in reverse: the order of the header is not the order of the data.
  const json = new TextEncoder().encode(
    `{"__metadata__":{"format":"pt","é":"\\u00e9"},\n${members.reverse().join(",")}}${padding}`,
  );
  const prefix = new Uint8Array(8);
  new DataView(prefix.buffer).setBigUint64(0, BigInt(json.byteLength), true);
  return Buffer.concat([prefix, json, ...tensors.map(({ data }) => data)]);
}

/** A two-shard model folder of odd tensors, with side files and a surgery's reports. */
export async function writeOddDonor(folder: string): Promise<void> {
  await mkdir(join(folder, "physarium", "pictures"), { recursive: true });
  const files = SHARDS.map((_, i) => `model-0000${i + 1}-of-00002.safetensors`);
  const weightMap: Record<string, string> = {};
  for (const [i, tensors] of SHARDS.entries()) {
    for (const { name } of tensors) Object.defineProperty(weightMap, name, { value: files[i], enumerable: true });
    await writeFile(join(folder, files[i]), serialize(tensors, i === 0 ? "   " : ""));
  }
  await writeFile(join(folder, "model.safetensors.index.json"), JSON.stringify({ weight_map: weightMap }));
  await writeFile(join(folder, "config.json"), '{"model_type": "odd"}\n');
  await writeFile(join(folder, "physarium", "ledger.jsonl"), "{}\n");
  await writeFile(join(folder, "physarium", "pictures", "one.svg"), "<svg/>");
}
