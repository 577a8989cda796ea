import { PhysariumError } from "../errors.js";
import { isFloatDtype } from "../safetensors/dtypes.js";
import {
  headerByteLength,
  LENGTH_PREFIX_BYTES,
  parseHeader,
  readHeader,
  type SafetensorsHeader,
  type TensorInfo,
} from "../safetensors/header.js";
import type { ByteSource } from "../safetensors/source.js";
import { serializeHeader, type TensorSpec } from "../safetensors/writer.js";
import { MAX_BAND_ELEMENTS } from "./band-format.js";
import { bandByteLength, bandCount } from "./bands.js";
import { type Checksum, checksumText } from "./checksum.js";

/**
 * One packed shard: a plain safetensors file that stands for one shard of the donor. In this order:
 *
 * ```
 * bands/<tensor>   U64 [bands, 2]   a row a band: where its bytes end in data/<tensor>, and xxHash64 of its raw bytes
 * …                                 for every tensor of the donor's shard, in the order of their data
 * header           U8 [n]           the donor's shard up to its data section, byte for byte; zeros up to a multiple of
 *                  8
 * data/<tensor>    U8 [n]           the bands one behind the other, zeros up to a multiple of 8; a band as long as its
 * raw bytes is those
 *                  or the tensor's own dtype and shape, where no band shrank (and its bytes are a multiple of 8)
 * ```
 * `__metadata__`: `format` "physarium-pack", `physarium_pack_version` "1", `original_file`, `original_byte_length`,
 * `original_header_xxh64`, `band_elements`. The prefixes keep any tensor name apart from ours; `format` makes model
 * loaders refuse the file. A band holds `bandByteLength(…)` raw bytes (bands.ts), the last one less; a band shorter
 * than its raw bytes is coded (band-format.ts).
 */
export const PACK_FORMAT = "physarium-pack";
export const PACK_VERSION = "1";
const HEADER_TENSOR = "header";
const ALIGNMENT = 8;

/** `model-00001-of-00004.safetensors` → `model-00001-of-00004.physarium.safetensors`. */
export function packedFileName(originalFile: string): string {
  return originalFile.replace(/\.safetensors$/, ".physarium.safetensors");
}

export function padTo8(byteLength: number): number {
  return Math.ceil(byteLength / ALIGNMENT) * ALIGNMENT;
}

/** The donor's shard, as far as its packed twin repeats it. */
export interface OriginalShard {
  readonly file: string;
  readonly byteLength: number;
  readonly tensors: readonly TensorInfo[];
}

/** What packing a tensor gave. */
export interface PackedTensorData {
  /** A row a band: end in the data, checksum of the raw bytes. */
  readonly table: BigUint64Array;
  /** Bytes of the data without padding. */
  readonly byteLength: number;
}

/**
 * Bytes to keep free for the header of the packed shard: data goes to the file before its sizes are known, so the
 * header gets the room that the worst case takes (nothing shrinks) and is padded with spaces, which the format allows.
 */
export function reservedHeaderBytes(original: OriginalShard, headerBytes: Uint8Array, bandElements: number): number {
  const asBytes = original.tensors.map((tensor) => dataSpec(tensor, padTo8(tensor.byteLength), false));
  const front = frontSpecs(original, headerBytes, bandElements);
  const worst = serializeHeader([...front, ...asBytes], metadataOf(original, 0n, bandElements)).bytes.byteLength;
  const text = ({ dtype, shape }: TensorSpec) => dtype.length + shape.join().length;
  const extra = original.tensors.reduce((sum, tensor, i) => sum + Math.max(0, text(tensor) - text(asBytes[i])), 0);
  return padTo8(worst + extra);
}

/** Bytes of the tables and the donor's header, which stand between our header and the data. */
export function frontByteLength(original: OriginalShard, headerBytes: Uint8Array, bandElements: number): number {
  const bands = original.tensors.reduce((sum, tensor) => sum + bandCount(tensor, bandElements), 0);
  return 16 * bands + padTo8(headerBytes.byteLength);
}

/**
 * True where the data may lie under the tensor's own dtype and shape: nothing shrank, and what follows stays aligned.
 */
export function isStored(tensor: TensorInfo, packedByteLength: number): boolean {
  return packedByteLength === tensor.byteLength && tensor.byteLength % ALIGNMENT === 0;
}

/**
 * Everything before the data, once the sizes are known: the header padded to `reserved` bytes, the tables, the donor's
 * header.
 */
export function serializeFront(
  original: OriginalShard,
  headerBytes: Uint8Array,
  packed: readonly PackedTensorData[],
  reserved: number,
  bandElements: number,
  checksum: Checksum,
): Uint8Array {
  const data = original.tensors.map((tensor, i) =>
    dataSpec(tensor, padTo8(packed[i].byteLength), isStored(tensor, packed[i].byteLength)),
  );
  const metadata = metadataOf(original, checksum.of(headerBytes), bandElements);
  const header = serializeHeader([...frontSpecs(original, headerBytes, bandElements), ...data], metadata).bytes;
  const front = new Uint8Array(reserved + frontByteLength(original, headerBytes, bandElements));
  front.fill(0x20, 0, reserved).set(header);
  const view = new DataView(front.buffer);
  view.setBigUint64(0, BigInt(reserved - LENGTH_PREFIX_BYTES), true);
  let at = reserved;
  for (const { table } of packed) {
    for (const value of table) {
      view.setBigUint64(at, value, true);
      at += 8;
    }
  }
  front.set(headerBytes, at);
  return front;
}

