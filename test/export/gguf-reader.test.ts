import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { isPhysariumError } from "../../dist/errors.js";
import { exportGguf } from "../../dist/export/gguf/export.js";
import { serializeGgufHeader } from "../../dist/export/gguf/header.js";
import { importGguf } from "../../dist/export/gguf/import.js";
import { planImport } from "../../dist/export/gguf/import-plan.js";
import { readGguf } from "../../dist/export/gguf/reader.js";
import { type GgufValue, TENSOR_TYPES, type TensorType, VALUE_TYPES } from "../../dist/export/gguf/types.js";
import { memorySource } from "../../dist/safetensors/source.js";
import { generator, smallConfig, writeDonor } from "./random-donor.js";

const bytesOf = (text: string): number[] => [...new TextEncoder().encode(text)];
const u32 = (value: number): number[] => [...new Uint8Array(new Uint32Array([value]).buffer)];
const u64 = (value: number | bigint): number[] => [...new Uint8Array(new BigUint64Array([BigInt(value)]).buffer)];
const string = (text: string): number[] => [...u64(bytesOf(text).length), ...bytesOf(text)];
const MAGIC = bytesOf("GGUF");

/** A file of `metadata` and `tensors` given as raw bytes, then `data` bytes after the padding. */
function file(metadata: number[][], tensors: number[][], data = 0, version = 3): Uint8Array {
  const header = [
    ...MAGIC,
    ...u32(version),
    ...u64(tensors.length),
    ...u64(metadata.length),
    ...metadata.flat(),
    ...tensors.flat(),
  ];
  while (header.length % 32 !== 0) header.push(0);
  return Uint8Array.from([...header, ...new Array(data).fill(0)]);
}

const tensor = (name: string, dimensions: (number | bigint)[], type: number, offset: number | bigint): number[] => [
  ...string(name),
  ...u32(dimensions.length),
  ...dimensions.flatMap(u64),
  ...u32(type),
  ...u64(offset),
];

const codeOf = async (bytes: Uint8Array): Promise<string> => {
  try {
    await readGguf(memorySource(bytes), "hostile.gguf");
    return "accepted";
  } catch (error) {
    return isPhysariumError(error) ? error.code : `not ours: ${error}`;
  }
};

