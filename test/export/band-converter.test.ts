import { describe, expect, it } from "vitest";
import { BandConverter } from "../../dist/export/band-converter.js";
import { decodeRows } from "../../dist/export/gguf/import-conversion.js";
import { TENSOR_TYPES, type TensorType, tensorBytes } from "../../dist/export/gguf/types.js";
import { QUANTISED_TYPES, Quantiser } from "../../dist/export/quantiser.js";
import { convertBand, type ExportType, newTally } from "../../dist/export/weight-band.js";
import type { FloatDtype } from "../../dist/safetensors/dtypes.js";
import { encodeFloats } from "../../dist/safetensors/float-bits.js";
import { seededRandom } from "../pack/random-bands.js";

const DTYPES: FloatDtype[] = ["BF16", "F16", "F32"];
const converter = new BandConverter();
const quantiser = new Quantiser();
const random = seededRandom(11);

/** Every size a weight may have, zeros of both signs, ties of rounding among them. */
function weightsOf(count: number, spread = 1): Float32Array {
  return Float32Array.from({ length: count }, (_, i) => {
    if (i % 7 === 3) return i % 2 === 0 ? 0 : -0;
    if (i % 11 === 5) return (random() < 0.5 ? -1 : 1) * (1 + 2 ** -11) * 2 ** Math.floor(-20 * random());
    return (random() - 0.5) * spread * 2 ** Math.floor(-24 * random() ** 3);
  });
}

function expectAlike(dtype: FloatDtype, type: ExportType, weights: Float32Array, importance?: Float32Array): void {
  const bytes = encodeFloats(weights, dtype, { memory: "copy" });
  const band = { bytes, dtype, type, importance, tensor: "t", firstElement: 0 };
  const [spec, tally] = [
    { ...newTally(), squaredError: 0.25 },
    { ...newTally(), squaredError: 0.25 },
  ];
  const expected = convertBand(band, quantiser, spec);
  const out = new Uint8Array(expected.byteLength + 3).subarray(3);
  converter.convert(band, out, tally);
  expect(Buffer.compare(out, expected), `${dtype} to ${type}`).toBe(0);
  expect(tally).toEqual(spec);
}

describe.each(DTYPES)("a band of %s", (dtype) => {
  it("becomes what the readable conversion makes of it, sums and zeros too, at any length", () => {
    for (const type of [...DTYPES, ...QUANTISED_TYPES]) {
      const { blockLength } = TENSOR_TYPES[type];
      for (const blocks of blockLength === 1 ? [1, 2, 3, 5, 4095, 4097, 9001] : [1, 3, 17, 4096 / blockLength + 1]) {
        expectAlike(dtype, type, weightsOf(blocks * blockLength));
      }
    }
  });

  it("with an importance of columns, in rows of any length", () => {
    for (const type of QUANTISED_TYPES) {
      for (const rowLength of [256, 768, 4352]) {
        const importance = Float32Array.from({ length: rowLength }, () => random());
        expectAlike(dtype, type, weightsOf(7 * rowLength), importance);
      }
    }
  });

  it("is refused at its first weight that is no number, and at one that the type cannot hold", () => {
    const refusal = (weights: Float32Array, type: ExportType): unknown => {
      const bytes = encodeFloats(weights, dtype, { memory: "copy" });
      const band = { bytes, dtype, type, tensor: "t", firstElement: 512 };
      let error: unknown;
      try {
        converter.convert(band, new Uint8Array(tensorBytes(type, weights.length)), newTally());
      } catch (caught) {
        error = caught;
      }
      expect(() => convertBand(band, quantiser, newTally())).toThrow((error as Error).message);
      return error;
    };
    for (const type of ["F16", "BF16", "Q8_0", "Q4_K"] as const) {
      if (type === dtype) continue;
      const weights = weightsOf(8192);
      weights[5000] = Number.NaN;
      weights[6000] = Number.POSITIVE_INFINITY;
      expect(refusal(weights, type)).toMatchObject({ code: "DONOR_NON_FINITE", details: { index: 5512 } });
    }
    if (dtype === "F16") return;
    for (const type of ["F16", "Q8_0"] as const) {
      const weights = weightsOf(8192);
      weights[4999] = -1e9;
      expect(refusal(weights, type)).toMatchObject({ code: "DONOR_EXPORT_RANGE" });
    }
  });
});

describe("every F32 of 16 significant bits, and all its neighbours' ties,", () => {
  it("narrows to F16 and BF16 as the readable conversion has it", () => {
    for (let low = 0; low < 4; low++) {
      const bits = Uint32Array.from({ length: 65_536 }, (_, i) => ((i << 16) | [0, 0x8000, 0x7fff, 0x1000][low]) >>> 0);
      const all = new Float32Array(bits.buffer).filter((value) => Math.abs(value) < 65_000);
      expectAlike("F32", "F16", all);
      expectAlike("F32", "BF16", all);
    }
  });

  it("widens from F16 likewise", () => {
    const bits = Uint16Array.from({ length: 65_536 }, (_, i) => i).filter((word) => (word & 0x7c00) !== 0x7c00);
    const bytes = new Uint8Array(bits.buffer);
    const band = { bytes, dtype: "F16", type: "F32", tensor: "t", firstElement: 0 } as const;
    const out = new Uint8Array(2 * bytes.byteLength);
    converter.convert(band, out, newTally());
    expect(Buffer.compare(out, convertBand(band, quantiser, newTally()))).toBe(0);
  });
});

describe("rows of a GGUF file", () => {
  const types = Object.keys(TENSOR_TYPES) as TensorType[];

  it.each(types)("of %s decode and round as the readable form has it", (type) => {
    for (const dtype of DTYPES) {
      for (const values of ["same", "plus one"] as const) {
        const { blockLength, blockBytes } = TENSOR_TYPES[type];
        const blocks = blockLength === 1 ? 4099 : 4096 / blockLength + 3;
        const bytes = Uint8Array.from({ length: blocks * blockBytes }, () => Math.floor(random() * 256));
        mildScales(bytes, type);
        const rows = { bytes, type, dtype, values, tensor: "t" };
        const spec = decodeRows(rows);
        const out = new Uint8Array(spec.bytes.byteLength);
        const tally = converter.decode(rows, out, () => new Error("refused"));
        expect(Buffer.compare(out, spec.bytes), `${dtype}, ${values}`).toBe(0);
        expect(tally).toEqual({ zeros: spec.zeros, rounded: spec.rounded });
      }
    }
  });
});

/** Random bytes, but no scale that is no number or makes weights that F16 cannot hold. */
function mildScales(bytes: Uint8Array, type: TensorType): void {
  const { blockBytes } = TENSOR_TYPES[type];
  const halves: Partial<Record<TensorType, number[]>> = {
    Q4_1: [0, 2],
    Q5_1: [0, 2],
    Q4_K: [0, 2],
    Q5_K: [0, 2],
    Q6_K: [208],
    F32: [2],
  };
  for (let at = 0; at < bytes.byteLength; at += blockBytes) {
    for (const half of halves[type] ?? [0]) bytes[at + half + 1] &= type === "F32" ? 0xbf : 0xab;
  }
}
