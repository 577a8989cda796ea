import { PhysariumError } from "../errors.js";
import { LENGTH_PREFIX_BYTES, MAX_HEADER_BYTE_LENGTH, type TensorInfo, tensorByteLength } from "./header.js";

/** A tensor that is to be written; its place follows from the order. */
export interface TensorSpec {
  readonly name: string;
  readonly dtype: string;
  readonly shape: readonly number[];
}

export interface SerializedHeader {
  /** Length prefix and JSON, padded with spaces to a multiple of 8. */
  readonly bytes: Uint8Array;
  /** Where each tensor lies in the file, in the order given. */
  readonly tensors: readonly TensorInfo[];
  readonly fileByteLength: number;
}

/**
 * The header of a new file that holds `tensors` one behind the other, in the order given.
 *
 * Built as text, not as an object: names like `1` or `__proto__` would move or vanish in one.
 * source: huggingface/safetensors README "Format"; padding as `serialize` in tensor.rs does
 */
export function serializeHeader(
  tensors: readonly TensorSpec[],
  metadata: ReadonlyMap<string, string> = new Map(),
): SerializedHeader {
  const members: string[] = [];
  if (metadata.size > 0) {
    const entries = [...metadata].map(([key, value]) => `${JSON.stringify(key)}:${JSON.stringify(value)}`);
    members.push(`"__metadata__":{${entries.join(",")}}`);
  }
  let position = 0;
  const placed: { spec: TensorSpec; begin: number; byteLength: number }[] = [];
  for (const spec of tensors) {
    const byteLength = tensorByteLength(spec.dtype, spec.shape, spec.name, "new file");
    const begin = position;
    position += byteLength;
    placed.push({ spec, begin, byteLength });
    members.push(
      `${JSON.stringify(spec.name)}:{"dtype":"${spec.dtype}","shape":[${spec.shape.join(",")}],` +
        `"data_offsets":[${begin},${position}]}`,
    );
  }
  const json = new TextEncoder().encode(`{${members.join(",")}}`);
  const jsonByteLength = Math.ceil(json.byteLength / 8) * 8;
  if (jsonByteLength > MAX_HEADER_BYTE_LENGTH) {
    throw new PhysariumError(
      "INTERNAL",
      `a new header of ${jsonByteLength} bytes is over the format's cap of ${MAX_HEADER_BYTE_LENGTH}`,
    );
  }
  const bytes = new Uint8Array(LENGTH_PREFIX_BYTES + jsonByteLength).fill(0x20);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(jsonByteLength), true);
  bytes.set(json, LENGTH_PREFIX_BYTES);
  return {
    bytes,
    tensors: placed.map(({ spec, begin, byteLength }) => ({
      ...spec,
      byteOffset: bytes.byteLength + begin,
      byteLength,
    })),
    fileByteLength: bytes.byteLength + position,
  };
}
