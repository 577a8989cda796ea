import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { link } from "../../dist/export/gguf/links.js";
import { readGguf } from "../../dist/export/gguf/reader.js";
import { readImatrix, writeImatrix } from "../../dist/export/imatrix.js";
import { ModelFolder } from "../../dist/export/model-folder.js";
import { Quantiser } from "../../dist/export/quantiser.js";
import { decodeFloats } from "../../dist/safetensors/float-bits.js";
import { memorySource } from "../../dist/safetensors/source.js";
import { physarium } from "../physarium.js";
import { LOAM } from "../shared.js";

const scratch = mkdtempSync(join(tmpdir(), "physarium-imatrix-"));
afterAll(() => rmSync(scratch, { recursive: true }));
const piece = (ggufName: string, ggufShape: number[], more = {}) =>
  link({ name: "x", ggufName, shape: ggufShape.slice(-2), ggufShape, ...more });

describe("importance matrices", () => {
  const entries = [
    { name: "blk.0.attn_q.weight", sums: Float32Array.of(2, 4, 8, 0), counts: Float32Array.of(2) },
    { name: "blk.0.ffn_up_exps.weight", sums: Float32Array.of(3, 6, 0, 0), counts: Float32Array.of(3, 0) },
  ];

  it("written and read again; experts have their own", async () => {
    const path = join(scratch, "a.gguf");
    await writeImatrix(path, entries, { dataset: "book.txt", chunks: 3, chunkSize: 512 }, []);
    const matrix = await readImatrix(path);
    expect([...matrix.importance(piece("blk.0.attn_q.weight", [3, 4]))!]).toEqual([1, 2, 4, 0]);
    const expert = (number: number) =>
      piece("blk.0.ffn_up_exps.weight", [2, 5, 2], { ggufRow: 5 * number, rowCount: 5 });
    expect([...matrix.importance(expert(0))!]).toEqual([1, 2]);
    // One that saw no token: all columns alike, as in llama.cpp.
    expect([...matrix.importance(expert(1))!]).toEqual([1, 1]);
    expect(matrix.importance(piece("blk.1.attn_q.weight", [3, 4]))).toBeUndefined();
    expect(() => matrix.importance(piece("blk.0.attn_q.weight", [3, 5]))).toThrow("another model");
    const file = await readGguf(memorySource(new Uint8Array(readFileSync(path))), path);
    expect(file.metadata.get("general.type")).toEqual({ type: "string", value: "imatrix" });
    expect(file.tensors.map(({ name, shape }) => [name, shape])).toContainEqual([
      "blk.0.ffn_up_exps.weight.in_sum2",
      [2, 2],
    ]);
  });

  /** llama.cpp's older form: entries with name, calls and sums, then the number of the last call and the data set. */
  function oldForm(): Buffer {
    const parts: Buffer[] = [];
    const int = (value: number): void => {
      const bytes = Buffer.alloc(4);
      bytes.writeInt32LE(value);
      parts.push(bytes);
    };
    int(1);
    int(entries[0].name.length);
    parts.push(Buffer.from(entries[0].name));
    int(2);
    int(4);
    parts.push(Buffer.from(entries[0].sums.buffer));
    int(2);
    int(8);
    parts.push(Buffer.from("book.txt"));
    return Buffer.concat(parts);
  }

  it("the old form is read", async () => {
    const path = join(scratch, "old.dat");
    writeFileSync(path, oldForm());
    const matrix = await readImatrix(path);
    expect([...matrix.importance(piece("blk.0.attn_q.weight", [3, 4]))!]).toEqual([1, 2, 4, 0]);
  });

  it.each([3, 5, 11, 30, 40])("cut after %i bytes it is refused", async (length) => {
    const path = join(scratch, `cut-${length}.dat`);
    writeFileSync(path, oldForm().subarray(0, length));
    await expect(readImatrix(path)).rejects.toMatchObject({ code: "DONOR_IMATRIX" });
  });

  it("calibrate writes one, export quantises with it: the blocks are those of the columns' importance", async () => {
    const text = join(LOAM, "../../texts/loam-stories.txt");
    const path = join(scratch, "loam.gguf");
    expect(
      (
        await physarium([
          "calibrate",
          LOAM,
          "--text",
          text,
          "--out",
          path,
          "--samples",
          "4",
          "--window",
          "64",
          "--json",
        ])
      ).status,
    ).toBe(0);
    const output = join(scratch, "q4.gguf");
    expect((await physarium(["export", LOAM, output, "--type", "q4_0", "--imatrix", path, "--json"])).status).toBe(0);
    const bytes = new Uint8Array(readFileSync(output));
    const file = await readGguf(memorySource(bytes), output);
    const matrix = await readImatrix(path);
    const folder = await ModelFolder.open(LOAM);
    const located = folder.tensors.get("model.layers.1.mlp.down_proj.weight")!;
    const weights = decodeFloats(await folder.read(located, 0, located.info.byteLength), "BF16");
    await folder.close();
    const importance = matrix.importance(piece("blk.1.ffn_down.weight", [...located.info.shape]))!;
    const info = file.tensors.find(({ name }) => name === "blk.1.ffn_down.weight")!;
    const expected = new Quantiser().quantise("Q4_0", weights, importance);
    const found = bytes.subarray(info.byteOffset, info.byteOffset + info.byteLength);
    expect(Buffer.compare(found, expected)).toBe(0);
    expect(Buffer.compare(expected, new Quantiser().quantise("Q4_0", weights))).not.toBe(0);
  });
});
