import { FileSource } from "../checkpoint/file-layer.js";
import { PhysariumError } from "../errors.js";
import { writeOutputFile } from "../output/output-file.js";
import { serializeGgufHeader } from "./gguf/header.js";
import type { Link } from "./gguf/links.js";
import { readGguf } from "./gguf/reader.js";
import { GGUF_MAGIC, type GgufValue } from "./gguf/types.js";

/** Sums of squared inputs of one tensor: a row of columns, or one for each expert of a stack. */
export interface ImportanceEntry {
  readonly name: string;
  /** (matrices, columns): Σ x². */
  readonly sums: Float32Array;
  /** Tokens that each matrix saw. */
  readonly counts: Float32Array;
}

/** What an importance matrix says of the text that it comes from. */
export interface ImatrixSource {
  readonly dataset: string;
  /** Windows, and tokens of one. */
  readonly chunks: number;
  readonly chunkSize: number;
}

/** An importance matrix in memory: E[x²] by a GGUF tensor's name. */
export class Imatrix {
  constructor(private readonly entries: ReadonlyMap<string, ImportanceEntry>) {}

  get size(): number {
    return this.entries.size;
  }

  /** E[x²] of the columns of a piece; of an expert that saw nothing every column counts alike. */
  importance({ ggufName, ggufShape, ggufRow, rowCount, rowLength }: Link): Float32Array | undefined {
    const entry = this.entries.get(ggufName);
    if (entry === undefined) return undefined;
    // The older form has one count for all experts of a stack.
    const matrices = entry.sums.length / rowLength;
    const stacked = ggufShape.length === 3 ? ggufShape[0] : 1;
    if (matrices !== stacked || (entry.counts.length !== 1 && entry.counts.length !== stacked)) {
      throw new PhysariumError(
        "DONOR_IMATRIX",
        `the importance matrix has ${entry.sums.length} numbers for "${ggufName}", not ${stacked} × ${rowLength}: ` +
          "it comes from another model",
        { tensor: ggufName },
      );
    }
    const matrix = stacked === 1 ? 0 : Math.floor(ggufRow / rowCount);
    const count = entry.counts[entry.counts.length === 1 ? 0 : matrix];
    const sums = entry.sums.subarray(matrix * rowLength, (matrix + 1) * rowLength);
    return sums.map((sum) => (count > 0 ? sum / count : 1));
  }
}

/**
 * Read an importance matrix: llama.cpp's GGUF form, or the older one (.dat). Throws `DONOR_IMATRIX`, `DONOR_GGUF_*`.
 * source: llama.cpp tools/imatrix/imatrix.cpp
 */
export async function readImatrix(path: string): Promise<Imatrix> {
  const source = await FileSource.open(path);
  try {
    const start = await source.read(0, Math.min(4, source.byteLength));
    const isGguf =
      start.byteLength === 4 && new DataView(start.buffer, start.byteOffset).getUint32(0, true) === GGUF_MAGIC;
    const entries = isGguf ? await readGgufForm(source, path) : readOldForm(await wholeOf(source, path), path);
    for (const { name, sums, counts } of entries) {
      if ([...counts].every((count) => count >= 0) && sums.every((sum) => sum >= 0 && sum < Number.POSITIVE_INFINITY))
        continue;
      throw broken(path, `"${name.slice(0, 80)}" holds sums or counts that are negative or no numbers`);
    }
    return new Imatrix(new Map(entries.map((entry) => [entry.name, entry])));
  } finally {
    await source.close();
  }
}

async function readGgufForm(source: FileSource, path: string): Promise<ImportanceEntry[]> {
  const file = await readGguf(source, path);
  const byName = new Map(file.tensors.map((tensor) => [tensor.name, tensor]));
  const floatsOf = async (name: string): Promise<Float32Array> => {
    const tensor = byName.get(name);
    if (tensor === undefined || tensor.type !== "F32") throw broken(path, `tensor "${name}" is missing or not F32`);
    return new Float32Array(
      (await source.read(tensor.byteOffset, tensor.byteOffset + tensor.byteLength)).slice().buffer,
    );
  };
  const entries: ImportanceEntry[] = [];
  for (const name of byName.keys()) {
    if (!name.endsWith(SUMS)) continue;
    const of = name.slice(0, -SUMS.length);
    entries.push({ name: of, sums: await floatsOf(name), counts: await floatsOf(`${of}${COUNTS}`) });
  }
  if (entries.length === 0) throw broken(path, `no tensor ends with "${SUMS}"`);
  return entries;
}

