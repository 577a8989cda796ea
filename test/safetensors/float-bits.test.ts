import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  bf16OfF32Bits,
  decodeFloats,
  encodeFloats,
  f16OfF32,
  f16OfF32Bits,
  f16ToF32,
} from "../../dist/safetensors/float-bits.js";

const bitsOf = (value: number): number => new Uint32Array(new Float32Array([value]).buffer)[0];

describe("F16", () => {
  it("every number comes back from F32 with its bits", () => {
    for (let bits = 0; bits < 65_536; bits++) {
      const value = f16ToF32(bits);
      if (Number.isNaN(value)) expect(Number.isNaN(f16ToF32(f16OfF32(value)))).toBe(true);
      else expect(f16OfF32(value)).toBe(bits);
    }
  });

  it("halfway between two neighbours the even one is taken, a step beside it the nearer", () => {
    for (let bits = 0; bits < 0x7bff; bits++) {
      const [low, high] = [f16ToF32(bits), f16ToF32(bits + 1)];
      // Exact in F32: eleven bits and one more.
      const middle = bitsOf((low + high) / 2);
      expect(f16OfF32Bits(middle)).toBe(bits % 2 === 0 ? bits : bits + 1);
      expect(f16OfF32Bits(middle - 1)).toBe(bits);
      expect(f16OfF32Bits(middle + 1)).toBe(bits + 1);
    }
  });

  it("65520 and above is infinite, just below is 65504", () => {
    expect(f16OfF32(65520)).toBe(0x7c00);
    expect(f16OfF32(-65520)).toBe(0xfc00);
    expect(f16OfF32Bits(bitsOf(65520) - 1)).toBe(0x7bff);
  });
});

describe("BF16", () => {
  it("rounds to the nearest, ties to even; NaN stays NaN", () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 0xffffffff }), (bits) => {
        const exponent = (bits >>> 23) & 0xff;
        const isNaNBits = exponent === 0xff && (bits & 0x7fffff) !== 0;
        const out = bf16OfF32Bits(bits);
        if (isNaNBits) {
          expect((out & 0x7f80) === 0x7f80 && (out & 0x7f) !== 0).toBe(true);
          return;
        }
        const low = bits >>> 16;
        const rest = bits & 0xffff;
        const expected = rest > 0x8000 || (rest === 0x8000 && low % 2 === 1) ? low + 1 : low;
        expect(out).toBe(expected & 0xffff);
      }),
      { numRuns: 5000 },
    );
  });
});

it("16-bit floats keep every bit through F32, signs of zero included", () => {
  for (const dtype of ["BF16", "F16"] as const) {
    const words = Uint16Array.from({ length: 65_536 }, (_, bits) => bits).filter((bits) =>
      dtype === "BF16" ? (bits & 0x7f80) !== 0x7f80 : (bits & 0x7c00) !== 0x7c00,
    );
    const back = encodeFloats(decodeFloats(new Uint8Array(words.buffer), dtype), dtype);
    expect(Buffer.compare(back, new Uint8Array(words.buffer))).toBe(0);
  }
});
