import { PhysariumError, refuseStopped } from "../../errors.js";
import type { ByteSource } from "../../safetensors/source.js";
import { SCALAR_BYTES } from "./header.js";
import {
  alignUp,
  DEFAULT_ALIGNMENT,
  FOREIGN_TENSOR_TYPES,
  GGUF_MAGIC,
  type GgufMetadata,
  type GgufScalar,
  type GgufValue,
  type ScalarType,
  TENSOR_TYPES,
  type TensorType,
  tensorBytes,
  tensorTypeOfId,
  VALUE_TYPES,
} from "./types.js";

export interface GgufTensorInfo {
  readonly name: string;
  readonly type: TensorType;
  /** In safetensors order: rows first, the contiguous dimension last. */
  readonly shape: readonly number[];
  readonly byteOffset: number;
  readonly byteLength: number;
}

export interface GgufFile {
  readonly version: number;
  readonly metadata: GgufMetadata;
  /** In the order of the file. */
  readonly tensors: readonly GgufTensorInfo[];
  readonly dataByteOffset: number;
}

/**
 * Limits against the largest real models (150,000 to 260,000 tokens and merges, some thousand tensors) with room above.
 */
const MAX_HEADER_BYTES = 512 << 20;
const MAX_METADATA_COUNT = 65_536;
const MAX_TENSOR_COUNT = 1_000_000;
/** Of all arrays together: a number takes eight bytes and more once it is read, of one in the file. */
const MAX_ARRAY_ELEMENTS = 4_000_000;
/** Elements between two looks at the signal: a few milliseconds. */
const ELEMENTS_BETWEEN = 65_536;
const MAX_KEY_BYTES = 65_535;
/** GGML_MAX_DIMS. */
const MAX_DIMENSIONS = 4;
const MAX_ALIGNMENT = 1 << 20;
/** Most headers fit; one with a large vocabulary is read again with a window of twice the size. */
const FIRST_WINDOW_BYTES = 1 << 20;

/**
 * Read and validate everything of a GGUF file but its weights (versions 2 and 3, little-endian).
 *
 * `name` opens every message. Each count and length is checked against what the file can still hold before anything is
 * allocated.
 * Throws `DONOR_GGUF_*`, `STOPPED`. source: ggml-org/ggml docs/gguf.md
 */
export async function readGguf(source: ByteSource, name: string, signal?: AbortSignal): Promise<GgufFile> {
  const cap = Math.min(source.byteLength, MAX_HEADER_BYTES);
  for (let window = Math.min(FIRST_WINDOW_BYTES, cap); ; window = Math.min(window * 2, cap)) {
    const bytes = await source.read(0, window);
    try {
      return await parse(new Cursor(bytes, source.byteLength, name, signal), source.byteLength, name);
    } catch (error) {
      if (!(error instanceof WindowTooSmall)) throw error;
      if (window === source.byteLength) throw truncated(name, source.byteLength, error.what);
      if (window === cap) {
        throw fault("LIMIT", name, `its header is larger than ${MAX_HEADER_BYTES} bytes; no known model needs that`);
      }
    }
  }
}

async function parse(cursor: Cursor, fileByteLength: number, name: string): Promise<GgufFile> {
  const magic = cursor.u32("the magic number");
  if (magic !== GGUF_MAGIC) {
    throw fault(
      "MAGIC",
      name,
      `its first four bytes are 0x${magic.toString(16).padStart(8, "0")}, expected "GGUF"; this is no GGUF file`,
    );
  }
  const version = cursor.u32("the version");
  if (version !== 2 && version !== 3) {
    const why =
      version > 0xffff
        ? "it looks big-endian; convert it to little-endian with gguf_convert_endian.py"
        : "versions 2 and 3 are read; write it again with a current tool";
    throw fault("VERSION", name, `its version is ${version}; ${why}`);
  }
  const tensorCount = cursor.count("the tensor count", MAX_TENSOR_COUNT, 24);
  const metadataCount = cursor.count("the metadata count", MAX_METADATA_COUNT, 13);

  const metadata = new Map<string, GgufValue>();
  for (let i = 0; i < metadataCount; i++) {
    const key = cursor.string("a metadata key", MAX_KEY_BYTES);
    if (metadata.has(key)) throw fault("METADATA", name, `the metadata key "${clip(key)}" stands twice`);
    metadata.set(key, await cursor.value(key));
  }
  const alignment = readAlignment(metadata, name);

  const raw: { name: string; type: TensorType; shape: number[]; relative: number; byteLength: number }[] = [];
  const names = new Set<string>();
  for (let i = 0; i < tensorCount; i++) {
    const tensor = cursor.string("a tensor name", MAX_KEY_BYTES);
    if (names.has(tensor)) throw fault("TENSOR", name, `tensor "${clip(tensor)}" stands twice`);
    names.add(tensor);
    raw.push({ name: tensor, ...readTensorShape(cursor, tensor, name) });
  }
  const dataByteOffset = alignUp(cursor.position, alignment);
  const tensors = raw.map(({ relative, ...tensor }) => ({ ...tensor, byteOffset: dataByteOffset + relative }));
  checkPlaces(tensors, dataByteOffset, alignment, fileByteLength, name);
  return { version, metadata, tensors, dataByteOffset };
}

