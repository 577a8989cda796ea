import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { BandDecoder } from "../../dist/pack/band-decoder.js";
import { BandEncoder } from "../../dist/pack/band-encoder.js";
import { MAX_BAND_ELEMENTS } from "../../dist/pack/band-format.js";
import { decodeBandReference, encodeBandReference } from "../../dist/pack/reference.js";
import type { FloatDtype } from "../../src/safetensors/dtypes.js";
import { gaussianBand, seededRandom, wildBand } from "./random-bands.js";

const DTYPES: FloatDtype[] = ["BF16", "F16", "F32"];
const encoder = new BandEncoder();
const decoder = new BandDecoder();

function encode(dtype: FloatDtype, raw: Uint8Array): Uint8Array | undefined {
  encoder.input(raw.byteLength).set(raw);
  const packed = encoder.encode(dtype, raw.byteLength / (dtype === "F32" ? 4 : 2));
  expect(encoder.strayWrite()).toBeUndefined();
  return packed;
}

function decode(dtype: FloatDtype, packed: Uint8Array, elementCount: number): Uint8Array {
  decoder.input(packed.byteLength).set(packed);
  const raw = decoder.decode(dtype, packed.byteLength, elementCount, "test").slice();
  expect(decoder.strayWrite()).toBeUndefined();
  return raw;
}

/** Kernel and reference agree on the coded bytes, and both give the raw bytes back. */
function expectAgreement(dtype: FloatDtype, raw: Uint8Array): void {
  const elementCount = raw.byteLength / (dtype === "F32" ? 4 : 2);
  const packed = encode(dtype, raw);
  const spec = encodeBandReference(dtype, raw);
  expect(Buffer.compare(decodeBandReference(dtype, spec, elementCount, "spec"), raw)).toBe(0);
  if (packed === undefined) {
    expect(spec.byteLength).toBeGreaterThanOrEqual(raw.byteLength);
    return;
  }
  expect(Buffer.compare(packed, spec)).toBe(0);
  expect(Buffer.compare(decode(dtype, packed, elementCount), raw)).toBe(0);
}

describe.each(DTYPES)("a band of %s", (dtype) => {
  it("is coded alike by kernel and reference, at every length around the vector and block sizes", () => {
    const random = seededRandom(1);
    const lengths = [...Array(70).keys()]
      .slice(1)
      .concat([127, 128, 129, 1000, 65_535, 65_536, 65_537, 70_003, 131_073]);
    for (const length of lengths) {
      expectAgreement(dtype, gaussianBand(dtype, length, 0.2825, random));
      if (length < 2000) expectAgreement(dtype, wildBand(dtype, length, random));
    }
  });

  it("survives any words at all", () => {
    fc.assert(
      fc.property(fc.integer(), fc.integer({ min: 1, max: 700 }), (seed, length) => {
        expectAgreement(dtype, wildBand(dtype, length, seededRandom(seed)));
        expectAgreement(dtype, gaussianBand(dtype, length, 0.6745, seededRandom(seed)));
      }),
      { numRuns: 100 },
    );
  });

  it("keeps every 16-bit pattern in the upper half of a word: -0, NaN, infinities, subnormals", () => {
    const size = dtype === "F32" ? 4 : 2;
    const raw = new Uint8Array(65_536 * size);
    const view = new DataView(raw.buffer);
    for (let word = 0; word < 65_536; word++) {
      if (size === 2) view.setUint16(2 * word, word, true);
      else view.setUint32(4 * word, ((word << 16) | (word % 3 === 0 ? 0 : word)) >>> 0, true);
    }
    // Every pattern once does not shrink; with as many zeros behind, it does and is coded.
    const padded = new Uint8Array(4 * raw.byteLength);
    padded.set(raw);
    const packed = encode(dtype, padded);
    expect(packed).toBeDefined();
    expect(Buffer.compare(decode(dtype, packed!, 4 * 65_536), padded)).toBe(0);
  });

  it("codes a band of one repeated word without any stream", () => {
    const size = dtype === "F32" ? 4 : 2;
    for (const word of [0, 0x0080, 0x8000, 0x3f80]) {
      const raw = new Uint8Array(3000 * size);
      const view = new DataView(raw.buffer);
      for (let i = 0; i < 3000; i++) view.setUint16(size * i + size - 2, word, true);
      expectAgreement(dtype, raw);
    }
  });

  it("leaves the mask out where a few zeros are cheaper as survivors, and codes 2:4 patterns by the byte", () => {
    const random = seededRandom(9);
    const size = dtype === "F32" ? 4 : 2;
    for (const zeros of [0, 1, 5, 60]) {
      const raw = gaussianBand(dtype, 9000, 0, random);
      for (let i = 0; i < zeros; i++) raw.fill(0, 150 * i * size, (150 * i + 1) * size);
      expectAgreement(dtype, raw);
      const packed = encode(dtype, raw)!;
      expect((packed[1] & 4) !== 0).toBe(false);
    }
    const raw = gaussianBand(dtype, 9000, 0, random);
    for (let i = 0; i < 9000; i++)
      if (random() < 0.5 === i % 4 < 2 && i % 2 === 0) raw.fill(0, i * size, (i + 2) * size);
    expectAgreement(dtype, raw);
    expect((encode(dtype, raw)![1] & 4) !== 0).toBe(true);
  });

  it("fills the largest band", () => {
    const raw = gaussianBand(dtype, MAX_BAND_ELEMENTS, 0.2825, seededRandom(7));
    const packed = encode(dtype, raw);
    expect(Buffer.compare(decode(dtype, packed!, MAX_BAND_ELEMENTS), raw)).toBe(0);
    const wild = wildBand(dtype, MAX_BAND_ELEMENTS, seededRandom(8));
    const wildPacked = encode(dtype, wild);
    if (wildPacked !== undefined) {
      expect(Buffer.compare(decode(dtype, wildPacked, MAX_BAND_ELEMENTS), wild)).toBe(0);
    }
  });
});

describe("the size of a Gaussian BF16 band", () => {
  it.each([
    [0, 0.685],
    [0.2825, 0.56],
    [0.6745, 0.37],
  ])("cut at %f deviations stays under its target", (cut, target) => {
    const raw = gaussianBand("BF16", MAX_BAND_ELEMENTS, cut, seededRandom(3));
    expect(encode("BF16", raw)!.byteLength / raw.byteLength).toBeLessThanOrEqual(target);
  });

  it("leaves out planes that hold only zeros: F32 that was BF16, F16 that was BF16", () => {
    const bf16 = new Uint16Array(gaussianBand("BF16", 50_000, 0.2825, seededRandom(4)).buffer);
    const packed = encode("BF16", new Uint8Array(bf16.buffer))!;
    const f32 = Uint32Array.from(bf16, (word) => word << 16);
    const asF32 = encode("F32", new Uint8Array(f32.buffer))!;
    expect(asF32.byteLength).toBe(packed.byteLength);
  });
});
