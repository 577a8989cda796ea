/**
 * What a GGUF file is made of: the types of its metadata values and of its tensors' blocks.
 * source: ggml-org/ggml docs/gguf.md; block sizes: ggml/src/ggml-common.h
 */

/** Metadata value types by their number in the file. */
export const VALUE_TYPES = [
  "u8",
  "i8",
  "u16",
  "i16",
  "u32",
  "i32",
  "f32",
  "bool",
  "string",
  "array",
  "u64",
  "i64",
  "f64",
] as const;

export type ValueType = (typeof VALUE_TYPES)[number];
export type ScalarType = Exclude<ValueType, "array">;

/**
 * 64-bit integers come as numbers; those past 2^53 are refused on reading, since nothing that a model needs is that
 * large.
 */
export type GgufScalar = number | boolean | string;

export type GgufValue =
  | { readonly type: ScalarType; readonly value: GgufScalar }
  | { readonly type: "array"; readonly of: ScalarType; readonly values: readonly GgufScalar[] };

export type GgufMetadata = ReadonlyMap<string, GgufValue>;

/** How a tensor type stores weights: `blockLength` weights in `blockBytes` bytes. */
export interface BlockFormat {
  /** `enum ggml_type`. */
  readonly id: number;
  readonly blockLength: number;
  readonly blockBytes: number;
  /** Whether a weight that is zero comes back as zero, whatever its neighbours are. */
  readonly holdsExactZeros: boolean;
}

/**
 * The tensor types Physarium reads. The ones with a minimum per block (`_1`, Q4_K, Q5_K) put their grid between a
 * block's least and largest weight, so zero is a grid point only by chance, and IQ4_NL's grid has none; the symmetric
 * ones and the floats hold it.
 */
export const TENSOR_TYPES = {
  F32: { id: 0, blockLength: 1, blockBytes: 4, holdsExactZeros: true },
  F16: { id: 1, blockLength: 1, blockBytes: 2, holdsExactZeros: true },
  Q4_0: { id: 2, blockLength: 32, blockBytes: 18, holdsExactZeros: true },
  Q4_1: { id: 3, blockLength: 32, blockBytes: 20, holdsExactZeros: false },
  Q5_0: { id: 6, blockLength: 32, blockBytes: 22, holdsExactZeros: true },
  Q5_1: { id: 7, blockLength: 32, blockBytes: 24, holdsExactZeros: false },
  Q8_0: { id: 8, blockLength: 32, blockBytes: 34, holdsExactZeros: true },
  Q4_K: { id: 12, blockLength: 256, blockBytes: 144, holdsExactZeros: false },
  Q5_K: { id: 13, blockLength: 256, blockBytes: 176, holdsExactZeros: false },
  Q6_K: { id: 14, blockLength: 256, blockBytes: 210, holdsExactZeros: true },
  IQ4_NL: { id: 20, blockLength: 32, blockBytes: 18, holdsExactZeros: false },
  BF16: { id: 30, blockLength: 1, blockBytes: 2, holdsExactZeros: true },
} as const satisfies Record<string, BlockFormat>;

export type TensorType = keyof typeof TENSOR_TYPES;

/** Names of the types that exist but that Physarium does not read, so that a refusal can say what it met. */
export const FOREIGN_TENSOR_TYPES: ReadonlyMap<number, string> = new Map([
  [9, "Q8_1"],
  [10, "Q2_K"],
  [11, "Q3_K"],
  [15, "Q8_K"],
  [16, "IQ2_XXS"],
  [17, "IQ2_XS"],
  [18, "IQ3_XXS"],
  [19, "IQ1_S"],
  [21, "IQ3_S"],
  [22, "IQ2_S"],
  [23, "IQ4_XS"],
  [24, "I8"],
  [25, "I16"],
  [26, "I32"],
  [27, "I64"],
  [28, "F64"],
  [29, "IQ1_M"],
  [34, "TQ1_0"],
  [35, "TQ2_0"],
  [39, "MXFP4"],
]);

const NAME_OF_ID: ReadonlyMap<number, TensorType> = new Map(
  (Object.keys(TENSOR_TYPES) as TensorType[]).map((name) => [TENSOR_TYPES[name].id, name]),
);

export function tensorTypeOfId(id: number): TensorType | undefined {
  return NAME_OF_ID.get(id);
}

/** Bytes of `elementCount` weights, which must fill whole blocks. */
export function tensorBytes(type: TensorType, elementCount: number): number {
  const { blockLength, blockBytes } = TENSOR_TYPES[type];
  return (elementCount / blockLength) * blockBytes;
}

/** Tensor data starts on multiples of this unless `general.alignment` says otherwise. */
export const DEFAULT_ALIGNMENT = 32;

export function alignUp(position: number, alignment: number): number {
  return Math.ceil(position / alignment) * alignment;
}

/** "GGUF" read as a little-endian u32. */
export const GGUF_MAGIC = 0x46554747;
