import { PhysariumError } from "../errors.js";
import { bitsPerElement, KNOWN_DTYPES } from "./dtypes.js";
import { JsonReader } from "./json-reader.js";
import type { ByteSource } from "./source.js";

/**
 * The reference implementation's cap (`MAX_HEADER_SIZE` in tensor.rs): larger headers are refused before anything is
 * allocated.
 */
export const MAX_HEADER_BYTE_LENGTH = 100_000_000;

/** Far above any real name; what is done with names stays cheap however hostile the file. */
export const MAX_NAME_CHARACTERS = 4_096;

/** As many as PyTorch takes; a header of 50 million ones would cost gigabytes. */
export const MAX_DIMENSIONS = 64;

/** The eight bytes of little-endian header length that open a file. */
export const LENGTH_PREFIX_BYTES = 8;

/** A tensor as a header has it; `dtype` is spelled as in the file. */
export interface TensorInfo {
  readonly name: string;
  readonly dtype: string;
  readonly shape: readonly number[];
  /** Position of the first byte in the file (not in the data section). */
  readonly byteOffset: number;
  readonly byteLength: number;
}

/** A header that keeps every rule of the format. */
export interface SafetensorsHeader {
  /** Tensors in the order of their data, which the reference reader enforces to be gapless. */
  readonly tensors: readonly TensorInfo[];
  readonly metadata: ReadonlyMap<string, string>;
  /** Bytes before the data section: the length prefix and the JSON with its padding. */
  readonly dataByteOffset: number;
}

/**
 * Read and validate the header of a safetensors file.
 *
 * `name` opens every message; `reserve` is told the bytes of the header before they are read and may throw. Throws
 * `DONOR_HEADER_*` for anything the reference implementation would refuse.
 * source: huggingface/safetensors README "Format" and `Metadata::validate` in tensor.rs
 */
export async function readHeader(
  source: ByteSource,
  name: string,
  reserve: (byteLength: number) => void = () => {},
): Promise<SafetensorsHeader> {
  const length = headerByteLength(
    await source.read(0, Math.min(LENGTH_PREFIX_BYTES, source.byteLength)),
    source.byteLength,
    name,
  );
  reserve(LENGTH_PREFIX_BYTES + length);
  const json = await source.read(LENGTH_PREFIX_BYTES, LENGTH_PREFIX_BYTES + length);
  return parseHeader(json, source.byteLength, name);
}

/** The JSON length that the first eight bytes announce, checked against the cap and the file's end. */
export function headerByteLength(prefix: Uint8Array, fileByteLength: number, name: string): number {
  if (prefix.byteLength < LENGTH_PREFIX_BYTES) {
    throw new PhysariumError(
      "DONOR_HEADER_TOO_SMALL",
      `${name}: the file has ${fileByteLength} bytes, a safetensors file starts with 8 bytes of header length; it ` +
        "looks truncated, download it again",
      { file: name, fileByteLength },
    );
  }
  const length = new DataView(prefix.buffer, prefix.byteOffset, 8).getBigUint64(0, true);
  if (length > BigInt(MAX_HEADER_BYTE_LENGTH)) {
    throw new PhysariumError(
      "DONOR_HEADER_TOO_LARGE",
      `${name}: its first 8 bytes announce a header of ${length} bytes, at most ${MAX_HEADER_BYTE_LENGTH} are ` +
        "allowed; this is no safetensors file or it is damaged",
      { file: name },
    );
  }
  if (LENGTH_PREFIX_BYTES + Number(length) > fileByteLength) {
    throw new PhysariumError(
      "DONOR_HEADER_LENGTH",
      `${name}: the header announces ${length} bytes of JSON but the file ends after ${fileByteLength} bytes; it ` +
        "looks truncated, download it again",
      { file: name, fileByteLength },
    );
  }
  return Number(length);
}