function frontSpecs(original: OriginalShard, headerBytes: Uint8Array, bandElements: number): TensorSpec[] {
  const tables = original.tensors.map((tensor) => ({
    name: `bands/${tensor.name}`,
    dtype: "U64",
    shape: [bandCount(tensor, bandElements), 2],
  }));
  return [...tables, { name: HEADER_TENSOR, dtype: "U8", shape: [padTo8(headerBytes.byteLength)] }];
}

function dataSpec(tensor: TensorInfo, byteLength: number, stored: boolean): TensorSpec {
  const name = `data/${tensor.name}`;
  return stored ? { name, dtype: tensor.dtype, shape: tensor.shape } : { name, dtype: "U8", shape: [byteLength] };
}

function metadataOf(original: OriginalShard, headerChecksum: bigint, bandElements: number): Map<string, string> {
  return new Map([
    ["format", PACK_FORMAT],
    ["physarium_pack_version", PACK_VERSION],
    ["original_file", original.file],
    ["original_byte_length", String(original.byteLength)],
    ["original_header_xxh64", checksumText(headerChecksum)],
    ["band_elements", String(bandElements)],
  ]);
}

/** A tensor of the donor's shard and where its bands lie in the packed one. */
export interface PackedTensor {
  /** As in the donor's shard, position included. */
  readonly info: TensorInfo;
  /** Raw bytes of each band but the last. */
  readonly bandByteLength: number;
  /** A row a band: end in the data, checksum of the raw bytes. */
  readonly table: BigUint64Array;
  /** Position of the data in the packed file, and its bytes with padding. */
  readonly dataByteOffset: number;
  readonly dataByteLength: number;
}

export interface PackedShard {
  readonly file: string;
  readonly byteLength: number;
  readonly original: OriginalShard & { readonly header: SafetensorsHeader };
  /** The donor's shard up to its data section. */
  readonly headerBytes: Uint8Array;
  readonly bandElements: number;
  readonly tensors: ReadonlyMap<string, PackedTensor>;
}

/**
 * Read and check everything of a packed shard but its data: layout, version, the donor's header, the tables.
 *
 * `file` opens every message. Throws `DONOR_HEADER_*` and `DONOR_PACK_*`.
 */
export async function readPackedShard(source: ByteSource, file: string, checksum: Checksum): Promise<PackedShard> {
  const header = await readHeader(source, file);
  const { metadata } = header;
  if (metadata.get("format") !== PACK_FORMAT) {
    throw damaged(file, `its __metadata__ has format "${metadata.get("format")}", expected "${PACK_FORMAT}"`);
  }
  if (metadata.get("physarium_pack_version") !== PACK_VERSION) {
    const found = metadata.get("physarium_pack_version");
    throw new PhysariumError(
      "DONOR_PACK_VERSION",
      `${file}: packed in version "${found}" of the layout, this Physarium reads version ${PACK_VERSION}; use a ` +
        "Physarium that knows it",
      { file, found },
    );
  }
  const bandElements = integerOf(metadata, "band_elements", 1, MAX_BAND_ELEMENTS, file);
  const originalByteLength = integerOf(metadata, "original_byte_length", 0, Number.MAX_SAFE_INTEGER, file);
  const originalFile = metadata.get("original_file") ?? "";

  const byName = new Map(header.tensors.map((tensor) => [tensor.name, tensor]));
  const headerTensor = byName.get(HEADER_TENSOR);
  if (headerTensor?.dtype !== "U8") throw damaged(file, `it holds no U8 tensor "${HEADER_TENSOR}"`);
  const padded = await readTensor(source, headerTensor);
  const headerBytes = unpadHeader(padded, originalByteLength, file);
  if (checksumText(checksum.of(headerBytes)) !== metadata.get("original_header_xxh64")) {
    throw damaged(file, "the donor's header does not have the checksum that __metadata__ gives", "DONOR_PACK_CHECKSUM");
  }
  const original = parseHeader(headerBytes.subarray(LENGTH_PREFIX_BYTES), originalByteLength, originalFile);
  if (header.tensors.length !== 2 * original.tensors.length + 1) {
    throw damaged(file, `it holds ${header.tensors.length} tensors, ${2 * original.tensors.length + 1} belong there`);
  }

  const tensors = new Map<string, PackedTensor>();
  for (const info of original.tensors) {
    const table = byName.get(`bands/${info.name}`);
    const data = byName.get(`data/${info.name}`);
    const bands = bandCount(info, bandElements);
    if (table === undefined || data === undefined || table.dtype !== "U64" || table.shape.join() !== `${bands},2`) {
      throw damaged(file, `tensor "${info.name}" needs bands/… as U64 [${bands}, 2] and data/…`);
    }
    const packed: PackedTensor = {
      info,
      bandByteLength: bandByteLength(info, bandElements),
      table: await readTable(source, table),
      dataByteOffset: data.byteOffset,
      dataByteLength: data.byteLength,
    };
    checkTensor(packed, data, file);
    tensors.set(info.name, packed);
  }
  return {
    file,
    byteLength: source.byteLength,
    original: { file: originalFile, byteLength: originalByteLength, tensors: original.tensors, header: original },
    headerBytes,
    bandElements,
    tensors,
  };
}

