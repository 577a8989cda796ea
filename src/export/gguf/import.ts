import { basename } from "node:path";
import { elementCount } from "../../checkpoint/donor.js";
import { attempt, type FileLayer, nodeFiles, type OpenFile, writeFully } from "../../checkpoint/file-layer.js";
import { readPassage, writePassage } from "../../checkpoint/passage.js";
import { refuseStopped } from "../../errors.js";
import { nothingKept } from "../../output/nothing-kept.js";
import { StagedFolder } from "../../output/staged-folder.js";
import { bytesPerFloat, type FloatDtype } from "../../safetensors/dtypes.js";
import { encodeFloats } from "../../safetensors/float-bits.js";
import type { ByteSource } from "../../safetensors/source.js";
import { serializeHeader } from "../../safetensors/writer.js";
import { type RunnableJob, runJobs } from "../../threads/run-jobs.js";
import { type DecodeJob, type DecodeResult, openDecoding } from "./import-conversion.js";
import { type ImportPiece, type ImportPlan, type ImportTarget, planImport } from "./import-plan.js";
import { liesAsStored, reorderBand, reorderColumns, streams, turned } from "./links.js";
import { bandRows } from "./segments.js";
import { type GgufParts, openGgufParts } from "./split.js";
import { type TensorType, tensorBytes } from "./types.js";

export interface GgufImportOptions {
  /** The dtype of every tensor of the new folder; BF16 where not given. */
  readonly dtype?: FloatDtype;
  /** Threads; the bytes do not depend on their number. Default: as many as there are processors. */
  readonly workers?: number;
  readonly files?: FileLayer;
  /** Aborted, the run stops after the bands in hand and leaves nothing. */
  readonly signal?: AbortSignal;
  /** Called before each tensor. */
  readonly onTensor?: (name: string, position: number, total: number) => void;
}

export interface ImportedTensor {
  readonly name: string;
  /** The file's tensor; the first of several. */
  readonly ggufName: string;
  readonly type: TensorType;
  readonly weights: number;
  readonly zeros: number;
  /** Weights that the dtype could not hold exactly. */
  readonly rounded: number;
}

export interface GgufImport {
  readonly path: string;
  readonly modelType: string;
  readonly dtype: FloatDtype;
  readonly files: readonly string[];
  readonly tensors: readonly ImportedTensor[];
  readonly warnings: readonly string[];
}

const WEIGHTS_FILE = "model.safetensors";

/**
 * Write a GGUF file, or all parts of a split one, as a model folder: config.json, tokenizer and model.safetensors,
 * tensor by tensor in bounded memory, on all processors.
 *
 * The folder appears under its name only when it is whole and synced. Throws `DONOR_GGUF_*` for what is wrong with the
 * file, `DONOR_NON_FINITE` and `DONOR_IMPORT_RANGE` for weights no donor should have.
 */
export async function importGguf(
  ggufPath: string,
  outputPath: string,
  options: GgufImportOptions = {},
): Promise<GgufImport> {
  const files = options.files ?? nodeFiles;
  const dtype = options.dtype ?? "BF16";
  const model = await openGgufParts(ggufPath, files);
  const { source } = model;
  try {
    const plan = await planImport(source, basename(ggufPath), dtype, options.signal, model.file);
    const header = serializeHeader(
      plan.targets.map((target) => ({ name: target.name, dtype, shape: target.shape })),
      new Map([["format", "pt"]]),
    );
    const neededBytes = header.fileByteLength;
    const place = { inputs: model.paths, output: outputPath, command: "import", neededBytes, files };
    const folder = await StagedFolder.open(place);
    try {
      const tallies = plan.targets.map(() => ({ zeros: 0, rounded: 0 }));
      await folder.write(WEIGHTS_FILE, async (file, path) => {
        await writeFully(file, header.bytes, 0, path);
        // At full length from the start: parts are written in any order.
        await attempt("extending", path, () => file.truncate(header.fileByteLength));
        const out: Destination = { file, path, places: header.tensors, tallies, dtype };
        const weights = plan.targets.reduce((sum, { shape }) => sum + elementCount(shape), 0);
        const direct = await directFiles(model.paths, path, header.fileByteLength, files);
        const pool = await openDecoding(weights, { direct }, files, options.workers);
        try {
          await runJobs(decodeJobs(model, plan, out, options), pool, options.signal);
        } finally {
          await pool.close();
        }
      });
      const tensors = plan.targets.map(({ name: target, shape, pieces, listed }, position) => {
        const { name: ggufName, type } =
          listed === undefined ? pieces[0].info : { name: listed.key, type: "F32" as const };
        return { name: target, ggufName, type, weights: elementCount(shape), ...tallies[position] };
      });
      const written = [WEIGHTS_FILE, ...(await writeSideFiles(folder, plan))];
      await folder.commit();
      const { modelType } = plan.model;
      return { path: outputPath, modelType, dtype, files: written, tensors, warnings: plan.tokenizer.warnings };
    } catch (error) {
      await folder.discard();
      throw nothingKept(error, outputPath);
    }
  } finally {
    await model.close();
  }
}

/** Large files go past the page cache. Asked while nothing of this process reads. */
async function directFiles(
  paths: readonly string[],
  output: string,
  byteLength: number,
  files: FileLayer,
): Promise<string[]> {
  const direct = writePassage(byteLength) === "direct" ? [output] : [];
  for (const path of paths) {
    const { size } = await attempt("examining", path, () => files.stat(path));
    if ((await readPassage(path, size, files)) === "direct") direct.push(path);
  }
  return direct;
}

/** The file being written, and what is counted on the way. */
interface Destination {
  readonly file: OpenFile;
  readonly path: string;
  readonly places: readonly { readonly byteOffset: number }[];
  readonly tallies: { zeros: number; rounded: number }[];
  readonly dtype: FloatDtype;
}