function readAlignment(metadata: GgufMetadata, name: string): number {
  const value = metadata.get("general.alignment");
  if (value === undefined) return DEFAULT_ALIGNMENT;
  const alignment = value.type === "array" ? Number.NaN : Number(value.value);
  const isPowerOfTwo = Number.isInteger(Math.log2(alignment));
  if (!(isPowerOfTwo && alignment >= 8 && alignment <= MAX_ALIGNMENT)) {
    throw fault(
      "METADATA",
      name,
      `general.alignment is ${alignment}, expected a power of two from 8 to ${MAX_ALIGNMENT}`,
    );
  }
  return alignment;
}

function readTensorShape(cursor: Cursor, tensor: string, name: string) {
  const where = `tensor "${clip(tensor)}"`;
  const dimensionCount = cursor.u32(`the number of dimensions of ${where}`);
  if (dimensionCount < 1 || dimensionCount > MAX_DIMENSIONS) {
    throw fault("TENSOR", name, `${where} has ${dimensionCount} dimensions, expected 1 to ${MAX_DIMENSIONS}`);
  }
  const shape: number[] = [];
  let elements = 1;
  for (let i = 0; i < dimensionCount; i++) {
    const dimension = cursor.u64(`a dimension of ${where}`);
    elements *= dimension;
    // No weight takes less than half a byte, so such a tensor would not fit into any file that exists.
    if (dimension === 0 || !(elements <= Number.MAX_SAFE_INTEGER / 8)) {
      throw fault("TENSOR", name, `${where} has an impossible shape (dimension ${i} is ${dimension})`);
    }
    shape.unshift(dimension);
  }
  const id = cursor.u32(`the type of ${where}`);
  const type = tensorTypeOfId(id);
  if (type === undefined) {
    const known = Object.keys(TENSOR_TYPES).join(", ");
    throw fault(
      "TYPE",
      name,
      `${where} has type ${FOREIGN_TENSOR_TYPES.get(id) ?? `number ${id}`}, which Physarium does not read; known ` +
        `are ${known}`,
    );
  }
  const rowLength = shape[shape.length - 1];
  const { blockLength } = TENSOR_TYPES[type];
  if (rowLength % blockLength !== 0) {
    throw fault("TENSOR", name, `${where} has rows of ${rowLength} weights, ${type} stores blocks of ${blockLength}`);
  }
  const relative = cursor.u64(`the offset of ${where}`);
  return { type, shape, relative, byteLength: tensorBytes(type, elements) };
}

/** Every tensor aligned, inside the file, and no two over each other. Padding between them is allowed. */
function checkPlaces(
  tensors: readonly GgufTensorInfo[],
  dataByteOffset: number,
  alignment: number,
  fileByteLength: number,
  name: string,
): void {
  const sorted = tensors.toSorted((a, b) => a.byteOffset - b.byteOffset || a.byteLength - b.byteLength);
  let end = dataByteOffset;
  let previous = "the header";
  for (const tensor of sorted) {
    const where = `tensor "${clip(tensor.name)}"`;
    if ((tensor.byteOffset - dataByteOffset) % alignment !== 0) {
      throw fault(
        "OFFSETS",
        name,
        `${where} starts at byte ${tensor.byteOffset}, which is not aligned to ${alignment}`,
      );
    }
    if (tensor.byteOffset < end) {
      throw fault(
        "OFFSETS",
        name,
        `${where} starts at byte ${tensor.byteOffset}, inside ${previous}, which ends at ${end}`,
      );
    }
    end = tensor.byteOffset + tensor.byteLength;
    previous = where;
    if (end > fileByteLength) throw truncated(name, fileByteLength, `${where}, which ends at byte ${end}`);
  }
}

/** The window read so far ends before what is asked; a larger one may hold it. */
class WindowTooSmall extends Error {
  constructor(readonly what: string) {
    super(what);
  }
}