/** Parse the header's JSON bytes (padding included) of a file of `fileByteLength` bytes. */
export function parseHeader(json: Uint8Array, fileByteLength: number, name: string): SafetensorsHeader {
  const dataByteOffset = LENGTH_PREFIX_BYTES + json.byteLength;
  const reader = new JsonReader(json, `${name}: header`, "DONOR_HEADER_JSON");
  const tensors: TensorInfo[] = [];
  const names = new Set<string>();
  let metadata: Map<string, string> | undefined;

  reader.readObject("an object", (key) => {
    if (key === "__metadata__") {
      if (metadata !== undefined) throw duplicate(name, key);
      metadata = readMetadata(reader, name);
      return;
    }
    if (names.has(key)) throw duplicate(name, key);
    if (key.length > MAX_NAME_CHARACTERS) {
      throw new PhysariumError(
        "DONOR_HEADER_NAME",
        `${name}: a tensor's name has ${key.length} characters ("${key.slice(0, 40)}…"), at most ` +
          `${MAX_NAME_CHARACTERS} are allowed; the header is malformed`,
        { file: name },
      );
    }
    names.add(key);
    tensors.push(readTensorInfo(reader, key, dataByteOffset, name));
  });
  reader.end();
  checkContiguous(tensors, dataByteOffset, fileByteLength, name);
  return { tensors, metadata: metadata ?? new Map(), dataByteOffset };
}

function readMetadata(reader: JsonReader, name: string): Map<string, string> {
  const metadata = new Map<string, string>();
  // `null` is what writers of an absent Option leave behind; the reference reader takes it.
  if (reader.skipNull()) return metadata;
  reader.readObject("__metadata__ to be an object of strings", (key) => {
    if (metadata.has(key)) throw duplicate(name, `__metadata__.${key}`);
    metadata.set(key, reader.readString(`a string as value of __metadata__.${key}`));
  });
  return metadata;
}

function readTensorInfo(reader: JsonReader, tensor: string, dataByteOffset: number, name: string): TensorInfo {
  let dtype: string | undefined;
  let shape: number[] | undefined;
  let offsets: number[] | undefined;
  reader.readObject(`an object describing tensor "${tensor}"`, (key) => {
    if (key === "dtype") {
      if (dtype !== undefined) throw duplicate(name, `${tensor}.dtype`);
      const text = reader.readString(`the dtype of "${tensor}"`);
      // The table's own string, not one a tensor.
      dtype = KNOWN_DTYPES.find((known) => known === text) ?? text;
    } else if (key === "shape") {
      if (shape !== undefined) throw duplicate(name, `${tensor}.shape`);
      const dimensions: number[] = [];
      reader.readArray(`the shape of "${tensor}"`, () => {
        if (dimensions.length === MAX_DIMENSIONS) throw malformed(name, tensor);
        dimensions.push(reader.readSafeInteger(`a dimension of "${tensor}"`));
      });
      // A pushed-to array has room for 17: the copy has none to spare, which a header of 10^6 tensors notices.
      shape = dimensions.slice();
    } else if (key === "data_offsets") {
      if (offsets !== undefined) throw duplicate(name, `${tensor}.data_offsets`);
      const pair: number[] = [];
      reader.readArray(`the data_offsets of "${tensor}"`, () => {
        if (pair.length === 2) throw malformed(name, tensor);
        pair.push(reader.readSafeInteger(`an offset of "${tensor}"`));
      });
      offsets = pair;
    } else {
      reader.skipValue();
    }
  });
  if (dtype === undefined || shape === undefined || offsets === undefined || offsets.length !== 2) {
    throw malformed(name, tensor);
  }
  const [begin, end] = offsets;
  if (begin > end) {
    throw new PhysariumError(
      "DONOR_HEADER_OFFSETS",
      `${name}: tensor "${tensor}" has data_offsets [${begin}, ${end}], the begin lies after the end`,
      { file: name, tensor },
    );
  }
  const expected = tensorByteLength(dtype, shape, tensor, name);
  if (expected !== end - begin) {
    throw new PhysariumError(
      "DONOR_HEADER_SIZE",
      `${name}: tensor "${tensor}" is ${dtype} [${shape.join(", ")}], which takes ${expected} bytes, but its ` +
        `data_offsets span ${end - begin}`,
      { file: name, tensor },
    );
  }
  return { name: tensor, dtype, shape, byteOffset: dataByteOffset + begin, byteLength: end - begin };
}