type Decoding = RunnableJob<DecodeJob, DecodeResult>;

async function* decodeJobs(
  model: GgufParts,
  plan: ImportPlan,
  out: Destination,
  options: GgufImportOptions,
): AsyncGenerator<Decoding> {
  for (const [position, target] of plan.targets.entries()) {
    refuseStopped(options.signal);
    options.onTensor?.(target.name, position, plan.targets.length);
    if (target.listed !== undefined) {
      const bytes = encodeFloats(target.listed.values, out.dtype);
      await writeFully(out.file, bytes, out.places[position].byteOffset, out.path);
    }
    for (const pieces of byMatrix(target)) {
      if (pieces.every(({ link }) => streams(link))) {
        for (const piece of pieces) yield* streamedJobs(model, piece, position, out);
      } else yield* gatheredJobs(model.source, pieces, position, out);
    }
  }
}

/** Pieces that make up the same matrix of a tensor. */
function byMatrix({ pieces }: ImportTarget): ImportPiece[][] {
  const groups = new Map<number, ImportPiece[]>();
  for (const piece of pieces) groups.set(piece.link.matrix, [...(groups.get(piece.link.matrix) ?? []), piece]);
  return [...groups.values()];
}

/** Bands that go where they belong as they come. */
async function* streamedJobs(
  model: GgufParts,
  piece: ImportPiece,
  position: number,
  out: Destination,
): AsyncGenerator<Decoding> {
  const { link } = piece;
  const width = bytesPerFloat(out.dtype);
  const rowBytes = link.rowLength * width;
  const place = (from: number) =>
    out.places[position].byteOffset + (link.matrix * link.matrixRows + link.start + from) * rowBytes;
  if (liesAsStored(link)) {
    for (const { from, at, byteLength, job } of bandPlaces(piece, out.dtype)) {
      const output = { path: out.path, byteOffset: place(from) };
      yield {
        job: { ...job, bytes: { ...model.placeOf(at), byteLength }, output },
        done: ({ zeros, rounded }) => {
          out.tallies[position].zeros += zeros;
          out.tallies[position].rounded += rounded;
        },
      };
    }
    return;
  }
  for await (const { from, job } of bandsOf(model.source, piece, out.dtype)) {
    yield {
      job,
      done: async ({ bytes, zeros, rounded }) => {
        out.tallies[position].zeros += zeros;
        out.tallies[position].rounded += rounded;
        const ordered = reorderBand(reorderColumns(bytes!, width, link, false), rowBytes, link, from, false);
        await writeFully(out.file, ordered, place(from), out.path);
      },
    };
  }
}

/** A matrix that is put together in memory, turned over where it must be, and written as a whole. */
async function* gatheredJobs(
  source: ByteSource,
  pieces: readonly ImportPiece[],
  position: number,
  out: Destination,
): AsyncGenerator<Decoding> {
  const { rowLength, matrix, matrixRows, transposed } = pieces[0].link;
  const width = bytesPerFloat(out.dtype);
  const rowBytes = rowLength * width;
  const whole = new Uint8Array(matrixRows * rowBytes);
  let missing = pieces.reduce((sum, { link }) => sum + link.rowCount, 0);
  for (const piece of pieces) {
    const { link } = piece;
    for await (const { from, to, job } of bandsOf(source, piece, out.dtype)) {
      yield {
        job,
        done: async ({ bytes: decoded, zeros, rounded }) => {
          out.tallies[position].zeros += zeros;
          out.tallies[position].rounded += rounded;
          const bytes = reorderColumns(decoded!, width, link, false);
          for (let row = from; row < to; row++) {
            const theirs = link.order?.[row] ?? link.start + row;
            whole.set(bytes.subarray((row - from) * rowBytes, (row - from + 1) * rowBytes), theirs * rowBytes);
          }
          missing -= to - from;
          if (missing > 0) return;
          const stored = transposed ? turned(whole, matrixRows, rowLength, width) : whole;
          const place = out.places[position].byteOffset + matrix * stored.byteLength;
          await writeFully(out.file, stored, place, out.path);
        },
      };
    }
  }
}

/** Where the bands of a piece lie, and what there is to do. */
function* bandPlaces({ link, info }: ImportPiece, dtype: FloatDtype) {
  const step = bandRows(link);
  for (let from = 0; from < link.rowCount; from += step) {
    const to = Math.min(link.rowCount, from + step);
    const at = info.byteOffset + tensorBytes(info.type, (link.ggufRow + from) * link.rowLength);
    const weights = (to - from) * link.rowLength;
    const job = { weights, type: info.type, dtype, values: link.values, tensor: link.name };
    yield { from, to, at, byteLength: tensorBytes(info.type, weights), job };
  }
}

async function* bandsOf(source: ByteSource, piece: ImportPiece, dtype: FloatDtype) {
  for (const { from, to, at, byteLength, job } of bandPlaces(piece, dtype)) {
    yield { from, to, job: { ...job, bytes: await source.read(at, at + byteLength) } };
  }
}

async function writeSideFiles(folder: StagedFolder, plan: ImportPlan): Promise<string[]> {
  const { tokenizerJson, tokenizerConfig } = plan.tokenizer;
  const written: string[] = ["config.json"];
  await folder.writeText("config.json", plan.configText);
  if (tokenizerJson !== undefined) {
    await folder.writeText("tokenizer.json", tokenizerJson);
    const config = { ...tokenizerConfig, model_max_length: plan.model.contextLength };
    await folder.writeText("tokenizer_config.json", `${JSON.stringify(config, null, 2)}\n`);
    written.push("tokenizer.json", "tokenizer_config.json");
  }
  return written;
}
