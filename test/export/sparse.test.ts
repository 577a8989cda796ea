import { cpSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, describe, expect, it } from "vitest";
import { bitmaskRowBytes, countBits, countSurvivors, packBand, unpackBand } from "../../dist/export/sparse/bitmask.js";
import { exportSparse } from "../../dist/export/sparse/export.js";
import { importSparse } from "../../dist/export/sparse/import.js";
import { parseHeader } from "../../dist/safetensors/header.js";
import { smallConfig, writeDonor } from "./random-donor.js";

const scratch = mkdtempSync(join(tmpdir(), "physarium-sparse-"));
afterAll(() => rmSync(scratch, { recursive: true }));
let serial = 0;
const fresh = (): string => join(scratch, `${++serial}`);

/** Every tensor of a folder: dtype, shape and bytes. */
function tensorsOf(folder: string): Map<string, { dtype: string; shape: readonly number[]; bytes: Buffer }> {
  const found = new Map<string, { dtype: string; shape: readonly number[]; bytes: Buffer }>();
  for (const file of readdirSync(folder).filter((name) => name.endsWith(".safetensors"))) {
    const bytes = readFileSync(join(folder, file));
    const length = Number(bytes.readBigUInt64LE());
    for (const { name, dtype, shape, byteOffset, byteLength } of parseHeader(
      bytes.subarray(8, 8 + length),
      bytes.length,
      file,
    ).tensors) {
      found.set(name, { dtype, shape, bytes: bytes.subarray(byteOffset, byteOffset + byteLength) });
    }
  }
  return found;
}

describe("a band", () => {
  it("splits into bits and survivors and back, for any row length, dtype and pattern", () => {
    const words = fc.oneof({ weight: 1, arbitrary: fc.constant(0) }, { weight: 1, arbitrary: fc.nat(0xffff) });
    const band = fc
      .record({ rows: fc.integer({ min: 1, max: 5 }), cols: fc.integer({ min: 1, max: 40 }) })
      .chain(({ rows, cols }) =>
        fc.record({
          cols: fc.constant(cols),
          values: fc.array(words, { minLength: rows * cols, maxLength: rows * cols }),
        }),
      );
    fc.assert(
      fc.property(band, fc.constantFrom("BF16" as const, "F16" as const, "F32" as const), ({ cols, values }, dtype) => {
        const typed = dtype === "F32" ? Uint32Array.from(values, (value) => value * 65_537) : Uint16Array.from(values);
        const bytes = new Uint8Array(typed.buffer);
        const packed = packBand(bytes, dtype, cols);
        expect(packed.bitmask.length).toBe((values.length / cols) * bitmaskRowBytes(cols));
        values.forEach((value, i) => {
          const [row, col] = [Math.floor(i / cols), i % cols];
          expect((packed.bitmask[row * bitmaskRowBytes(cols) + (col >> 3)] >> (col & 7)) & 1).toBe(value === 0 ? 0 : 1);
        });
        expect(countBits(packed.bitmask, cols, "t")).toEqual(countSurvivors(bytes, dtype, cols));
        expect(unpackBand({ values: packed.values.slice(), bitmask: packed.bitmask }, dtype, cols)).toEqual(bytes);
      }),
      { numRuns: 300 },
    );
  });
});

