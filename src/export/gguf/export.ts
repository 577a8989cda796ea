import { join } from "node:path";
import type { Model } from "../../checkpoint/donor.js";
import { type FileLayer, FileSource, nodeFiles } from "../../checkpoint/file-layer.js";
import { readPassage, writePassage } from "../../checkpoint/passage.js";
import { PhysariumError, refuseStopped } from "../../errors.js";
import { requireDiskSpace } from "../../output/disk-space.js";
import { type OutputFile, writeOutputFile } from "../../output/output-file.js";
import { type FloatDtype, isFloatDtype } from "../../safetensors/dtypes.js";
import { type RunnableJob, runJobs } from "../../threads/run-jobs.js";
import { ModelFolder } from "../model-folder.js";
import { Quantiser } from "../quantiser.js";
import type { WeightStatistics } from "../statistics.js";
import { addTally, type ConversionTally, type ExportType, newTally } from "../weight-band.js";
import { type CompensatedRows, Compensation } from "./compensated.js";
import { type ConversionJob, openConversion } from "./conversion.js";
import type { Link } from "./links.js";
import type { GgufModel } from "./model.js";
import { type GgufPlan, type PlannedTensor, planGguf } from "./plan.js";
import { bandsOf, type Piece } from "./segments.js";
import type { ExportRecipe } from "./tensor-types.js";
import { GGUF_MAGIC, TENSOR_TYPES, tensorBytes } from "./types.js";

/** What an export would write, known from headers alone. */
export interface GgufLayout {
  readonly config: GgufModel;
  readonly byteLength: number;
  /** `name` is the one in the GGUF file. */
  readonly tensors: readonly { readonly name: string; readonly type: ExportType; readonly byteLength: number }[];
  readonly warnings: readonly string[];
}

/** The layout of an export that is not written. Throws what `exportGguf` throws before its first write. */
export async function layoutGguf(model: Model, type: ExportRecipe, files: FileLayer = nodeFiles): Promise<GgufLayout> {
  const folder = await ModelFolder.open(model, files);
  try {
    const { model: config, tensors, header, warnings } = await planGguf(folder, type);
    return {
      config,
      byteLength: header.fileByteLength,
      tensors: tensors.map(({ spec }, at) => ({
        name: spec.name,
        type: spec.type,
        byteLength: header.places[at].byteLength,
      })),
      warnings,
    };
  } finally {
    await folder.close();
  }
}

export interface GgufExportOptions {
  /** One type for all matrices, or a mixture by its name. */
  readonly type: ExportRecipe;
  /** Replace an existing file, if it is a GGUF file. */
  readonly overwrite?: boolean;
  /** Threads; the bytes do not depend on their number. Default: as many as there are processors. */
  readonly workers?: number;
  /** Quantise with calibration: importance of columns, or errors passed on. */
  readonly statistics?: WeightStatistics;
  readonly files?: FileLayer;
  /** Aborted, the run stops after the bands in hand and leaves nothing. */
  readonly signal?: AbortSignal;
  /** Called before each tensor. */
  readonly onTensor?: (name: string, position: number, total: number) => void;
}

export interface ExportedTensor extends Readonly<ConversionTally> {
  /** The checkpoint's tensor; the first of several. */
  readonly name: string;
  readonly ggufName: string;
  readonly dtype: string;
  readonly type: ExportType;
  /** Vectors (norms, biases, rope factors) are F32 whatever was asked for. */
  readonly isMatrix: boolean;
  /** Why the tensor has another type than the one asked for; undefined where it has that or is no matrix. */
  readonly fallback: string | undefined;
  readonly byteLength: number;
}

export interface GgufExport {
  readonly path: string;
  readonly architecture: string;
  readonly type: ExportRecipe;
  /** Whether every matrix's type keeps zeros zero. */
  readonly holdsExactZeros: boolean;
  readonly byteLength: number;
  readonly tensors: readonly ExportedTensor[];
  /** Tensors of the donor that the file does not hold, and why. */
  readonly leftOut: readonly { readonly name: string; readonly reason: string }[];
  readonly warnings: readonly string[];
}

