import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { dequantise } from "../../dist/export/dequantise.js";
import { TENSOR_TYPES, type TensorType, tensorBytes } from "../../dist/export/gguf/types.js";
import { QUANTISED_TYPES as QUANTISED, Quantiser } from "../../dist/export/quantiser.js";
import { loadKernelModule } from "../../dist/wasm.js";
import { importanceInput, quantInput } from "./quant-input.js";

interface Fixture {
  weights: number;
  blocks_sha256: string;
  values_sha256: string;
  squared_error: number;
  blocks_base64?: string;
}
const fixture = JSON.parse(readFileSync(new URL("../fixtures/quants/llama-cpp.json", import.meta.url), "utf8"));
const types = fixture.types as Record<string, Fixture>;
const weighted = fixture.weighted as Record<string, Fixture>;
const decodedOnly = fixture.decoded as Record<string, Fixture>;

const sha256 = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex");
/** Minus zeros count as zeros: llama.cpp gives 0 · (negative scale). */
const digestOfValues = (values: Float32Array): string =>
  sha256(new Uint8Array(values.map((value) => (value === 0 ? 0 : value)).buffer));

const squaredError = (weights: Float32Array, decoded: Float32Array): number =>
  weights.reduce((sum, weight, i) => sum + (weight - decoded[i]) * (weight - decoded[i]), 0);

describe("against llama.cpp's own library", () => {
  const input = quantInput(72);
  const quantiser = new Quantiser();

  it.each(QUANTISED)("%s blocks are equal to the bit", (type) => {
    expect(types[type].weights).toBe(input.length);
    expect(sha256(quantiser.quantise(type, input))).toBe(types[type].blocks_sha256);
  });

  it.each(QUANTISED)("%s: the quantisation error is that of llama.cpp's dequantiser, exactly", (type) => {
    const decoded = dequantise(type, quantiser.quantise(type, input));
    expect(digestOfValues(decoded)).toBe(types[type].values_sha256);
    expect(squaredError(input, decoded)).toBe(types[type].squared_error);
  });

  it.each(QUANTISED)("%s with an importance for each column: blocks are equal to the bit", (type) => {
    const blocks = quantiser.quantise(type, input, importanceInput(768));
    expect(sha256(blocks)).toBe(weighted[type].blocks_sha256);
    expect(digestOfValues(dequantise(type, blocks))).toBe(weighted[type].values_sha256);
    // Whole rows one by one give the same blocks.
    const row = quantiser.quantise(type, input.subarray(768, 2 * 768), importanceInput(768));
    expect(Buffer.compare(row, blocks.subarray(row.length, 2 * row.length))).toBe(0);
  });

  it.each(["Q4_1", "Q5_0", "Q5_1", "Q5_K"] as const)("%s blocks of llama.cpp decode to llama.cpp's values", (type) => {
    const { blocks_base64 = "", blocks_sha256, values_sha256, weights, squared_error } = decodedOnly[type];
    const blocks = new Uint8Array(Buffer.from(blocks_base64, "base64"));
    expect(sha256(blocks)).toBe(blocks_sha256);
    const decoded = dequantise(type, blocks);
    expect(decoded.length).toBe(weights);
    expect(digestOfValues(decoded)).toBe(values_sha256);
    expect(squaredError(input.subarray(0, weights), decoded)).toBe(squared_error);
  });
});