/** Positional reads with the length of the whole file at hand, so that absurd counts fail before they allocate. */
class Cursor {
  position = 0;
  /** Of all arrays so far. */
  private elements = 0;
  private readonly view: DataView;
  private readonly decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

  constructor(
    private readonly bytes: Uint8Array,
    private readonly fileByteLength: number,
    private readonly name: string,
    private readonly signal: AbortSignal | undefined,
  ) {
    this.view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  u32(what: string): number {
    return this.view.getUint32(this.take(4, what), true);
  }

  u64(what: string): number {
    const value = this.view.getBigUint64(this.take(8, what), true);
    if (value > BigInt(Number.MAX_SAFE_INTEGER)) {
      throw fault("LIMIT", this.name, `${what} is ${value}, larger than any file; the header is malformed`);
    }
    return Number(value);
  }

  /** A u64 that announces items of at least `minimumBytes` each. */
  count(what: string, maximum: number, minimumBytes: number): number {
    const value = this.u64(what);
    if (value > maximum || value * minimumBytes > this.fileByteLength - this.position) {
      throw fault(
        "LIMIT",
        this.name,
        `${what} is ${value}; the rest of the file (${this.fileByteLength - this.position} bytes) cannot hold that ` +
          `many, or it is over the limit of ${maximum}`,
      );
    }
    return value;
  }

  string(what: string, maximum = MAX_HEADER_BYTES): string {
    const length = this.count(`the length of ${what}`, maximum, 1);
    const start = this.take(length, what);
    try {
      return this.decoder.decode(this.bytes.subarray(start, start + length));
    } catch {
      throw fault("METADATA", this.name, `${what} at byte ${start} is not valid UTF-8`);
    }
  }

  async value(key: string): Promise<GgufValue> {
    const what = `the value of "${clip(key)}"`;
    const type = this.valueType(what);
    if (type !== "array") return { type, value: this.scalar(type, what) };
    const of = this.valueType(`the element type of "${clip(key)}"`);
    if (of === "array") throw fault("METADATA", this.name, `${what} is an array of arrays, which no model needs`);
    const length = this.count(`the length of "${clip(key)}"`, MAX_ARRAY_ELEMENTS - this.elements, SCALAR_BYTES[of]);
    this.elements += length;
    const values: GgufScalar[] = [];
    for (let i = 0; i < length; i++) {
      values.push(this.scalar(of, what));
      if (i % ELEMENTS_BETWEEN !== ELEMENTS_BETWEEN - 1) continue;
      await new Promise(setImmediate);
      refuseStopped(this.signal);
    }
    return { type, of, values };
  }

  private valueType(what: string) {
    const id = this.u32(what);
    const type = VALUE_TYPES[id];
    if (type === undefined) throw fault("METADATA", this.name, `${what} has type number ${id}, known are 0 to 12`);
    return type;
  }

  private scalar(type: ScalarType, what: string): GgufScalar {
    if (type === "string") return this.string(what);
    if (type === "u64") return this.u64(what);
    const at = this.take(SCALAR_BYTES[type], what);
    switch (type) {
      case "u8":
        return this.view.getUint8(at);
      case "i8":
        return this.view.getInt8(at);
      case "u16":
        return this.view.getUint16(at, true);
      case "i16":
        return this.view.getInt16(at, true);
      case "u32":
        return this.view.getUint32(at, true);
      case "i32":
        return this.view.getInt32(at, true);
      case "f32":
        return this.view.getFloat32(at, true);
      case "f64":
        return this.view.getFloat64(at, true);
      case "bool":
        return this.view.getUint8(at) !== 0;
      case "i64": {
        const value = Number(this.view.getBigInt64(at, true));
        if (!Number.isSafeInteger(value)) throw fault("LIMIT", this.name, `${what} is ${value}, past 2^53`);
        return value;
      }
    }
  }

  private take(byteLength: number, what: string): number {
    const start = this.position;
    if (start + byteLength > this.bytes.byteLength) throw new WindowTooSmall(what);
    this.position = start + byteLength;
    return start;
  }
}

function truncated(name: string, fileByteLength: number, what: string): PhysariumError {
  return fault(
    "TRUNCATED",
    name,
    `the file ends at byte ${fileByteLength}, before the end of ${what}; it looks truncated, download it again`,
  );
}

function fault(kind: string, file: string, message: string): PhysariumError {
  return new PhysariumError(`DONOR_GGUF_${kind}`, `${file}: ${message}`, { file });
}

/** Names in a hostile file may be megabytes long. */
function clip(text: string): string {
  return text.length <= 120 ? text : `${text.slice(0, 120)}…`;
}
