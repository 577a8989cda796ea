import { describe, expect, it } from "vitest";
import { encodeBandReference } from "../../dist/pack/reference.js";
import { measureWords } from "../../dist/pack/statistics.js";
import type { FloatDtype } from "../../src/safetensors/dtypes.js";
import { gaussianBand, seededRandom, wildBand } from "./random-bands.js";

describe.each(["BF16", "F16", "F32"] as FloatDtype[])("the estimate for %s", (dtype) => {
  it("is the coded size up to each stream's last byte", () => {
    const random = seededRandom(5);
    for (const raw of [gaussianBand(dtype, 20_001, 0.3, random), wildBand(dtype, 5000, random)]) {
      const measured = measureWords(dtype, raw);
      const coded = encodeBandReference(dtype, raw).byteLength;
      const excess = coded - measured.headBytes - measured.blockBytes - measured.codedBits / 8;
      // Eight streams and a plane end in whole bytes.
      expect(excess).toBeGreaterThanOrEqual(0);
      expect(excess).toBeLessThan(9);
    }
  });

  it("counts both zeros, and no code beats the bound", () => {
    const raw = gaussianBand(dtype, 20_000, 0.6745, seededRandom(6));
    raw[raw.byteLength - 1] = 0x80;
    raw.fill(0, raw.byteLength - (dtype === "F32" ? 4 : 2), raw.byteLength - 1);
    const measured = measureWords(dtype, raw);
    const words = dtype === "F32" ? new Uint32Array(raw.buffer) : new Uint16Array(raw.buffer);
    const signless = dtype === "F32" ? 0x7fffffff : 0x7fff;
    expect(measured.zeros).toBe(words.filter((word) => (word & signless) === 0).length);
    expect(measured.codedBits).toBeGreaterThanOrEqual(measured.boundBits);
    expect(measured.singleCodeBits).toBeGreaterThanOrEqual(measured.boundBits);
    expect(measured.rawMaskBits).toBeGreaterThanOrEqual(measured.boundBits);
  });
});
