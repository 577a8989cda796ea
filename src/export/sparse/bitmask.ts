import { PhysariumError } from "../../errors.js";
import { bytesPerFloat, type FloatDtype } from "../../safetensors/dtypes.js";

/**
 * The sparse-bitmask layout of compressed-tensors: a bit a weight, and the weights whose bit is set.
 *
 *   X.compressed   the donor's dtype, [survivors]             row after row
 *   X.bitmask      U8, [rows, ceil(cols / 8)]                 bit c & 7 of byte c >> 3 is column c; rows start on whole
 *   bytes
 *   X.row_offsets  I64, [rows]                                survivors before each row
 *   X.shape        I64, [2]
 *
 * where X is the weight's name without `.weight`. The library sets the bit where a weight differs from zero; here it is
 * set where its bits do, so that −0 survives too: the library decompresses both alike.
 * source: vllm-project/compressed-tensors 0.12 compressors/sparse_compressors/sparse_bitmask.py (Apache-2.0)
 */
export const PART_NAMES = ["compressed", "bitmask", "row_offsets", "shape"] as const;
export type PartName = (typeof PART_NAMES)[number];

export function bitmaskRowBytes(cols: number): number {
  return Math.ceil(cols / 8);
}

/** `model.layers.0.mlp.up_proj.weight` → `model.layers.0.mlp.up_proj`. */
export function moduleOf(weight: string): string {
  return weight.replace(/\.weight$/, "");
}

/** Bits of each weight of a band, as unsigned integers of the dtype's width. */
function bitsOf(bytes: Uint8Array, dtype: FloatDtype): Uint16Array | Uint32Array {
  return dtype === "F32"
    ? new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4)
    : new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 2);
}

/** Survivors of each row of a band: bytes (rows, cols) of `dtype`, aligned. */
export function countSurvivors(bytes: Uint8Array, dtype: FloatDtype, cols: number): number[] {
  const bits = bitsOf(bytes, dtype);
  const counts: number[] = [];
  for (let start = 0; start < bits.length; start += cols) {
    let count = 0;
    for (let i = start; i < start + cols; i++) if (bits[i] !== 0) count++;
    counts.push(count);
  }
  return counts;
}

export interface PackedBand {
  readonly values: Uint8Array;
  readonly bitmask: Uint8Array;
}

/** Split a band of whole rows, (rows, cols) of `dtype`, into survivors and bits. */
export function packBand(bytes: Uint8Array, dtype: FloatDtype, cols: number): PackedBand {
  const bits = bitsOf(bytes, dtype);
  const rows = bits.length / cols;
  const rowBytes = bitmaskRowBytes(cols);
  const bitmask = new Uint8Array(rows * rowBytes);
  const values = dtype === "F32" ? new Uint32Array(bits.length) : new Uint16Array(bits.length);
  let survivors = 0;
  for (let row = 0; row < rows; row++) {
    for (let col = 0; col < cols; col++) {
      const value = bits[row * cols + col];
      if (value === 0) continue;
      values[survivors++] = value;
      bitmask[row * rowBytes + (col >> 3)] |= 1 << (col & 7);
    }
  }
  return { values: new Uint8Array(values.buffer, 0, survivors * bytesPerFloat(dtype)), bitmask };
}

/**
 * Survivors that the bits of whole rows announce; bits past the last column must be clear. Throws
 * `DONOR_SPARSE_BITMASK`.
 */
export function countBits(bitmask: Uint8Array, cols: number, tensor: string): number[] {
  const rowBytes = bitmaskRowBytes(cols);
  const paddingBits = cols % 8 === 0 ? 0 : (0xff << (cols % 8)) & 0xff;
  const counts: number[] = [];
  for (let start = 0; start < bitmask.length; start += rowBytes) {
    let count = 0;
    for (let i = start; i < start + rowBytes; i++) count += POPULATION[bitmask[i]];
    if ((bitmask[start + rowBytes - 1] & paddingBits) !== 0) {
      throw new PhysariumError(
        "DONOR_SPARSE_BITMASK",
        `tensor "${tensor}": bits are set past the last of ${cols} columns; the file is damaged`,
        { tensor },
      );
    }
    counts.push(count);
  }
  return counts;
}

const POPULATION = Uint8Array.from({ length: 256 }, (_, byte) => byte.toString(2).replaceAll("0", "").length);

/**
 * Put a band's survivors back among zeros: the inverse of `packBand`. `values` holds exactly as many as bits are set.
 */
export function unpackBand({ values, bitmask }: PackedBand, dtype: FloatDtype, cols: number): Uint8Array {
  const rowBytes = bitmaskRowBytes(cols);
  const rows = bitmask.length / rowBytes;
  const source = bitsOf(values, dtype);
  const out = dtype === "F32" ? new Uint32Array(rows * cols) : new Uint16Array(rows * cols);
  let taken = 0;
  for (let row = 0; row < rows; row++) {
    for (let col = 0; col < cols; col++) {
      if ((bitmask[row * rowBytes + (col >> 3)] >> (col & 7)) & 1) out[row * cols + col] = source[taken++];
    }
  }
  return new Uint8Array(out.buffer);
}
