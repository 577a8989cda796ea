import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { isPhysariumError } from "../../dist/errors.js";
import { readHeader, type SafetensorsHeader } from "../../dist/safetensors/header.js";
import { memorySource } from "../../dist/safetensors/source.js";
import { hasShared, SHARED } from "../shared.js";

/** A file from its header's JSON and a data section of `dataByteLength` position-coded bytes. */
function file(json: string | Uint8Array, dataByteLength = 0, announced?: bigint): Uint8Array {
  const header = typeof json === "string" ? new TextEncoder().encode(json) : json;
  const bytes = new Uint8Array(8 + header.byteLength + dataByteLength);
  new DataView(bytes.buffer).setBigUint64(0, announced ?? BigInt(header.byteLength), true);
  bytes.set(header, 8);
  for (let i = 0; i < dataByteLength; i++) bytes[8 + header.byteLength + i] = i + 1;
  return bytes;
}

const f32 = (begin: number, end: number, shape = "[1]") =>
  `{"dtype":"F32","shape":${shape},"data_offsets":[${begin},${end}]}`;

/** The reference implementation's cases and those of its README, as literals: what must be refused, with which code. */
const REFUSED: Record<string, [bytes: Uint8Array, code: string]> = {
  "an empty file": [new Uint8Array(0), "DONOR_HEADER_TOO_SMALL"],
  "seven bytes": [new Uint8Array(7), "DONOR_HEADER_TOO_SMALL"],
  "a header longer than the file": [file("", 0, 60n), "DONOR_HEADER_LENGTH"],
  "a file cut off inside its header": [file(`{"a":${f32(0, 4)}}`).subarray(0, 38), "DONOR_HEADER_LENGTH"],
  "a header over the cap": [file("{}", 0, 100_000_001n), "DONOR_HEADER_TOO_LARGE"],
  "a header of 2^60 bytes": [file("{}", 0, 1n << 60n), "DONOR_HEADER_TOO_LARGE"],
  "a header of 2^64 - 1 bytes": [file("{}", 0, (1n << 64n) - 1n), "DONOR_HEADER_TOO_LARGE"],
  "bytes that are no UTF-8": [file(new Uint8Array([0xff])), "DONOR_HEADER_JSON"],
  "a name that is no UTF-8": [
    file(new Uint8Array([0x7b, 0x22, 0xc3, 0x28, 0x22, 0x3a, 0x31, 0x7d])),
    "DONOR_HEADER_JSON",
  ],
  "no JSON": [file("{"), "DONOR_HEADER_JSON"],
  "an array": [file("[]"), "DONOR_HEADER_JSON"],
  "a string": [file('"x"'), "DONOR_HEADER_JSON"],
  "something after the object": [file("{} {}"), "DONOR_HEADER_JSON"],
  "a trailing comma": [file(`{"a":${f32(0, 4)},}`, 4), "DONOR_HEADER_JSON"],
  "a raw control character in a name": [file(`{"a\n":${f32(0, 4)}}`, 4), "DONOR_HEADER_JSON"],
  "half a surrogate pair": [file(`{"\\ud800":${f32(0, 4)}}`, 4), "DONOR_HEADER_JSON"],
  "a duplicate key": [file(`{"a":${f32(0, 4)},"a":${f32(0, 4)}}`, 4), "DONOR_HEADER_DUPLICATE"],
  "a duplicate key spelled with an escape": [
    file(`{"a":${f32(0, 4)},"\\u0061":${f32(0, 4)}}`, 4),
    "DONOR_HEADER_DUPLICATE",
  ],
  "two __metadata__": [file('{"__metadata__":{},"__metadata__":{}}'), "DONOR_HEADER_DUPLICATE"],
  "a duplicate dtype": [
    file('{"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}}', 4),
    "DONOR_HEADER_DUPLICATE",
  ],
  "metadata that is no string": [file('{"__metadata__":{"format":1}}'), "DONOR_HEADER_JSON"],
  "metadata that is no object": [file('{"__metadata__":"pt"}'), "DONOR_HEADER_JSON"],
  "an unknown dtype": [file('{"a":{"dtype":"F12","shape":[1],"data_offsets":[0,4]}}', 4), "DONOR_HEADER_DTYPE"],
  "a missing shape": [file('{"a":{"dtype":"F32","data_offsets":[0,4]}}', 4), "DONOR_HEADER_TENSOR"],
  "three offsets": [file('{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4,8]}}', 4), "DONOR_HEADER_TENSOR"],
  "a fractional dimension": [file(`{"a":${f32(0, 4, "[1.0]")}}`, 4), "DONOR_HEADER_JSON"],
  "a dimension with an exponent": [file(`{"a":${f32(0, 4, "[1e0]")}}`, 4), "DONOR_HEADER_JSON"],
  "a leading zero": [file(`{"a":${f32(0, 4, "[01]")}}`, 4), "DONOR_HEADER_JSON"],
  "a negative offset": [file('{"a":{"dtype":"F32","shape":[1],"data_offsets":[-4,0]}}', 4), "DONOR_HEADER_JSON"],
  "an offset past 2^53": [
    file('{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,9007199254740993]}}', 4),
    "DONOR_HEADER_JSON",
  ],
  "reversed offsets": [file('{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}', 4), "DONOR_HEADER_OFFSETS"],
  "a size that does not fit the shape": [file(`{"a":${f32(0, 4, "[2]")}}`, 4), "DONOR_HEADER_SIZE"],
  "sub-byte elements that fill no byte": [
    file('{"a":{"dtype":"F4","shape":[3],"data_offsets":[0,1]}}', 1),
    "DONOR_HEADER_SIZE",
  ],
  "more elements than fit 64 bits": [
    file(`{"a":${f32(0, 4, "[4294967296,4294967296,4]")}}`, 4),
    "DONOR_HEADER_OVERFLOW",
  ],
  "more bytes than fit 64 bits": [file(`{"a":${f32(0, 4, "[9007199254740991,2]")}}`, 4), "DONOR_HEADER_OVERFLOW"],
  "a hole between tensors": [file(`{"a":${f32(0, 4)},"b":${f32(8, 12)}}`, 12), "DONOR_HEADER_OFFSETS"],
  "offsets that do not start at 0": [file(`{"a":${f32(4, 8)}}`, 8), "DONOR_HEADER_OFFSETS"],
  "overlapping tensors": [file(`{"a":${f32(0, 4)},"b":${f32(0, 4)}}`, 4), "DONOR_HEADER_OFFSETS"],
  "bytes behind the data": [file(`{"a":${f32(0, 4)}}`, 8), "DONOR_HEADER_END"],
  "data cut off": [file(`{"a":${f32(0, 4)}}`, 3), "DONOR_HEADER_END"],
};