describe("what is written is read back", () => {
  const scalar = fc.oneof(
    fc.record({ type: fc.constant("u8" as const), value: fc.nat(255) }),
    fc.record({ type: fc.constant("i8" as const), value: fc.integer({ min: -128, max: 127 }) }),
    fc.record({ type: fc.constant("u16" as const), value: fc.nat(65_535) }),
    fc.record({ type: fc.constant("i16" as const), value: fc.integer({ min: -32_768, max: 32_767 }) }),
    fc.record({ type: fc.constant("u32" as const), value: fc.nat(0xffffffff) }),
    fc.record({ type: fc.constant("i32" as const), value: fc.integer() }),
    fc.record({ type: fc.constant("f32" as const), value: fc.float({ noNaN: true }) }),
    fc.record({ type: fc.constant("f64" as const), value: fc.double({ noNaN: true }) }),
    fc.record({ type: fc.constant("bool" as const), value: fc.boolean() }),
    fc.record({ type: fc.constant("string" as const), value: fc.string({ unit: "grapheme" }) }),
    fc.record({ type: fc.constant("u64" as const), value: fc.maxSafeNat() }),
    fc.record({ type: fc.constant("i64" as const), value: fc.maxSafeInteger() }),
  );
  const array = fc.record({
    type: fc.constant("array" as const),
    of: fc.constant("string" as const),
    values: fc.array(fc.string({ unit: "grapheme" })),
  });
  const metadata = fc.dictionary(fc.string({ minLength: 1, unit: "grapheme" }), fc.oneof(scalar, array));
  const types = Object.keys(TENSOR_TYPES) as TensorType[];
  const tensors = fc.uniqueArray(
    fc.record({
      name: fc.string({ minLength: 1, unit: "grapheme" }),
      type: fc.constantFrom(...types),
      shape: fc.array(fc.integer({ min: 1, max: 5 }), { minLength: 1, maxLength: 4 }),
    }),
    { selector: ({ name }) => name, maxLength: 6 },
  );

  it("metadata of every kind, tensors of every type", async () => {
    await fc.assert(
      fc.asyncProperty(metadata, tensors, async (entries, specs) => {
        const map = new Map(Object.entries(entries).filter(([key]) => key !== "general.alignment")) as Map<
          string,
          GgufValue
        >;
        const whole = specs.map((spec) => {
          const shape = [...spec.shape];
          shape[shape.length - 1] *= TENSOR_TYPES[spec.type].blockLength;
          return { ...spec, shape };
        });
        const header = serializeGgufHeader(map, whole);
        const bytes = new Uint8Array(header.fileByteLength);
        bytes.set(header.bytes);
        const back = await readGguf(memorySource(bytes), "x.gguf");
        expect(back.metadata).toEqual(map);
        expect(back.tensors).toEqual(whole.map((spec, i) => ({ ...spec, ...header.places[i] })));
        expect(header.bytes.byteLength % 32).toBe(0);
      }),
      { numRuns: 300 },
    );
  });

  it("headers of any size: the buffer grows under every kind of value", async () => {
    for (const length of [8_000, 16_381, 16_384, 65_536, 300_000]) {
      const strings = Array.from({ length }, (_, i) => `${i}`);
      const map = new Map<string, GgufValue>([
        ["strings", { type: "array", of: "string", values: strings }],
        ["integers", { type: "array", of: "i32", values: strings.map(Number) }],
        ["number", { type: "u64", value: length }],
      ]);
      const specs = strings.slice(0, 9_000).map((name) => ({ name, type: "F32" as const, shape: [1, 3] }));
      const header = serializeGgufHeader(map, specs);
      const bytes = new Uint8Array(header.fileByteLength);
      bytes.set(header.bytes);
      const back = await readGguf(memorySource(bytes), "x.gguf");
      expect(back.metadata).toEqual(map);
      expect(back.tensors.map(({ name }) => name)).toEqual(specs.map(({ name }) => name));
    }
  });
});

