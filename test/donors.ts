import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { FloatDtype } from "../dist/safetensors/dtypes.js";
import { serializeHeader } from "../dist/safetensors/writer.js";

/** A seeded generator of numbers in [0, 1): mulberry32. */
export function randomNumbers(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Standard normal numbers. */
export function gaussian(random: () => number): () => number {
  return () => Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
}

/** Numbers as weights of a dtype, little-endian; BF16 by truncation, which is all a test needs. */
export function toWeights(dtype: FloatDtype, count: number, value: (index: number) => number): Uint8Array {
  const bytes = new Uint8Array(count * (dtype === "F32" ? 4 : 2));
  const view = new DataView(bytes.buffer);
  const scratch = new DataView(new ArrayBuffer(4));
  for (let i = 0; i < count; i++) {
    const number = value(i);
    if (dtype === "F32") view.setFloat32(i * 4, number, true);
    else if (dtype === "F16") view.setUint16(i * 2, halfBits(number), true);
    else {
      scratch.setFloat32(0, number);
      view.setUint16(i * 2, scratch.getUint16(0), true);
    }
  }
  return bytes;
}

function halfBits(value: number): number {
  const sign = value < 0 || Object.is(value, -0) ? 0x8000 : 0;
  const magnitude = Math.abs(value);
  if (magnitude < 2 ** -14) return sign | Math.round(magnitude * 2 ** 24);
  const exponent = Math.min(15, Math.floor(Math.log2(magnitude)));
  return sign | Math.min(0x7bff, ((exponent + 15) << 10) + Math.round((magnitude / 2 ** exponent - 1) * 1024));
}

export interface TensorFixture {
  readonly name: string;
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly bytes: Uint8Array;
}

/** A safetensors file of these tensors, in this order. */
export function safetensorsFile(tensors: readonly TensorFixture[], metadata?: ReadonlyMap<string, string>): Uint8Array {
  const { bytes: header, fileByteLength, tensors: placed } = serializeHeader(tensors, metadata);
  const file = new Uint8Array(fileByteLength);
  file.set(header);
  for (const [i, { byteOffset }] of placed.entries()) file.set(tensors[i].bytes, byteOffset);
  return file;
}

/** Write a model folder: shards with an index, or one file where `shards` has a single entry. */
export function writeDonor(
  folder: string,
  shards: readonly (readonly TensorFixture[])[],
  sideFiles: Record<string, string> = { "config.json": "{}" },
): string {
  mkdirSync(folder, { recursive: true });
  const weightMap: Record<string, string> = {};
  let totalSize = 0;
  for (const [i, tensors] of shards.entries()) {
    const number = (n: number) => String(n).padStart(5, "0");
    const file =
      shards.length === 1 ? "model.safetensors" : `model-${number(i + 1)}-of-${number(shards.length)}.safetensors`;
    writeFileSync(join(folder, file), safetensorsFile(tensors, new Map([["format", "pt"]])));
    for (const { name, bytes } of tensors) {
      weightMap[name] = file;
      totalSize += bytes.byteLength;
    }
  }
  if (shards.length > 1) {
    writeFileSync(
      join(folder, "model.safetensors.index.json"),
      JSON.stringify({ metadata: { total_size: totalSize }, weight_map: weightMap }),
    );
  }
  for (const [name, content] of Object.entries(sideFiles)) writeFileSync(join(folder, name), content);
  return folder;
}

/** A matrix of Gaussian weights. */
export function gaussianTensor(
  name: string,
  dtype: FloatDtype,
  shape: readonly number[],
  seed: number,
  scale = 0.02,
): TensorFixture {
  const next = gaussian(randomNumbers(seed));
  const count = shape.reduce((product, dimension) => product * dimension, 1);
  return { name, dtype, shape, bytes: toWeights(dtype, count, () => next() * scale) };
}