const SUMS = ".in_sum2";
const COUNTS = ".counts";
/** Old files are read whole: one of a 70B model has some 30 MB. */
const OLD_LIMIT = 2 ** 30;

async function wholeOf(source: FileSource, path: string): Promise<Uint8Array> {
  if (source.byteLength > OLD_LIMIT) throw broken(path, `${source.byteLength} bytes are more than any has`);
  return (await source.read(0, source.byteLength)).slice();
}

/** i32 entries, then for each: i32 length and bytes of the name, i32 calls, i32 values, f32 sums. */
function readOldForm(bytes: Uint8Array, path: string): ImportanceEntry[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let at = 0;
  const number = (what: string, most: number): number => {
    const value = at + 4 <= bytes.byteLength ? view.getInt32(at, true) : -1;
    if (value < 0 || value > most)
      throw broken(path, `${what} at byte ${at} is ${value}; this is no importance matrix`);
    at += 4;
    return value;
  };
  const entries: ImportanceEntry[] = [];
  const count = number("the number of entries", bytes.byteLength / 16);
  for (let entry = 0; entry < count; entry++) {
    const length = number("the length of a name", bytes.byteLength - at);
    const name = new TextDecoder().decode(bytes.subarray(at, at + length));
    at += length;
    const calls = number("the number of calls", 0x7fffffff);
    const values = number("the number of values", (bytes.byteLength - at) / 4);
    const sums = new Float32Array(values);
    for (let i = 0; i < values; i++) sums[i] = view.getFloat32(at + 4 * i, true);
    at += 4 * values;
    entries.push({ name, sums, counts: Float32Array.of(calls) });
  }
  return entries;
}

/**
 * Write an importance matrix in llama.cpp's GGUF form: everything that speaks against the path is said before `collect`
 * starts its work. Throws `USAGE_OUTPUT*`, `USAGE_LOCKED`.
 */
export async function writeImatrix(
  path: string,
  collect: () => Promise<readonly ImportanceEntry[]>,
  about: ImatrixSource,
  inputs: readonly string[],
): Promise<void> {
  const mayReplace = async (): Promise<string> => "choose another name";
  await writeOutputFile(path, { inputs, mayReplace }, async (output) => {
    await output.write(imatrixBytes(await collect(), about), 0);
  });
}

function imatrixBytes(entries: readonly ImportanceEntry[], about: ImatrixSource): Uint8Array {
  const metadata = new Map<string, GgufValue>([
    ["general.type", { type: "string", value: "imatrix" }],
    ["imatrix.datasets", { type: "array", of: "string", values: [about.dataset] }],
    ["imatrix.chunk_count", { type: "u32", value: about.chunks }],
    ["imatrix.chunk_size", { type: "u32", value: about.chunkSize }],
  ]);
  const tensors = entries.flatMap(
    ({ name, sums, counts }) =>
      [
        {
          spec: { name: `${name}${SUMS}`, type: "F32", shape: [counts.length, sums.length / counts.length] },
          values: sums,
        },
        { spec: { name: `${name}${COUNTS}`, type: "F32", shape: [counts.length, 1] }, values: counts },
      ] as const,
  );
  const header = serializeGgufHeader(
    metadata,
    tensors.map(({ spec }) => spec),
  );
  const whole = new Uint8Array(header.fileByteLength);
  whole.set(header.bytes);
  for (const [at, { values }] of tensors.entries()) {
    whole.set(new Uint8Array(values.buffer, values.byteOffset, values.byteLength), header.places[at].byteOffset);
  }
  return whole;
}

function broken(path: string, what: string): PhysariumError {
  return new PhysariumError("DONOR_IMATRIX", `${path}: ${what}`, { path });
}