describe("hostile files", () => {
  it("arrays that together would fill the memory are refused before they are read", async () => {
    const one = { type: "array", of: "u8", values: new Array<number>(1_500_000).fill(1) } as const;
    const map = new Map<string, GgufValue>(["a", "b", "c"].map((key) => [key, one]));
    const { bytes } = serializeGgufHeader(map, []);
    await expect(readGguf(memorySource(bytes), "x.gguf")).rejects.toMatchObject({ code: "DONOR_GGUF_LIMIT" });
    map.delete("c");
    const { bytes: fewer } = serializeGgufHeader(map, []);
    expect((await readGguf(memorySource(fewer), "x.gguf")).metadata.size).toBe(2);
  });

  const kv = (key: string, type: string, value: number[]): number[] => [
    ...string(key),
    ...u32(VALUE_TYPES.indexOf(type as (typeof VALUE_TYPES)[number])),
    ...value,
  ];
  const F32 = 0;
  const cases: [string, Uint8Array, string][] = [
    ["empty", new Uint8Array(0), "DONOR_GGUF_TRUNCATED"],
    ["three bytes", Uint8Array.from(MAGIC.slice(0, 3)), "DONOR_GGUF_TRUNCATED"],
    ["another magic", Uint8Array.from([...bytesOf("GGML"), ...u32(3), ...u64(0), ...u64(0)]), "DONOR_GGUF_MAGIC"],
    ["version 1", file([], [], 0, 1), "DONOR_GGUF_VERSION"],
    ["big-endian version", file([], [], 0, 0x03000000), "DONOR_GGUF_VERSION"],
    ["more tensors than bytes", Uint8Array.from([...MAGIC, ...u32(3), ...u64(1e15), ...u64(0)]), "DONOR_GGUF_LIMIT"],
    ["more metadata than bytes", Uint8Array.from([...MAGIC, ...u32(3), ...u64(0), ...u64(60_000)]), "DONOR_GGUF_LIMIT"],
    ["a count past 2^53", Uint8Array.from([...MAGIC, ...u32(3), ...u64(1n << 63n), ...u64(0)]), "DONOR_GGUF_LIMIT"],
    ["a key longer than the file", file([[...u64(1 << 20), ...bytesOf("key")]], []), "DONOR_GGUF_LIMIT"],
    ["a string longer than the file", file([kv("k", "string", u64(1e12))], []), "DONOR_GGUF_LIMIT"],
    ["an array longer than the file", file([kv("k", "array", [...u32(4), ...u64(1e9)])], []), "DONOR_GGUF_LIMIT"],
    [
      "arrays in arrays",
      file([kv("k", "array", [...u32(9), ...u64(1), ...u32(9), ...u64(0)])], []),
      "DONOR_GGUF_METADATA",
    ],
    ["an unknown value type", file([[...string("k"), ...u32(77), ...u32(0)]], []), "DONOR_GGUF_METADATA"],
    ["a key twice", file([kv("k", "u32", u32(1)), kv("k", "u32", u32(2))], []), "DONOR_GGUF_METADATA"],
    ["a key that is not UTF-8", file([[...u64(1), 0xff, ...u32(4), ...u32(1)]], []), "DONOR_GGUF_METADATA"],
    ["alignment 0", file([kv("general.alignment", "u32", u32(0))], []), "DONOR_GGUF_METADATA"],
    ["alignment 24", file([kv("general.alignment", "u32", u32(24))], []), "DONOR_GGUF_METADATA"],
    ["alignment 2^31", file([kv("general.alignment", "u32", u32(2 ** 31))], []), "DONOR_GGUF_METADATA"],
    ["a tensor twice", file([], [tensor("t", [4], F32, 0), tensor("t", [4], F32, 32)], 64), "DONOR_GGUF_TENSOR"],
    ["no dimensions", file([], [tensor("t", [], F32, 0)], 32), "DONOR_GGUF_TENSOR"],
    ["five dimensions", file([], [tensor("t", [1, 1, 1, 1, 1], F32, 0)], 32), "DONOR_GGUF_TENSOR"],
    ["a dimension of 0", file([], [tensor("t", [0], F32, 0)], 32), "DONOR_GGUF_TENSOR"],
    ["a shape that overflows", file([], [tensor("t", [2 ** 40, 2 ** 40], F32, 0)], 32), "DONOR_GGUF_TENSOR"],
    ["rows of broken blocks", file([], [tensor("t", [33], 8, 0)], 64), "DONOR_GGUF_TENSOR"],
    ["a type not read", file([], [tensor("t", [256], 10, 0)], 96), "DONOR_GGUF_TYPE"],
    ["a type nobody knows", file([], [tensor("t", [256], 4000, 0)], 96), "DONOR_GGUF_TYPE"],
    ["an offset off the alignment", file([], [tensor("t", [4], F32, 8)], 64), "DONOR_GGUF_OFFSETS"],
    [
      "tensors over each other",
      file([], [tensor("a", [16], F32, 0), tensor("b", [16], F32, 32)], 128),
      "DONOR_GGUF_OFFSETS",
    ],
    ["a tensor past the end", file([], [tensor("t", [64], F32, 0)], 128), "DONOR_GGUF_TRUNCATED"],
    ["an offset past the end", file([], [tensor("t", [4], F32, 1 << 30)], 64), "DONOR_GGUF_TRUNCATED"],
  ];

  it.each(cases)("%s", async (_, bytes, code) => {
    expect(await codeOf(bytes)).toBe(code);
  });

  it("a good one of the same making is accepted", async () => {
    const good = file(
      [kv("general.alignment", "u32", u32(32))],
      [tensor("a", [8], F32, 0), tensor("b", [32], 8, 32)],
      96,
    );
    expect(await codeOf(good)).toBe("accepted");
  });
});