/** One band: its raw range in the tensor and its packed range in the packed file. */
export interface BandRange {
  readonly rawBegin: number;
  readonly rawByteLength: number;
  readonly byteOffset: number;
  readonly byteLength: number;
  readonly checksum: bigint;
  /** Zero bytes that follow this band: the last one's padding. */
  readonly padding: number;
}

export function bandRange(tensor: PackedTensor, band: number): BandRange {
  const rawBegin = band * tensor.bandByteLength;
  const begin = band === 0 ? 0 : Number(tensor.table[2 * band - 2]);
  const end = Number(tensor.table[2 * band]);
  const isLast = 2 * band + 2 === tensor.table.length;
  return {
    rawBegin,
    rawByteLength: Math.min(tensor.bandByteLength, tensor.info.byteLength - rawBegin),
    byteOffset: tensor.dataByteOffset + begin,
    byteLength: end - begin,
    checksum: tensor.table[2 * band + 1],
    padding: isLast ? tensor.dataByteLength - end : 0,
  };
}

/** Every band of the table must lie in the data, and no band may be longer than what it stands for. */
function checkTensor(tensor: PackedTensor, data: TensorInfo, file: string): void {
  const { info, table } = tensor;
  const name = `tensor "${info.name}"`;
  let begin = 0n;
  for (let band = 0; 2 * band < table.length; band++) {
    const end = table[2 * band];
    const raw = BigInt(Math.min(tensor.bandByteLength, info.byteLength - band * tensor.bandByteLength));
    const byteLength = end - begin;
    if (end < begin || byteLength > raw || end > BigInt(tensor.dataByteLength)) {
      throw damaged(file, `${name}: band ${band} is said to end at byte ${end} of ${tensor.dataByteLength}`);
    }
    if (byteLength < raw && !isFloatDtype(info.dtype)) {
      throw damaged(file, `${name}: band ${band} is coded, but ${info.dtype} is never coded`);
    }
    begin = end;
  }
  const isOwnForm = data.dtype === info.dtype && data.shape.join() === info.shape.join();
  const isBytes = data.dtype === "U8" && data.shape.length === 1;
  const complete = isOwnForm ? Number(begin) === info.byteLength || isBytes : isBytes;
  if (!complete || tensor.dataByteLength - Number(begin) >= ALIGNMENT) {
    throw damaged(
      file,
      `${name}: its data is ${data.dtype} [${data.shape.join(", ")}], its bands end at byte ${begin}`,
    );
  }
}

async function readTable(source: ByteSource, table: TensorInfo): Promise<BigUint64Array> {
  const bytes = await readTensor(source, table);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return BigUint64Array.from({ length: bytes.byteLength / 8 }, (_, i) => view.getBigUint64(8 * i, true));
}

function readTensor(source: ByteSource, tensor: TensorInfo): Promise<Uint8Array> {
  return source.read(tensor.byteOffset, tensor.byteOffset + tensor.byteLength);
}

function unpadHeader(padded: Uint8Array, originalByteLength: number, file: string): Uint8Array {
  const length = LENGTH_PREFIX_BYTES + headerByteLength(padded.subarray(0, 8), originalByteLength, file);
  if (padTo8(length) !== padded.byteLength || padded.subarray(length).some((byte) => byte !== 0)) {
    throw damaged(file, `the donor's header takes ${length} bytes of the ${padded.byteLength} that hold it`);
  }
  return padded.subarray(0, length);
}

function integerOf(metadata: ReadonlyMap<string, string>, key: string, min: number, max: number, file: string): number {
  const text = metadata.get(key) ?? "";
  const value = Number(text);
  if (!/^\d+$/.test(text) || value < min || value > max) {
    throw damaged(file, `__metadata__.${key} is "${text}", expected a whole number from ${min} to ${max}`);
  }
  return value;
}

/** A packed file that breaks its layout. */
export function damaged(where: string, what: string, code = "DONOR_PACK_LAYOUT"): PhysariumError {
  return new PhysariumError(code, `${where}: ${what}; the packed file is damaged, copy or download it again`, {
    where,
  });
}

/** Bytes between two tensors that are not zero. */
export function paddingError(where: string): PhysariumError {
  return damaged(where, "the bytes behind the last band are not zero");
}