/**
 * Write a model folder as one GGUF file, tensor by tensor in bounded memory, on all processors.
 *
 * Vectors are F32; matrices have the asked type, or llama.cpp's fallback where its blocks do not divide their rows.
 * The file appears under its name only when it is whole and synced. Throws `USAGE_*` and `DONOR_*` before the first
 * write, except for weights that the type cannot hold.
 */
export async function exportGguf(model: Model, outputPath: string, options: GgufExportOptions): Promise<GgufExport> {
  const files = options.files ?? nodeFiles;
  const folder = await ModelFolder.open(model, files);
  try {
    const plan = await planGguf(folder, options.type);
    const mayReplace = (path: string) => mayReplaceGguf(path, options.overwrite === true, files);
    const tallies = await writeOutputFile(
      outputPath,
      { inputs: [folder.donor.path], mayReplace, files },
      async (output) => {
        await requireDiskSpace(outputPath, plan.header.fileByteLength, files);
        await output.extend(plan.header.fileByteLength);
        await output.write(plan.header.bytes, 0);
        return writeTensors(folder, plan, output, options);
      },
    );
    const tensors = plan.tensors.map((tensor, position) =>
      describeTensor(tensor, plan.header.places[position].byteLength, tallies[position]),
    );
    return {
      path: outputPath,
      architecture: plan.model.architecture,
      type: options.type,
      holdsExactZeros: tensors.every(({ isMatrix, type }) => !isMatrix || TENSOR_TYPES[type].holdsExactZeros),
      byteLength: plan.header.fileByteLength,
      tensors,
      leftOut: plan.leftOut,
      warnings: plan.warnings,
    };
  } finally {
    await folder.close();
  }
}

/** Convert and write everything behind the header; what became of each tensor. */
async function writeTensors(
  folder: ModelFolder,
  plan: GgufPlan,
  output: OutputFile,
  options: GgufExportOptions,
): Promise<ConversionTally[]> {
  const weights = plan.tensors.reduce((sum, { spec }) => sum + spec.shape.reduce((a, b) => a * b, 1), 0);
  const files = options.files ?? nodeFiles;
  const direct = await directFiles(folder, plan, output, files);
  const pool = await openConversion(weights, { direct }, files, options.workers);
  // Bands come back in any order; their sums are added in the order of the file.
  const bands = plan.tensors.map((): ConversionTally[] => []);
  try {
    await runJobs(conversionJobs(folder, plan, output, bands, options), pool, options.signal);
  } finally {
    await pool.close();
  }
  return bands.map((tallies) => {
    const sum = newTally();
    for (const tally of tallies) addTally(sum, tally);
    return sum;
  });
}

/** Large files go past the page cache. Asked while nothing of this process reads. */
async function directFiles(
  folder: ModelFolder,
  plan: GgufPlan,
  output: OutputFile,
  files: FileLayer,
): Promise<string[]> {
  const direct = writePassage(plan.header.fileByteLength) === "direct" ? [output.partialPath] : [];
  const { localPath } = folder.donor.source;
  for (const { file, byteLength } of localPath === undefined ? [] : folder.donor.shards) {
    const path = join(localPath!, file);
    if ((await readPassage(path, byteLength, files)) === "direct") direct.push(path);
  }
  return direct;
}

