import { cpSync, existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { exportGguf } from "../../dist/export/gguf/export.js";
import { serializeGgufHeader } from "../../dist/export/gguf/header.js";
import { importGguf } from "../../dist/export/gguf/import.js";
import { readGguf } from "../../dist/export/gguf/reader.js";
import type { GgufValue } from "../../dist/export/gguf/types.js";
import { memorySource } from "../../dist/safetensors/source.js";
import { temporaryFolder } from "../temporary.js";
import { smallConfig, writeDonor } from "./random-donor.js";

const folder = temporaryFolder();
const donor = writeDonor(join(folder, "donor"), { config: smallConfig("llama"), tokenizer: true });
const whole = join(folder, "whole.gguf");
await exportGguf(donor, whole, { type: "F16" });
await importGguf(whole, join(folder, "from-whole"));

const part = (at: number, of = 3): string =>
  `tiny-${String(at).padStart(5, "0")}-of-${String(of).padStart(5, "0")}.gguf`;

/** The file cut into parts of as many tensors, as llama.cpp's splitter does. */
async function cut(name: string, change: (metadata: Map<string, GgufValue>, at: number) => void = () => {}) {
  const out = join(folder, name);
  mkdirSync(out);
  const bytes = readFileSync(whole);
  const { metadata, tensors } = await readGguf(memorySource(bytes), "whole.gguf");
  const size = Math.ceil(tensors.length / 3);
  for (let at = 0; at < 3; at++) {
    const own = new Map(at === 0 ? metadata : []);
    own.set("split.no", { type: "u16", value: at });
    own.set("split.count", { type: "u16", value: 3 });
    own.set("split.tensors.count", { type: "i32", value: tensors.length });
    change(own, at);
    const mine = tensors.slice(at * size, (at + 1) * size);
    const header = serializeGgufHeader(own, mine);
    const file = Buffer.alloc(header.fileByteLength);
    file.set(header.bytes);
    mine.forEach((tensor, index) => {
      const data = bytes.subarray(tensor.byteOffset, tensor.byteOffset + tensor.byteLength);
      file.set(data, header.places[index].byteOffset);
    });
    writeFileSync(join(out, part(at + 1)), file);
  }
  return out;
}

const same = (output: string) =>
  ["model.safetensors", "config.json", "tokenizer.json"].map((file) =>
    readFileSync(join(output, file)).equals(readFileSync(join(folder, "from-whole", file))),
  );

describe("a GGUF model in parts", () => {
  test("any part stands for all of them", async () => {
    const parts = await cut("parts");
    for (const at of [1, 2, 3]) {
      const output = join(folder, `from-${at}`);
      await importGguf(join(parts, part(at)), output);
      expect(same(output)).toEqual([true, true, true]);
    }
  });

  test("what is missing is named, whichever part is given", async () => {
    const parts = await cut("some");
    rmSync(join(parts, part(2)));
    for (const at of [1, 3]) {
      await expect(importGguf(join(parts, part(at)), join(folder, "none"))).rejects.toMatchObject({
        code: "DONOR_GGUF_SPLIT",
        message: expect.stringMatching(new RegExp(`part ${at} of 3 .*tiny-00002-of-00003\\.gguf is missing`)),
      });
    }
    expect(existsSync(join(folder, "none"))).toBe(false);
  });

  test("a part under another name says what it should be called", async () => {
    const parts = await cut("named");
    renameSync(join(parts, part(2)), join(parts, "model.gguf"));
    await expect(importGguf(join(parts, "model.gguf"), join(folder, "none"))).rejects.toMatchObject({
      code: "DONOR_GGUF_SPLIT",
      message: expect.stringContaining("call it model-00002-of-00003.gguf"),
    });
  });

  test("parts that do not belong together are refused", async () => {
    const parts = await cut("mixed");
    cpSync(join(parts, part(1)), join(parts, part(2)));
    await expect(importGguf(join(parts, part(1)), join(folder, "none"))).rejects.toMatchObject({
      code: "DONOR_GGUF_SPLIT",
      message: expect.stringContaining("do not belong together"),
    });
    const short = await cut("short", (metadata) => metadata.set("split.tensors.count", { type: "i32", value: 99 }));
    await expect(importGguf(join(short, part(1)), join(folder, "none"))).rejects.toMatchObject({
      code: "DONOR_GGUF_SPLIT",
      message: expect.stringContaining("split.tensors.count is 99"),
    });
  });

  test("one part of one is a whole model", async () => {
    const single = join(folder, "single");
    mkdirSync(single);
    cpSync(whole, join(single, part(1, 1)));
    await importGguf(join(single, part(1, 1)), join(folder, "from-single"));
    expect(same(join(folder, "from-single"))).toEqual([true, true, true]);
  });
});