/** What must be accepted, and what it holds. */
const ACCEPTED: Record<string, [bytes: Uint8Array, tensors: string[]]> = {
  "no tensors": [file("{}"), []],
  "leading white space": [file("\t\n\r {}"), []],
  "trailing padding": [file("{}\x20\x20\x20\x20"), []],
  "__metadata__ null": [file('{"__metadata__":null}'), []],
  "a scalar": [file(`{"a":${f32(0, 4, "[]")}}`, 4), ["a F32 [] @ 0"]],
  "an empty tensor": [file('{"test":{"dtype":"I32","shape":[2,0],"data_offsets":[0,0]}}'), ["test I32 [2,0] @ 0"]],
  "__proto__ as a name": [file(`{"__proto__":${f32(0, 4)}}`, 4), ["__proto__ F32 [1] @ 0"]],
  "integer-like names keep their order": [
    file(`{"b":${f32(0, 4)},"1":${f32(4, 8)},"0":${f32(8, 12)}}`, 12),
    ["b F32 [1] @ 0", "1 F32 [1] @ 4", "0 F32 [1] @ 8"],
  ],
  "header order other than data order": [
    file(`{"b":${f32(4, 8)},"a":${f32(0, 4)}}`, 8),
    ["a F32 [1] @ 0", "b F32 [1] @ 4"],
  ],
  "an unaligned data section": [file(`{"a":${f32(0, 4)}} `, 4), ["a F32 [1] @ 0"]],
  "unknown members of a tensor": [
    file('{"a":{"dtype":"F32","x":[{"y":null}],"shape":[1],"data_offsets":[0,4]}}', 4),
    ["a F32 [1] @ 0"],
  ],
  "names in any script": [
    file('{"__metadata__":{"format":"pt","ü":"✓"},"wéight":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}', 4),
    ["wéight BF16 [2] @ 0"],
  ],
  "sub-byte elements that fill bytes": [
    file('{"a":{"dtype":"F4","shape":[2],"data_offsets":[0,1]}}', 1),
    ["a F4 [2] @ 0"],
  ],
};

const read = (bytes: Uint8Array): Promise<SafetensorsHeader> => readHeader(memorySource(bytes), "case.safetensors");

describe("headers that are refused", () => {
  test.each(Object.entries(REFUSED))("%s", async (_, [bytes, code]) => {
    const error: unknown = await read(bytes).catch((refusal: unknown) => refusal);
    expect(isPhysariumError(error) ? error.code : error).toBe(code);
    expect((error as Error).message).toContain("case.safetensors");
  });
});

describe("headers that are accepted", () => {
  test.each(Object.entries(ACCEPTED))("%s", async (_, [bytes, tensors]) => {
    const header = await read(bytes);
    const found = header.tensors.map(
      ({ name, dtype, shape, byteOffset }) =>
        `${name} ${dtype} [${shape.join()}] @ ${byteOffset - header.dataByteOffset}`,
    );
    expect(found).toEqual(tensors);
  });

  test("metadata survives", async () => {
    const header = await read(file('{"__metadata__":{"format":"pt","__proto__":"x","1":"y"}}'));
    expect([...header.metadata]).toEqual([
      ["format", "pt"],
      ["__proto__", "x"],
      ["1", "y"],
    ]);
  });
});

describe.skipIf(!hasShared)("the 30 files of ../shared/conformance", () => {
  const folder = join(SHARED, "conformance/safetensors");
  const manifest = hasShared
    ? (JSON.parse(readFileSync(join(folder, "manifest.json"), "utf8")) as { file: string; expect: string }[])
    : [];

  test("all of them are there", () => expect(manifest).toHaveLength(30));

  test.each(manifest)("$file: $expect", async ({ file: name, expect: expected }) => {
    const result: unknown = await read(readFileSync(join(folder, name))).catch((error: unknown) => error);
    if (expected.startsWith("reject")) {
      expect(isPhysariumError(result, "DONOR_HEADER_")).toBe(true);
    } else {
      expect(result).not.toBeInstanceOf(Error);
      if (expected.startsWith("accept: 0 tensors")) expect((result as SafetensorsHeader).tensors).toEqual([]);
      else expect((result as SafetensorsHeader).tensors.length).toBeGreaterThan(0);
    }
  });
});
