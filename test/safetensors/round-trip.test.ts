import fc from "fast-check";
import { expect, test } from "vitest";
import { bitsPerElement, KNOWN_DTYPES } from "../../dist/safetensors/dtypes.js";
import { parseHeader } from "../../dist/safetensors/header.js";
import { parseShardIndex } from "../../dist/safetensors/shard-index.js";
import { serializeHeader } from "../../dist/safetensors/writer.js";

const wholeBytes = KNOWN_DTYPES.filter((dtype) => bitsPerElement(dtype)! % 8 === 0);
const name = fc
  .oneof(fc.string({ unit: "grapheme" }), fc.constantFrom("__proto__", "1", "constructor", "a.b", ""))
  .filter((text) => text !== "__metadata__");
const tensors = fc.uniqueArray(
  fc.record({ name, dtype: fc.constantFrom(...wholeBytes), shape: fc.array(fc.nat(5), { maxLength: 4 }) }),
  { selector: (tensor) => tensor.name, maxLength: 20 },
);
const metadata = fc.uniqueArray(fc.tuple(name, fc.string({ unit: "grapheme" })), {
  selector: ([key]) => key,
  maxLength: 5,
});

test("parse ∘ serialize = identity, order and metadata included", () => {
  fc.assert(
    fc.property(tensors, metadata, (specs, entries) => {
      const { bytes, fileByteLength, tensors: placed } = serializeHeader(specs, new Map(entries));
      expect(bytes.byteLength % 8).toBe(0);
      const header = parseHeader(bytes.subarray(8), fileByteLength, "made.safetensors");
      expect([...header.metadata]).toEqual(entries);
      const byName = (a: { name: string }, b: { name: string }) => (a.name < b.name ? -1 : 1);
      expect([...header.tensors].sort(byName)).toEqual([...placed].sort(byName));
    }),
  );
});

test("an index keeps names that objects would lose", () => {
  const json =
    '{"metadata":{"total_size":12},"weight_map":{"2":"a.safetensors","__proto__":"b.safetensors","1":"a.safetensors"}}';
  const index = parseShardIndex(new TextEncoder().encode(json), "index.json");
  expect([...index.weightMap]).toEqual([
    ["2", "a.safetensors"],
    ["__proto__", "b.safetensors"],
    ["1", "a.safetensors"],
  ]);
  expect(index.totalSize).toBe(12);
});

test.each([
  "../up.safetensors",
  "/root.safetensors",
  "C:\\x.safetensors",
  "a/b.safetensors",
  "a\\b.safetensors",
  "a.bin",
  "",
  ".hidden.safetensors",
  "x\u0007.safetensors",
])("an index that names %j is refused", (shard) => {
  const json = JSON.stringify({ weight_map: { "a.weight": shard } });
  expect(() => parseShardIndex(new TextEncoder().encode(json), "index.json")).toThrow(
    expect.objectContaining({ code: "DONOR_INDEX_PATH" }),
  );
});

test("an index with a tensor twice is refused", () => {
  const json = '{"weight_map":{"a":"x.safetensors","a":"y.safetensors"}}';
  expect(() => parseShardIndex(new TextEncoder().encode(json), "index.json")).toThrow(
    expect.objectContaining({ code: "DONOR_INDEX_DUPLICATE" }),
  );
});
