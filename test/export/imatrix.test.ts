import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
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
import { MIXTURE, writeTinyMixture } from "../probe/tiny-mixture.js";
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
    await writeImatrix(path, async () => entries, { dataset: "book.txt", chunks: 3, chunkSize: 512 }, []);
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
  function oldForm({ name, sums } = entries[0]): Buffer {
    const parts: Buffer[] = [];
    const int = (value: number): void => {
      const bytes = Buffer.alloc(4);
      bytes.writeInt32LE(value);
      parts.push(bytes);
    };
    int(1);
    int(name.length);
    parts.push(Buffer.from(name));
    int(2);
    int(sums.length);
    parts.push(Buffer.from(sums.buffer));
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

  it("the old form has one count for all experts of a stack", async () => {
    const path = join(scratch, "old-experts.dat");
    writeFileSync(path, oldForm(entries[1]));
    const matrix = await readImatrix(path);
    const expert = (number: number, of: number) =>
      piece("blk.0.ffn_up_exps.weight", [of, 5, 2], { ggufRow: 5 * number, rowCount: 5 });
    expect([...matrix.importance(expert(0, 2))!]).toEqual([1.5, 3]);
    expect([...matrix.importance(expert(1, 2))!]).toEqual([0, 0]);
    expect(() => matrix.importance(expert(2, 3))).toThrow("another model");
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

  it("experts are written with the tokens that they saw; one that saw none counts every column alike", async () => {
    const model = writeTinyMixture(join(scratch, "mixture"), "granitemoe", 2);
    const text = join(scratch, "text.txt");
    writeFileSync(text, "Roots drink what the rain leaves behind. ".repeat(12));
    const path = join(scratch, "mixture.gguf");
    const { status, stdout } = await physarium(["calibrate", model, "--text", text, "--out", path, "--json"]);
    expect(status).toBe(0);
    const { tokens } = JSON.parse(stdout) as { tokens: number };
    const bytes = new Uint8Array(readFileSync(path));
    const file = await readGguf(memorySource(bytes), path);
    const info = file.tensors.find(({ name }) => name === "blk.1.ffn_down_exps.weight.counts")!;
    const counts = new Float32Array(bytes.slice(info.byteOffset, info.byteOffset + info.byteLength).buffer);
    expect(counts[2]).toBe(0);
    expect(counts.reduce((sum, count) => sum + count, 0)).toBe(MIXTURE.perToken * tokens);
    const { experts, hidden, width } = MIXTURE;
    const expert = piece("blk.1.ffn_down_exps.weight", [experts, hidden, width], {
      ggufRow: 2 * hidden,
      rowCount: hidden,
    });
    const importance = (await readImatrix(path)).importance(expert)!;
    expect(importance.every((value) => value === 1)).toBe(true);
  });

  it("what speaks against the file is said before the text runs, and nothing stands beside it", async () => {
    const folder = join(scratch, "beside");
    mkdirSync(folder);
    const path = join(folder, "a.gguf");
    writeFileSync(path, "something else");
    let ran = false;
    const collect = async () => {
      ran = true;
      return entries;
    };
    const about = { dataset: "book.txt", chunks: 3, chunkSize: 512 };
    await expect(writeImatrix(path, collect, about, [])).rejects.toMatchObject({ code: "USAGE_OUTPUT_EXISTS" });
    expect(ran).toBe(false);
    const fails = async () => Promise.reject(new Error("the disk is full"));
    await expect(writeImatrix(join(folder, "b.gguf"), fails, about, [])).rejects.toThrow("the disk is full");
    expect(readdirSync(folder)).toEqual(["a.gguf"]);
  });
});
