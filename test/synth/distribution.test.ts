import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { floatBits } from "../../dist/safetensors/float-bits.js";
import { type Distribution, quantileBits, TABLE_SIZE, unitQuantiles } from "../../dist/synth/distribution.js";
import { WeightStream } from "../../dist/synth/weight-stream.js";

const float = new DataView(new ArrayBuffer(4));

function fromBits(bits: number, dtype: "BF16" | "F16" | "F32"): number {
  if (dtype === "F16") {
    const mantissa = bits & 0x3ff;
    const exponent = (bits >> 10) & 31;
    const magnitude =
      exponent === 0
        ? mantissa * 2 ** -24
        : exponent === 31
          ? Number.POSITIVE_INFINITY
          : (1 + mantissa / 1024) * 2 ** (exponent - 15);
    return bits & 0x8000 ? -magnitude : magnitude;
  }
  float.setUint32(0, dtype === "BF16" ? bits * 65_536 : bits);
  return float.getFloat32(0);
}

/** Moments of `count` BF16 weights of a tensor, and the share v1's default cut would take if they were one tile. */
function measure(distribution: Distribution, columns = 1024, count = 1 << 20) {
  const words = new Uint32Array(count / 2);
  new WeightStream("7", "w", quantileBits(distribution, 0.02, "BF16"), columns).fill(words, 0);
  const weights = Array.from(new Uint16Array(words.buffer), (bits) => fromBits(bits, "BF16"));
  const mean = weights.reduce((sum, w) => sum + w, 0) / count;
  const variance = weights.reduce((sum, w) => sum + w * w, 0) / count;
  const kurtosis = weights.reduce((sum, w) => sum + w ** 4, 0) / count / variance ** 2;
  const meanMagnitude = weights.reduce((sum, w) => sum + Math.abs(w), 0) / count;
  const cut = 0.99596 * 0.355 * meanMagnitude;
  const share = weights.filter((w) => Math.abs(w) < cut).length / count;
  return { mean, std: Math.sqrt(variance), kurtosis, share };
}

describe("what the weights look like", () => {
  test("gaussian: std 0.02, kurtosis 3, and 22.2 % below the default cut", () => {
    const { mean, std, kurtosis, share } = measure("gaussian");
    expect(Math.abs(mean)).toBeLessThan(1e-4);
    expect(std).toBeCloseTo(0.02, 4);
    expect(kurtosis).toBeGreaterThan(2.97);
    expect(kurtosis).toBeLessThan(3.03);
    expect(Math.abs(share - 0.222)).toBeLessThan(0.003);
  });

  test("uniform: std 0.02, kurtosis 9/5, 17.7 % below the cut", () => {
    const { std, kurtosis, share } = measure("uniform");
    expect(std).toBeCloseTo(0.02, 4);
    expect(Math.abs(kurtosis - 1.8)).toBeLessThan(0.01);
    expect(Math.abs(share - 0.177)).toBeLessThan(0.003);
  });

  test("student: std 0.02, tails far heavier than a Gaussian's, a quarter and more below the cut", () => {
    const { std, kurtosis, share } = measure("student");
    expect(Math.abs(std - 0.02)).toBeLessThan(2e-4);
    expect(kurtosis).toBeGreaterThan(10);
    expect(share).toBeGreaterThan(0.24);
  });

  test("weak channels: between 32 and 43 % below the cut, and whole columns are weak", () => {
    const { share } = measure("weak-channels");
    expect(share).toBeGreaterThan(0.32);
    expect(share).toBeLessThan(0.43);
    const columns = 64;
    const words = new Uint32Array((columns * 512) / 2);
    new WeightStream("7", "w", quantileBits("weak-channels", 0.02, "BF16"), columns).fill(words, 0);
    const weights = new Uint16Array(words.buffer);
    const columnMean = Array.from({ length: columns }, (_, column) => {
      let sum = 0;
      for (let row = 0; row < 512; row++) sum += Math.abs(fromBits(weights[row * columns + column], "BF16"));
      return sum / 512;
    });
    const weak = columnMean.filter((m) => m < 0.005).length;
    expect(weak).toBeGreaterThan(columns * 0.1);
    expect(weak).toBeLessThan(columns * 0.5);
    expect(columnMean.every((m) => m < 0.0025 || m > 0.013)).toBe(true);
  });

  test("normal quantiles are those of the tables", () => {
    // Python: statistics.NormalDist().inv_cdf(p), in units of the table's std
    const values = unitQuantiles("gaussian");
    const scale = values[TABLE_SIZE - 1] / 4.324919040826044;
    for (const [k, expected] of [
      [32_768, 1.9124056051512083e-5],
      [49_152, 0.674513759065716],
      [63_897, 1.9599378772931504],
      [65_470, 3.090395490077761],
    ]) {
      expect(values[k] / scale).toBeCloseTo(expected, 9);
    }
    expect(scale).toBeCloseTo(1, 4);
  });
});