describe("fuzz", () => {
  const folder = mkdtempSync(join(tmpdir(), "physarium-gguf-"));
  const files: Uint8Array[] = [];
  const headerBytes: number[] = [];
  beforeAll(async () => {
    for (const [modelType, tokenizer] of [
      ["llama", true],
      ["qwen3", false],
    ] as const) {
      const config = smallConfig(modelType, { hidden_size: 32, intermediate_size: 32, num_hidden_layers: 1 });
      const donor = writeDonor(join(folder, modelType), { config, tokenizer });
      const path = join(folder, `${modelType}.gguf`);
      await exportGguf(donor, path, { type: "Q8_0" });
      files.push(new Uint8Array(readFileSync(path)));
      headerBytes.push((await readGguf(memorySource(files[files.length - 1]), path)).dataByteOffset);
    }
  });
  afterAll(() => rmSync(folder, { recursive: true }));

  /**
   * One to four faults in the header: flipped bits, extreme bytes, numbers put over others, bytes cut out, the end cut
   * off.
   */
  function mutate(original: Uint8Array, headerBytes: number, random: () => number): Uint8Array {
    let bytes = original.slice();
    const faults = 1 + Math.floor(random() * 4);
    for (let i = 0; i < faults; i++) {
      const at = Math.floor(random() * Math.min(headerBytes, bytes.length - 8));
      const kind = Math.floor(random() * 6);
      if (kind === 0) bytes[at] ^= 1 << Math.floor(random() * 8);
      else if (kind === 1) bytes[at] = random() < 0.5 ? 0xff : 0;
      else if (kind === 2) bytes.set(u32(Math.floor(random() * 2 ** 32)), at);
      else if (kind === 3)
        bytes.set(u64(BigInt(Math.floor(random() * 2 ** 53)) << BigInt(Math.floor(random() * 11))), at);
      else if (kind === 4) {
        bytes.copyWithin(at, at + 1 + Math.floor(random() * 16));
        bytes = bytes.slice(0, bytes.length - 16);
      } else if (random() < 0.2) bytes = bytes.slice(0, Math.max(64, Math.floor(random() * bytes.length)));
      if (bytes.length < 64) return bytes;
    }
    return bytes;
  }

  it("20,000 mutated files are refused with a code or planned; nothing else happens", async () => {
    const random = generator(20_26);
    const outcomes = new Map<string, number>();
    for (let i = 0; i < 20_000; i++) {
      const original = files[i % files.length];
      const source = memorySource(mutate(original, headerBytes[i % files.length], random));
      let outcome = "planned";
      try {
        const plan = await planImport(source, "fuzz.gguf", "BF16");
        for (const { info } of plan.targets.flatMap(({ pieces }) => pieces)) {
          expect(info.byteOffset + info.byteLength).toBeLessThanOrEqual(source.byteLength);
        }
      } catch (error) {
        if (!isPhysariumError(error, "DONOR_")) throw error;
        outcome = error.code;
      }
      outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1);
    }
    console.log([...outcomes].map(([code, count]) => `${code} ${count}`).join(", "));
    // The mutations must reach every check, not only the first.
    for (const code of [
      "MAGIC",
      "VERSION",
      "LIMIT",
      "TRUNCATED",
      "METADATA",
      "TENSOR",
      "TYPE",
      "OFFSETS",
      "ARCHITECTURE",
    ]) {
      expect(outcomes.get(`DONOR_GGUF_${code}`) ?? 0).toBeGreaterThan(0);
    }
  });

  it("weights that are no numbers are refused by name", async () => {
    const bytes = files[1].slice();
    const { tensors } = await readGguf(memorySource(bytes), "good");
    const target = tensors.find(({ name }) => name === "blk.0.ffn_down.weight");
    // The scale of the first block: an F16 NaN.
    bytes.set([0x01, 0x7e], target?.byteOffset);
    const path = join(folder, "nan.gguf");
    writeFileSync(path, bytes);
    await expect(importGguf(path, join(folder, "nan"))).rejects.toMatchObject({ code: "DONOR_NON_FINITE" });
  });
});
