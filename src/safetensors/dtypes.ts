/**
 * The dtypes a safetensors header may name, with their width in bits.
 * source: huggingface/safetensors, `Dtype` in safetensors/src/tensor.rs (0.6)
 */
const BITS_PER_ELEMENT = new Map<string, number>([
  ["BOOL", 8],
  ["F4", 4],
  ["F6_E2M3", 6],
  ["F6_E3M2", 6],
  ["U8", 8],
  ["I8", 8],
  ["F8_E5M2", 8],
  ["F8_E4M3", 8],
  ["F8_E8M0", 8],
  ["F8_E4M3FNUZ", 8],
  ["F8_E5M2FNUZ", 8],
  ["I16", 16],
  ["U16", 16],
  ["F16", 16],
  ["BF16", 16],
  ["I32", 32],
  ["U32", 32],
  ["F32", 32],
  ["C64", 64],
  ["F64", 64],
  ["I64", 64],
  ["U64", 64],
]);

/** Bits of one element, or `undefined` for a dtype the format does not know. */
export function bitsPerElement(dtype: string): number | undefined {
  return BITS_PER_ELEMENT.get(dtype);
}

export const KNOWN_DTYPES: readonly string[] = [...BITS_PER_ELEMENT.keys()];

/** The dtypes that surgery operates on, each in its own bits. */
export type FloatDtype = "BF16" | "F16" | "F32";

export function isFloatDtype(dtype: string): dtype is FloatDtype {
  return dtype === "BF16" || dtype === "F16" || dtype === "F32";
}

/** Bytes of one element of a dtype that surgery operates on. */
export function bytesPerFloat(dtype: FloatDtype): 2 | 4 {
  return dtype === "F32" ? 4 : 2;
}
