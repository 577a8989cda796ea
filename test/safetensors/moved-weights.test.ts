import { expect, test } from "vitest";
import { decodeFloats, encodeFloats, MOVED_WEIGHTS } from "../../dist/safetensors/float-bits.js";

test.each(["BF16", "F16"] as const)("every finite %s comes back bit for bit, -0 as +0", (dtype) => {
  const halves = Uint16Array.from({ length: 65536 }, (_, bits) => bits);
  const exponentMask = dtype === "BF16" ? 0x7f80 : 0x7c00;
  const back = new Uint16Array(
    encodeFloats(decodeFloats(new Uint8Array(halves.buffer), dtype), dtype, MOVED_WEIGHTS).buffer,
  );
  for (let bits = 0; bits < 65536; bits++) {
    if ((bits & exponentMask) === exponentMask && (bits & ~exponentMask & 0x7fff) !== 0) continue;
    expect(back[bits], bits.toString(16)).toBe(bits === 0x8000 ? 0 : bits);
  }
});

test.each(["BF16", "F16"] as const)(
  "between two neighbours %s rounds to the nearer, halfway to the even one",
  (dtype) => {
    const pairs = [0x0001, 0x03ff, 0x0400, 0x1234, 0x3c00, 0x3fff, 0x4a7b];
    for (const low of pairs) {
      const [a, b] = decodeFloats(new Uint8Array(Uint16Array.of(low, low + 1).buffer), dtype);
      const rounded = new Uint16Array(
        encodeFloats(
          Float32Array.of(a + (b - a) * 0.25, a + (b - a) * 0.5, a + (b - a) * 0.75, -(a + (b - a) * 0.5)),
          dtype,
          MOVED_WEIGHTS,
        ).buffer,
      );
      const even = low % 2 === 0 ? low : low + 1;
      expect([...rounded], low.toString(16)).toEqual([low, even, low + 1, even | 0x8000]);
    }
  },
);

test("too large becomes the largest finite number; F32 is copied, -0 as +0", () => {
  expect([...decodeFloats(encodeFloats(Float32Array.of(1e6, -1e6), "F16", MOVED_WEIGHTS), "F16")]).toEqual([
    65504, -65504,
  ]);
  expect(decodeFloats(encodeFloats(Float32Array.of(3.4e38), "BF16", MOVED_WEIGHTS), "BF16")[0]).toBeLessThan(3.4e38);
  expect([...decodeFloats(encodeFloats(Float32Array.of(-0, 1.5, -2e-40), "F32", MOVED_WEIGHTS), "F32")]).toEqual([
    0,
    1.5,
    Math.fround(-2e-40),
  ]);
});

test("what overflows is the caller's to say, infinities stay; memory is shared only where asked for", () => {
  expect([...decodeFloats(encodeFloats(Float32Array.of(1e6, -Infinity), "F16"), "F16")]).toEqual([Infinity, -Infinity]);
  const clamped = encodeFloats(Float32Array.of(1e6, -Infinity, Infinity), "F16", { overflow: "clamp" });
  expect([...decodeFloats(clamped, "F16")]).toEqual([65504, -Infinity, Infinity]);
  const bytes = new Uint8Array(12);
  expect(decodeFloats(bytes.subarray(4), "F32").buffer).toBe(bytes.buffer);
  expect(decodeFloats(bytes.subarray(3, 11), "F32", "copy").buffer).not.toBe(bytes.buffer);
  expect(decodeFloats(bytes.subarray(1, 5), "BF16", "copy")).toHaveLength(2);
  const values = Float32Array.of(-0, 1);
  expect(encodeFloats(values, "F32").buffer).toBe(values.buffer);
  expect(encodeFloats(values, "F32", { negativeZero: "drop" }).buffer).not.toBe(values.buffer);
  expect(Object.is(values[0], -0)).toBe(true);
});
