import { basename, dirname, join } from "node:path";
import { attempt, type FileLayer, FileSource } from "../../checkpoint/file-layer.js";
import { isPhysariumError, PhysariumError } from "../../errors.js";
import type { ByteSource } from "../../safetensors/source.js";
import { type GgufFile, readGguf } from "./reader.js";

/** A GGUF model, of one file or of the parts that llama.cpp's splitter cut it into. */
export interface GgufParts {
  /** The model in one piece: metadata of the first part, tensors of all. */
  readonly file: GgufFile;
  /** The parts one behind the other; offsets of tensors count in it. */
  readonly source: ByteSource;
  readonly paths: readonly string[];
  /** Which file, and where in it, an offset of `source` is. */
  placeOf(byteOffset: number): { readonly path: string; readonly byteOffset: number };
  close(): Promise<void>;
}

interface Part {
  readonly path: string;
  readonly source: FileSource;
  readonly file: GgufFile;
}

/** `llama_split_path` of llama.cpp: part and parts have five digits. */
const PART_NAME = /^(?<base>.*)-(?<part>\d{5})-of-(?<parts>\d{5})\.gguf$/s;
/** Five digits hold no more. */
const MAX_PARTS = 99_999;

/**
 * Open a GGUF file; of one that is a part of a split model all parts, which lie beside it.
 *
 * Throws `DONOR_GGUF_SPLIT` for parts that are missing or do not belong together, `DONOR_GGUF_*` for what is wrong with
 * one. source: llama.cpp `tools/gguf-split`, `split.no`, `split.count`, `split.tensors.count`
 */
export async function openGgufParts(path: string, files: FileLayer): Promise<GgufParts> {
  const given = await openPart(path, files);
  const parts = [given];
  const close = async (): Promise<void> => {
    for (const part of parts) await attempt("closing", part.path, () => part.source.close());
  };
  try {
    const count = numberOf(given.file, "split.count") ?? 1;
    if (count <= 1) return { file: given.file, source: given.source, paths: [path], placeOf: placeIn(parts), close };
    const paths = partPaths(given, count);
    await refuseMissing(given, paths, files);
    parts.length = 0;
    for (const each of paths) parts.push(basename(each) === basename(path) ? given : await openPart(each, files));
    return { file: joined(parts, count), source: behindEachOther(parts), paths, placeOf: placeIn(parts), close };
  } catch (error) {
    if (!parts.includes(given)) parts.push(given);
    await close();
    throw error;
  }
}

function placeIn(parts: readonly Part[]): GgufParts["placeOf"] {
  return (byteOffset) => {
    let begin = 0;
    for (const { path, source } of parts) {
      if (byteOffset < begin + source.byteLength) return { path, byteOffset: byteOffset - begin };
      begin += source.byteLength;
    }
    throw new RangeError(`byte ${byteOffset} of a model of ${begin}`);
  };
}

async function openPart(path: string, files: FileLayer): Promise<Part> {
  const source = await FileSource.open(path, files);
  try {
    return { path, source, file: await readGguf(source, basename(path)) };
  } catch (error) {
    await attempt("closing", path, () => source.close());
    throw error;
  }
}

/** Where all parts lie. Throws `DONOR_GGUF_SPLIT` for a name that does not tell. */
function partPaths({ path, file }: Part, count: number): string[] {
  const name = basename(path);
  const part = (numberOf(file, "split.no") ?? 0) + 1;
  const groups = PART_NAME.exec(name)?.groups;
  const digits = (value: number): string => String(value).padStart(5, "0");
  if (count > MAX_PARTS || groups === undefined || groups.part !== digits(part) || groups.parts !== digits(count)) {
    const expected = `${groups?.base ?? name.replace(/\.gguf$/, "")}-${digits(part)}-of-${digits(count)}.gguf`;
    throw fault(
      `${name}: it is part ${part} of ${count} of a split model, and its name does not say so; call it ${expected}, ` +
        "as llama.cpp names parts, and put all parts into one folder",
      { path, part, count },
    );
  }
  return Array.from({ length: count }, (_, at) =>
    join(dirname(path), `${groups.base}-${digits(at + 1)}-of-${digits(count)}.gguf`),
  );
}

async function refuseMissing({ path, file }: Part, paths: readonly string[], files: FileLayer): Promise<void> {
  const missing: string[] = [];
  for (const each of paths) {
    try {
      await files.stat(each);
    } catch (error) {
      if (!isPhysariumError(error, "IO_NOT_FOUND") && (error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
      missing.push(basename(each));
    }
  }
  if (missing.length === 0) return;
  const named =
    missing.length > 4 ? `${missing.slice(0, 3).join(", ")} and ${missing.length - 3} more` : missing.join(", ");
  throw fault(
    `${basename(path)}: it is part ${(numberOf(file, "split.no") ?? 0) + 1} of ${paths.length} of a split model, and ` +
      `${named} ${missing.length === 1 ? "is" : "are"} missing beside it; put all parts into one folder and ` +
      "import any of them",
    { path, missing },
  );
}

/** One file of all parts. Throws `DONOR_GGUF_SPLIT` where they are not of one model. */
function joined(parts: readonly Part[], count: number): GgufFile {
  const names = new Set<string>();
  const tensors: GgufFile["tensors"][number][] = [];
  let base = 0;
  for (const [at, { path, source, file }] of parts.entries()) {
    const [part, of] = [numberOf(file, "split.no") ?? 0, numberOf(file, "split.count") ?? 1];
    if (part !== at || of !== count) {
      throw fault(
        `${basename(path)}: its metadata makes it part ${part + 1} of ${of}, its name part ${at + 1} of ${count}; ` +
          "the parts do not belong together, download them again",
        { path },
      );
    }
    for (const tensor of file.tensors) {
      if (names.has(tensor.name)) {
        throw fault(`${basename(path)}: tensor "${tensor.name.slice(0, 120)}" stands in another part, too`, { path });
      }
      names.add(tensor.name);
      tensors.push({ ...tensor, byteOffset: base + tensor.byteOffset });
    }
    base += source.byteLength;
  }
  const expected = numberOf(parts[0].file, "split.tensors.count") ?? tensors.length;
  if (expected !== tensors.length) {
    throw fault(
      `${basename(parts[0].path)}: the parts hold ${tensors.length} tensors, and split.tensors.count is ${expected}; ` +
        "download them again",
      { path: parts[0].path },
    );
  }
  return { ...parts[0].file, tensors };
}

/** No tensor reaches from one part into the next: readers check that each ends within its file. */
function behindEachOther(parts: readonly Part[]): ByteSource {
  const ends: number[] = [];
  let byteLength = 0;
  for (const { source } of parts) {
    byteLength += source.byteLength;
    ends.push(byteLength);
  }
  return {
    byteLength,
    read(begin, end) {
      const at = ends.findIndex((partEnd) => begin < partEnd);
      const start = at > 0 ? ends[at - 1] : 0;
      return parts[at].source.read(begin - start, end - start);
    },
  };
}

function numberOf({ metadata }: GgufFile, key: string): number | undefined {
  const value = metadata.get(key);
  const number = value === undefined || value.type === "array" ? Number.NaN : Number(value.value);
  return Number.isSafeInteger(number) && number >= 0 ? number : undefined;
}

function fault(message: string, details: Record<string, unknown>): PhysariumError {
  return new PhysariumError("DONOR_GGUF_SPLIT", message, details);
}
