import {
  alignUp,
  DEFAULT_ALIGNMENT,
  GGUF_MAGIC,
  type GgufMetadata,
  type GgufScalar,
  type ScalarType,
  TENSOR_TYPES,
  type TensorType,
  tensorBytes,
  VALUE_TYPES,
} from "./types.js";

/** A tensor of a new file. `shape` is in safetensors order, rows first; the file stores it reversed. */
export interface GgufTensorSpec {
  readonly name: string;
  readonly type: TensorType;
  readonly shape: readonly number[];
}

export interface GgufTensorPlace {
  readonly byteOffset: number;
  readonly byteLength: number;
}

export interface GgufHeader {
  /** Everything before the tensor data, padded to the alignment. */
  readonly bytes: Uint8Array;
  /** Where each tensor lies in the file, in the order given. */
  readonly places: readonly GgufTensorPlace[];
  /** Ends on the alignment: the reader of llama.cpp wants the last tensor padded too. */
  readonly fileByteLength: number;
}

/**
 * The header of a new GGUF file (version 3, little-endian) with `tensors` one behind the other.
 * source: ggml-org/ggml docs/gguf.md "File Structure"
 */
export function serializeGgufHeader(metadata: GgufMetadata, tensors: readonly GgufTensorSpec[]): GgufHeader {
  const out = new ByteWriter();
  out.u32(GGUF_MAGIC);
  out.u32(3);
  out.u64(tensors.length);
  out.u64(metadata.size);
  for (const [key, value] of metadata) {
    out.string(key);
    out.u32(VALUE_TYPES.indexOf(value.type));
    if (value.type === "array") {
      out.u32(VALUE_TYPES.indexOf(value.of));
      out.u64(value.values.length);
      for (const element of value.values) out.scalar(value.of, element);
    } else {
      out.scalar(value.type, value.value);
    }
  }
  let position = 0;
  const relative: GgufTensorPlace[] = [];
  for (const { name, type, shape } of tensors) {
    out.string(name);
    out.u32(shape.length);
    for (const dimension of shape.toReversed()) out.u64(dimension);
    out.u32(TENSOR_TYPES[type].id);
    out.u64(position);
    const byteLength = tensorBytes(
      type,
      shape.reduce((product, dimension) => product * dimension, 1),
    );
    relative.push({ byteOffset: position, byteLength });
    position = alignUp(position + byteLength, DEFAULT_ALIGNMENT);
  }
  out.pad(DEFAULT_ALIGNMENT);
  const bytes = out.bytes();
  return {
    bytes,
    places: relative.map((place) => ({ ...place, byteOffset: bytes.byteLength + place.byteOffset })),
    fileByteLength: bytes.byteLength + position,
  };
}

/**
 * Bytes appended one value at a time; grows by doubling. `reserve` comes first in every method: it may put a larger
 * buffer in place, and a view taken before would write into the old one.
 */
class ByteWriter {
  private buffer = new Uint8Array(1 << 16);
  private view = new DataView(this.buffer.buffer);
  private length = 0;
  private readonly encoder = new TextEncoder();

  u32(value: number): void {
    const position = this.reserve(4);
    this.view.setUint32(position, value, true);
  }

  u64(value: number): void {
    const position = this.reserve(8);
    this.view.setBigUint64(position, BigInt(value), true);
  }

  string(text: string): void {
    const bytes = this.encoder.encode(text);
    this.u64(bytes.byteLength);
    const position = this.reserve(bytes.byteLength);
    this.buffer.set(bytes, position);
  }

  scalar(type: ScalarType, value: GgufScalar): void {
    if (type === "string") this.string(String(value));
    else this.number(type, Number(value));
  }

  private number(type: Exclude<ScalarType, "string">, value: number): void {
    const position = this.reserve(SCALAR_BYTES[type]);
    const { view } = this;
    if (type === "u8" || type === "bool") view.setUint8(position, value);
    else if (type === "i8") view.setInt8(position, value);
    else if (type === "u16") view.setUint16(position, value, true);
    else if (type === "i16") view.setInt16(position, value, true);
    else if (type === "u32") view.setUint32(position, value, true);
    else if (type === "i32") view.setInt32(position, value, true);
    else if (type === "f32") view.setFloat32(position, value, true);
    else if (type === "f64") view.setFloat64(position, value, true);
    else if (type === "u64") view.setBigUint64(position, BigInt(value), true);
    else view.setBigInt64(position, BigInt(value), true);
  }

  pad(alignment: number): void {
    this.reserve(alignUp(this.length, alignment) - this.length);
  }

  bytes(): Uint8Array {
    return this.buffer.slice(0, this.length);
  }

  private reserve(byteLength: number): number {
    const position = this.length;
    this.length += byteLength;
    if (this.length > this.buffer.byteLength) {
      const larger = new Uint8Array(Math.max(this.length, this.buffer.byteLength * 2));
      larger.set(this.buffer);
      this.buffer = larger;
      this.view = new DataView(larger.buffer);
    }
    return position;
  }
}

/** Bytes of a metadata value; a string's is its length field alone. */
export const SCALAR_BYTES: Readonly<Record<ScalarType, number>> = {
  u8: 1,
  i8: 1,
  u16: 2,
  i16: 2,
  u32: 4,
  i32: 4,
  f32: 4,
  bool: 1,
  string: 8,
  u64: 8,
  i64: 8,
  f64: 8,
};