describe("folders", () => {
  const sparse = () =>
    writeDonor(fresh(), {
      config: smallConfig("llama", { intermediate_size: 101 }),
      sparsity: 0.4,
      tokenizer: true,
      // One projection without zeros stays dense; a minus zero must come back as it was.
      change: (name, weights) => {
        if (name.includes("layers.1.mlp.up_proj")) return weights.map((weight) => weight || 0.5);
        if (name.includes("layers.0.mlp.up_proj")) weights[3] = -0;
        return weights;
      },
    });

  it("compress and decompress to the same tensors; parts and config as the library lays them out", async () => {
    const donor = sparse();
    const [compressed, back] = [fresh(), fresh()];
    const result = await exportSparse(donor, compressed);
    expect(result.tensors.filter((tensor) => !tensor.compressed).map(({ name }) => name)).toEqual([
      "model.layers.1.mlp.up_proj.weight",
    ]);
    expect(result.bytesAfter).toBeLessThan(result.bytesBefore);

    const before = tensorsOf(donor);
    const parts = tensorsOf(compressed);
    const module = "model.layers.0.mlp.down_proj";
    const weight = before.get(`${module}.weight`)!;
    const words = new Uint16Array(
      weight.bytes.buffer.slice(weight.bytes.byteOffset, weight.bytes.byteOffset + weight.bytes.length),
    );
    const survivors = words.filter((word) => word !== 0);
    expect(parts.has(`${module}.weight`)).toBe(false);
    expect(parts.get(`${module}.compressed`)).toMatchObject({ dtype: "BF16", shape: [survivors.length] });
    expect(Buffer.compare(parts.get(`${module}.compressed`)!.bytes, Buffer.from(survivors.buffer))).toBe(0);
    expect(parts.get(`${module}.bitmask`)).toMatchObject({ dtype: "U8", shape: [64, 13] });
    expect(parts.get(`${module}.shape`)!.bytes.readBigInt64LE(8)).toBe(101n);
    const offsets = parts.get(`${module}.row_offsets`)!;
    expect(offsets).toMatchObject({ dtype: "I64", shape: [64] });
    expect(offsets.bytes.readBigInt64LE(0)).toBe(0n);
    expect(offsets.bytes.readBigInt64LE(8)).toBe(BigInt(words.subarray(0, 101).filter((word) => word !== 0).length));

    const config = JSON.parse(readFileSync(join(compressed, "config.json"), "utf8"));
    expect(config.quantization_config.quant_method).toBe("compressed-tensors");
    expect(config.quantization_config.sparsity_config).toMatchObject({
      format: "sparse-bitmask",
      sparsity_structure: "unstructured",
      ignore: ["lm_head", "model.layers.1.mlp.up_proj"],
      targets: ["Linear"],
    });

    const { decompressed } = await importSparse(compressed, back);
    expect(decompressed).toHaveLength(13);
    const after = tensorsOf(back);
    expect([...after.keys()].sort()).toEqual([...before.keys()].sort());
    for (const [name, tensor] of before) expect(after.get(name), name).toEqual(tensor);
    expect(JSON.parse(readFileSync(join(back, "config.json"), "utf8"))).toEqual(
      JSON.parse(readFileSync(join(donor, "config.json"), "utf8")),
    );
    expect(readFileSync(join(back, "tokenizer.json"))).toEqual(readFileSync(join(donor, "tokenizer.json")));
  });

  it("loam in four shards keeps its shards and index; without zeros nothing is compressed", async () => {
    const loam = new URL("../../examples/donors/loam", import.meta.url).pathname;
    const [compressed, back] = [fresh(), fresh()];
    const result = await exportSparse(loam, compressed);
    expect(result.tensors.some((tensor) => tensor.compressed)).toBe(false);
    await importSparse(compressed, back);
    const before = tensorsOf(loam);
    for (const [name, tensor] of tensorsOf(back))
      expect(Buffer.compare(tensor.bytes, before.get(name)!.bytes), name).toBe(0);
    const index = JSON.parse(readFileSync(join(back, "model.safetensors.index.json"), "utf8"));
    expect(index).toEqual(JSON.parse(readFileSync(join(loam, "model.safetensors.index.json"), "utf8")));
  });

  it("damage is refused with a code and leaves no folder", async () => {
    const compressed = fresh();
    await exportSparse(sparse(), compressed);
    const module = "model.layers.0.self_attn.q_proj";
    const damage = async (part: string, change: (bytes: Buffer) => void): Promise<string> => {
      const [broken, out] = [fresh(), fresh()];
      cpSync(compressed, broken, { recursive: true });
      const path = join(broken, "model.safetensors");
      const bytes = readFileSync(path);
      const length = Number(bytes.readBigUInt64LE());
      const info = parseHeader(bytes.subarray(8, 8 + length), bytes.length, path).tensors.find(
        ({ name }) => name === `${module}.${part}`,
      )!;
      change(bytes.subarray(info.byteOffset, info.byteOffset + info.byteLength));
      writeFileSync(path, bytes);
      const code = await importSparse(broken, out).then(
        () => "accepted",
        (error) => error.code,
      );
      expect(existsSync(out)).toBe(false);
      expect(readdirSync(scratch).filter((name) => name.includes("partial"))).toEqual([]);
      return code;
    };
    expect(await damage("bitmask", (bytes) => bytes.writeUInt8(bytes[0] ^ 1, 0))).toBe("DONOR_SPARSE_TENSOR");
    expect(await damage("bitmask", (bytes) => bytes.fill(0xff))).toBe("DONOR_SPARSE_TENSOR");
    expect(await damage("row_offsets", (bytes) => bytes.writeBigInt64LE(-1n, 8))).toBe("DONOR_SPARSE_TENSOR");
    expect(await damage("shape", (bytes) => bytes.writeBigInt64LE(1n << 60n, 8))).toBe("DONOR_SPARSE_TENSOR");
    expect(await damage("shape", (bytes) => bytes.writeBigInt64LE(0n, 0))).toBe("DONOR_SPARSE_TENSOR");
  });

  it("a plain folder is not one to decompress, a compressed one not one to compress", async () => {
    const donor = sparse();
    await expect(importSparse(donor, fresh())).rejects.toMatchObject({ code: "DONOR_SPARSE_FORMAT" });
    const compressed = fresh();
    await exportSparse(donor, compressed);
    await expect(exportSparse(compressed, fresh())).rejects.toMatchObject({ code: "DONOR_QUANTISED" });
    await expect(exportSparse(donor, compressed)).rejects.toMatchObject({ code: "USAGE_OUTPUT_EXISTS" });
    await expect(exportSparse(donor, join(donor, "inside"))).rejects.toMatchObject({ code: "USAGE_OUTPUT_OVERLAP" });
  });
});