async function* conversionJobs(
  folder: ModelFolder,
  plan: GgufPlan,
  output: OutputFile,
  bands: ConversionTally[][],
  options: GgufExportOptions,
): AsyncGenerator<RunnableJob<ConversionJob, ConversionTally>> {
  const compensation =
    options.statistics?.compensation === undefined
      ? undefined
      : new Compensation(folder, options.statistics, new Quantiser());
  for (const [position, { spec, source }] of plan.tensors.entries()) {
    refuseStopped(options.signal);
    options.onTensor?.(spec.name, position, plan.tensors.length);
    const { byteOffset, byteLength } = plan.header.places[position];
    const tallies = bands[position];
    let end = byteOffset;
    if ("values" in source) {
      const { buffer, byteOffset: at, byteLength: length } = source.values;
      await output.write(new Uint8Array(buffer, at, length), byteOffset);
      tallies.push({ ...newTally(), weights: source.values.length });
      end += length;
    } else {
      const rounded = roundPieces(source.pieces, spec.type, compensation);
      for await (const { link, from, bytes, tally } of rounded.done) {
        refuseStopped(options.signal);
        tallies.push(tally);
        await output.write(bytes, byteOffset + tensorBytes(spec.type, (link.ggufRow + from) * link.rowLength));
        end += bytes.byteLength;
      }
      for await (const { piece, from, to, bytes } of bandsOf(folder, rounded.left)) {
        const { link, located } = piece;
        const importance = isFloatDtype(spec.type) ? undefined : await options.statistics?.importance(link);
        const band = tallies.push(newTally()) - 1;
        const place = byteOffset + tensorBytes(spec.type, (link.ggufRow + from) * link.rowLength);
        end += tensorBytes(spec.type, (to - from) * link.rowLength);
        yield {
          job: {
            bytes,
            dtype: located.info.dtype as FloatDtype,
            type: spec.type,
            values: link.values,
            ...(importance?.length === link.rowLength ? { importance } : {}),
            tensor: link.name,
            firstElement: from * link.rowLength,
            outputPath: output.partialPath,
            outputByteOffset: place,
          },
          done: (tally) => {
            tallies[band] = tally;
          },
        };
      }
    }
    if (end !== byteOffset + byteLength) {
      throw new PhysariumError("INTERNAL", `${spec.name}: wrote ${end - byteOffset} of ${byteLength} bytes`);
    }
    // Padding is written out, so that the last tensor too ends on the alignment.
    const next = plan.header.places[position + 1]?.byteOffset ?? plan.header.fileByteLength;
    if (next > end) await output.write(new Uint8Array(next - end), end);
  }
}

/** Pieces that are rounded with compensation here, and those that are left for the threads. */
function roundPieces(pieces: readonly Piece[], type: ExportType, compensation: Compensation | undefined) {
  const [here, to] =
    isFloatDtype(type) || type === "IQ4_NL" || !pieces.every((piece) => compensation?.reaches(piece))
      ? [undefined, undefined]
      : [compensation, type];
  async function* rounded(): AsyncGenerator<CompensatedRows & { readonly link: Link }> {
    if (here === undefined || to === undefined) return;
    for (const piece of pieces) for await (const rows of here.round(piece, to)) yield { ...rows, link: piece.link };
  }
  return { left: here === undefined ? pieces : [], done: rounded() };
}

function describeTensor({ spec, source, fallback }: PlannedTensor, byteLength: number, tally: ConversionTally) {
  const info = "pieces" in source ? source.pieces[0].located.info : { name: spec.name, dtype: "F32" };
  return {
    name: info.name,
    ggufName: spec.name,
    dtype: info.dtype,
    type: spec.type,
    isMatrix: spec.shape.length > 1,
    fallback,
    byteLength,
    ...tally,
  };
}

/** With `--overwrite` a GGUF file gives way; where it may not, what to do. */
async function mayReplaceGguf(path: string, overwrite: boolean, files: FileLayer): Promise<true | string> {
  if (!overwrite) return "use --overwrite";
  return (await isGguf(path, files)) || "it is no GGUF file";
}

async function isGguf(path: string, files: FileLayer): Promise<boolean> {
  const source = await FileSource.open(path, files);
  try {
    if (source.byteLength < 4) return false;
    const bytes = await source.read(0, 4);
    return new DataView(bytes.buffer).getUint32(0, true) === GGUF_MAGIC;
  } finally {
    await source.close();
  }
}