describe("zeros", () => {
  const weights = fc.array(fc.oneof(fc.constant(0), fc.double({ min: -3, max: 3, noNaN: true })), {
    minLength: 256,
    maxLength: 256,
  });

  it("stay zero in every type that is marked as holding them", () => {
    const quantiser = new Quantiser();
    fc.assert(
      fc.property(weights, (values) => {
        const input = Float32Array.from(values);
        for (const type of QUANTISED) {
          if (!TENSOR_TYPES[type].holdsExactZeros) continue;
          const decoded = dequantise(type, quantiser.quantise(type, input));
          input.forEach((value, i) => {
            if (value === 0 && decoded[i] !== 0) throw new Error(`${type}: element ${i} became ${decoded[i]}`);
          });
        }
      }),
      { numRuns: 200 },
    );
  });

  it("do not all stay zero in Q4_K, which is marked so", () => {
    expect(TENSOR_TYPES.Q4_K.holdsExactZeros).toBe(false);
    const input = quantInput(3).map((value, i) => (i % 2 === 0 ? 0 : value));
    const decoded = dequantise("Q4_K", new Quantiser().quantise("Q4_K", input));
    expect(decoded.filter((value, i) => i % 2 === 0 && value !== 0).length).toBeGreaterThan(0);
  });
});

describe("errors stay within what the grid allows", () => {
  // Half a step, plus what rounding the scale to F16 adds.
  it.each([
    ["Q8_0", 32, 0.6 / 127],
    ["Q4_0", 32, 1.1 / 8],
    ["Q6_K", 256, 0.12],
    ["Q5_0", 32, 1.1 / 16],
    ["Q5_1", 32, 0.6 / 15],
    ["IQ4_NL", 32, 0.3],
    ["Q5_K", 256, 0.2],
    ["Q4_K", 256, 0.3],
  ] as const)("%s", (type, block, bound) => {
    const quantiser = new Quantiser();
    fc.assert(
      fc.property(
        fc.array(fc.double({ min: -8, max: 8, noNaN: true }), { minLength: 256, maxLength: 256 }),
        (values) => {
          const input = Float32Array.from(values);
          const decoded = dequantise(type, quantiser.quantise(type, input));
          for (let start = 0; start < 256; start += block) {
            const largest = Math.max(...input.subarray(start, start + block).map(Math.abs), 1e-3);
            for (let i = start; i < start + block; i++) {
              expect(Math.abs(decoded[i] - input[i])).toBeLessThanOrEqual(bound * largest);
            }
          }
        },
      ),
      { numRuns: 200 },
    );
  });
});

it("weights too small for any scale become zeros, without a trap", () => {
  for (const tiny of [1e-45, 1e-40, 1e-38, 1e-20, -1e-30]) {
    for (const type of QUANTISED) {
      const decoded = dequantise(type, new Quantiser().quantise(type, new Float32Array(256).fill(tiny)));
      expect(decoded.every((value) => value === 0)).toBe(true);
    }
  }
});

it("kernels write their blocks and nothing else", () => {
  const memory = new WebAssembly.Memory({ initial: 4 });
  const { exports } = new WebAssembly.Instance(loadKernelModule("quantise"), { env: { memory } });
  const kernel = exports as unknown as Record<string, (...args: number[]) => number>;
  for (const type of QUANTISED) {
    for (const superBlocks of [1, 2, 5]) {
      const count = superBlocks * 256;
      const columns = kernel.freeMemoryFrom() + 64;
      const source = columns + 256 * 4 + 64;
      const target = source + count * 4 + 64;
      const length = tensorBytes(type as TensorType, count);
      const bytes = new Uint8Array(memory.buffer);
      bytes.fill(0xa5, kernel.freeMemoryFrom());
      const input = quantInput(superBlocks);
      new Float32Array(memory.buffer, source, count).set(input);
      new Float32Array(memory.buffer, columns, 256).set(importanceInput(256));
      kernel[`quantise${type}`](source, target, count, 256, columns);
      expect(new Float32Array(memory.buffer, columns, 256)).toEqual(importanceInput(256));
      kernel[`quantise${type}`](source, target, count, count, 0);
      expect(new Float32Array(memory.buffer, source, count)).toEqual(input);
      expect(bytes.subarray(source - 64, source).every((byte) => byte === 0xa5)).toBe(true);
      expect(bytes.subarray(target - 64, target).every((byte) => byte === 0xa5)).toBe(true);
      expect(bytes.subarray(target + length).every((byte) => byte === 0xa5)).toBe(true);
    }
  }
});