describe("one weight depends on seed, name and position alone", () => {
  test("any chunking gives the same words", () => {
    fc.assert(
      fc.property(
        fc.constantFrom<Distribution>("gaussian", "weak-channels"),
        fc.constantFrom<"BF16" | "F32">("BF16", "F32"),
        fc.integer({ min: 1, max: 97 }),
        fc.array(fc.integer({ min: 1, max: 60 }), { minLength: 1, maxLength: 8 }),
        fc.integer({ min: 0, max: 2 ** 33 }),
        (distribution, dtype, columns, parts, start) => {
          const table = quantileBits(distribution, 0.02, dtype);
          const perWord = dtype === "F32" ? 2 : 1;
          const total = parts.reduce((sum, part) => sum + part, 0);
          const whole = new Uint32Array(total * perWord);
          new WeightStream("s", "t", table, columns).fill(whole, start);
          const stream = new WeightStream("s", "t", table, columns);
          let done = 0;
          for (const part of parts) {
            const words = new Uint32Array(part * perWord);
            stream.fill(words, start + done);
            expect(words).toEqual(whole.subarray(done * perWord, (done + part) * perWord));
            done += part;
          }
        },
      ),
      { numRuns: 60 },
    );
  });

  test("other seeds, names and 2^32-word segments give other words", () => {
    const table = quantileBits("uniform", 0.02, "BF16");
    const first = (seed: string, name: string, at: number) => {
      const words = new Uint32Array(64);
      new WeightStream(seed, name, table, 64).fill(words, at);
      return words.join();
    };
    const streams = [
      first("0", "a", 0),
      first("1", "a", 0),
      first("0", "b", 0),
      first("0", "a", 2 ** 32),
      first("0", "a", 1),
    ];
    expect(new Set(streams).size).toBe(streams.length);
  });

  test("across the border between two segments", () => {
    const table = quantileBits("uniform", 0.02, "BF16");
    const whole = new Uint32Array(8);
    new WeightStream("0", "a", table, 64).fill(whole, 2 ** 32 - 4);
    const after = new Uint32Array(4);
    new WeightStream("0", "a", table, 64).fill(after, 2 ** 32);
    expect(whole.subarray(4)).toEqual(after);
  });
});

describe("rounding to a dtype", () => {
  test("every half comes back as itself, midpoints go to even", () => {
    for (let bits = 0; bits < 0x7c00; bits++) {
      const value = fromBits(bits, "F16");
      expect(floatBits(value, "F16")).toBe(bits);
      if (bits < 0x7bff) {
        const middle = (value + fromBits(bits + 1, "F16")) / 2;
        expect(floatBits(middle, "F16")).toBe(bits % 2 === 0 ? bits : bits + 1);
      }
    }
    expect(floatBits(-1, "F16")).toBe(0xbc00);
    expect(floatBits(70_000, "F16")).toBe(0x7c00);
  });

  test("bfloat16 rounds to nearest, ties to even", () => {
    expect(floatBits(1, "BF16")).toBe(0x3f80);
    expect(floatBits(1 + 2 ** -8, "BF16")).toBe(0x3f80);
    expect(floatBits(1 + 3 * 2 ** -8, "BF16")).toBe(0x3f82);
    expect(floatBits(1 + 2 ** -8 + 2 ** -20, "BF16")).toBe(0x3f81);
    expect(floatBits(-2, "BF16")).toBe(0xc000);
  });
});