/** Bytes of a tensor, or an error for an unknown dtype, a size past 2^53 or one that is no whole number of bytes. */
export function tensorByteLength(dtype: string, shape: readonly number[], tensor: string, file: string): number {
  const bits = bitsPerElement(dtype);
  if (bits === undefined) {
    throw new PhysariumError(
      "DONOR_HEADER_DTYPE",
      `${file}: tensor "${tensor}" has dtype "${dtype}", known are ${KNOWN_DTYPES.join(", ")}`,
      { file, tensor, dtype },
    );
  }
  // A zero dimension makes the product zero, but only after the others were multiplied as the reference does, overflow
  // included.
  let elements = 1n;
  for (const dimension of shape) {
    elements *= BigInt(dimension);
    if (elements >= 1n << 64n) break;
  }
  const totalBits = elements * BigInt(bits);
  if (totalBits / 8n > BigInt(Number.MAX_SAFE_INTEGER)) {
    throw new PhysariumError(
      "DONOR_HEADER_OVERFLOW",
      `${file}: tensor "${tensor}" of ${dtype} [${shape.join(", ")}] has more bytes than any file can hold; the ` +
        "header is malformed",
      { file, tensor },
    );
  }
  if (totalBits % 8n !== 0n) {
    throw new PhysariumError(
      "DONOR_HEADER_SIZE",
      `${file}: tensor "${tensor}" of ${dtype} [${shape.join(", ")}] is no whole number of bytes`,
      { file, tensor },
    );
  }
  return Number(totalBits / 8n);
}

/** Sort by position and require the data section to be covered exactly once, as `Metadata::validate` does. */
function checkContiguous(tensors: TensorInfo[], dataByteOffset: number, fileByteLength: number, name: string): void {
  tensors.sort((a, b) => a.byteOffset - b.byteOffset || a.byteLength - b.byteLength);
  let expected = dataByteOffset;
  for (const tensor of tensors) {
    if (tensor.byteOffset !== expected) {
      const fault = tensor.byteOffset > expected ? "leaves a hole" : "overlaps the tensor before it";
      throw new PhysariumError(
        "DONOR_HEADER_OFFSETS",
        `${name}: tensor "${tensor.name}" starts at byte ${tensor.byteOffset} of the file, expected ${expected}; ` +
          `it ${fault}`,
        { file: name, tensor: tensor.name, byteOffset: tensor.byteOffset, expectedByteOffset: expected },
      );
    }
    expected += tensor.byteLength;
  }
  if (expected !== fileByteLength) {
    const last = tensors.at(-1);
    const fault =
      expected > fileByteLength ? "the file looks truncated, download it again" : "foreign bytes follow the data";
    throw new PhysariumError(
      "DONOR_HEADER_END",
      `${name}: ${last === undefined ? "the header" : `tensor "${last.name}"`} ends at byte ${expected}, the file ` +
        `has ${fileByteLength}; ${fault}`,
      { file: name, expectedByteLength: expected, fileByteLength },
    );
  }
}

function malformed(file: string, tensor: string): PhysariumError {
  return new PhysariumError(
    "DONOR_HEADER_TENSOR",
    `${file}: tensor "${tensor}" needs dtype, shape (at most ${MAX_DIMENSIONS} dimensions) and two data_offsets; ` +
      "the header is malformed",
    { file, tensor },
  );
}

function duplicate(file: string, key: string): PhysariumError {
  return new PhysariumError("DONOR_HEADER_DUPLICATE", `${file}: the key "${key}" stands twice in the header`, {
    file,
    key,
  });
}
