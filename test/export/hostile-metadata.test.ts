import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { exportGguf } from "../../dist/export/gguf/export.js";
import { serializeGgufHeader } from "../../dist/export/gguf/header.js";
import { importGguf } from "../../dist/export/gguf/import.js";
import { readGguf } from "../../dist/export/gguf/reader.js";
import type { GgufValue } from "../../dist/export/gguf/types.js";
import { memorySource } from "../../dist/safetensors/source.js";
import { temporaryFolder } from "../temporary.js";
import { smallConfig, writeDonor } from "./random-donor.js";

const folder = temporaryFolder();
const whole = join(folder, "whole.gguf");
await exportGguf(writeDonor(join(folder, "donor"), { config: smallConfig("llama"), tokenizer: true }), whole, {
  type: "F16",
});

/** The file with other metadata, and without the config.json that our own files carry. */
async function changed(name: string, change: (metadata: Map<string, GgufValue>) => void): Promise<string> {
  const bytes = readFileSync(whole);
  const { metadata, tensors, dataByteOffset } = await readGguf(memorySource(bytes), "whole.gguf");
  const own = new Map(metadata);
  own.delete("physarium.config.json");
  change(own);
  const header = serializeGgufHeader(own, tensors);
  const path = join(folder, `${name}.gguf`);
  writeFileSync(path, Buffer.concat([header.bytes, bytes.subarray(dataByteOffset)]));
  return path;
}

const NUMBERS = ["attention.layer_norm_rms_epsilon", "rope.freq_base"];
const VALUES = [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY];
const tokens = "tokenizer.ggml.tokens";

test("by itself the file is taken", async () => {
  const output = join(folder, "taken");
  await importGguf(await changed("taken", () => {}), output);
  expect(existsSync(join(output, "model.safetensors"))).toBe(true);
});

test.each([
  ...NUMBERS.flatMap((key) =>
    VALUES.map((value): [string, string, GgufValue] => [`${key} ${value}`, `llama.${key}`, { type: "f32", value }]),
  ),
  ["three tokens", tokens, { type: "array", of: "string", values: ["a", "b", "c"] }],
  ["tokens that are numbers", tokens, { type: "array", of: "u32", values: new Array<number>(512).fill(1) }],
  ["one token", tokens, { type: "string", value: "a" }],
] as [string, string, GgufValue][])("%s is refused, and nothing is written", async (name, key, value) => {
  const output = join(folder, `${name} out`);
  const path = await changed(name, (metadata) => void metadata.set(key, value));
  await expect(importGguf(path, output)).rejects.toMatchObject({
    code: "DONOR_GGUF_METADATA",
    message: expect.stringContaining(key),
  });
  expect(existsSync(output)).toBe(false);
});
