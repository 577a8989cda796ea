import { join, resolve } from "node:path";
import {
  attempt,
  type FileLayer,
  nodeFiles,
  type OpenFile,
  readSmallFile,
  writeFully,
} from "../checkpoint/file-layer.js";
import { isPhysariumError, PhysariumError, refuseStopped } from "../errors.js";
import { nothingKept } from "../output/nothing-kept.js";
import { StagedFolder } from "../output/staged-folder.js";
import type { TensorInfo } from "../safetensors/header.js";
import { serializeHeader } from "../safetensors/writer.js";
import { type Distribution, quantileBits } from "./distribution.js";
import { byteLengthOf, type ShardLayout } from "./shard-layout.js";
import { MARKER_FILE, planSynth, type SynthOptions, type SynthPlan } from "./synth-plan.js";
import { WeightStream } from "./weight-stream.js";

export interface SynthProgress {
  readonly bytesDone: number;
  readonly bytesTotal: number;
  readonly shard: string;
}

/** How a random model is written: its distribution and seed, and what happens meanwhile. */
export interface SynthRunOptions extends SynthOptions {
  /** Replace an existing output, if synth wrote it. */
  readonly overwrite?: boolean;
  /** Called after every write of up to 1 MiB. */
  readonly onProgress?: (progress: SynthProgress) => void;
  /** Aborted, the run stops after the pieces in flight and leaves nothing. */
  readonly signal?: AbortSignal;
  readonly files?: FileLayer;
}

/** What was written; lengths in bytes. */
export interface SynthResult {
  readonly output: string;
  readonly totalSize: number;
  readonly tensorCount: number;
  readonly shards: readonly string[];
  readonly plan: SynthPlan;
  readonly seconds: number;
}

/**
 * Weights are drawn and written in pieces of this many bytes, so that a piece is still in the cache when the system
 * copies it.
 */
const CHUNK_BYTES = 1 << 20;
/** Pieces under way at once: one is drawn while others are written. */
const CHUNKS_IN_FLIGHT = 4;

/**
 * Write a random donor: the tensors, shapes, shards and index of a real model, with weights drawn from a distribution.
 *
 * Norm weights are 1, biases Gaussian, everything else follows `distribution`; the standard deviation is the
 * configuration's `initializer_range`. Written to `<output>.partial` and renamed when whole. Buffers take 4 MiB for any
 * model.
 *
 * Throws `USAGE_SYNTH_*` before the first write, `DONOR_*` for the config folder, `IO_*` for the disk.
 */
export async function synthesize(source: string, output: string, options: SynthRunOptions = {}): Promise<SynthResult> {
  const started = performance.now();
  const files = options.files ?? nodeFiles;
  const target = resolve(output);
  const plan = await planSynth(source, options, files);
  const folder = await StagedFolder.open({
    inputs: [source],
    output,
    command: "synth",
    // Headers, index and side files are small beside the weights; a hundredth covers them and the file system's own
    // needs.
    neededBytes: Math.ceil(weightBytes(plan) * 1.01),
    ...(options.overwrite ? { mayReplace: (names, path) => refuseForeign(path, names, files) } : {}),
    isOwnPartial: (names, path) => refuseForeign(path, names, files),
    files,
  });
  try {
    // The marker stands first: what a stopped run leaves behind can be told from somebody's folder.
    for (const [file, bytes] of [...plan.texts].reverse()) await folder.writeBytes(file, bytes);
    for (const file of plan.sideFiles) {
      await folder.writeBytes(file, await readSmallFile(join(source, file), files));
    }
    const writer = new ShardWriter(plan, files, options);
    try {
      for (const shard of plan.shards) await writer.write(join(folder.path, shard.file), shard);
    } finally {
      await writer.close();
    }
    refuseStopped(options.signal);
    await folder.commit();
  } catch (error) {
    // The next run clears what is left.
    await (isPhysariumError(error, "STOPPED") ? folder.discard() : folder.release().catch(() => {}));
    throw nothingKept(error, output);
  }
  return {
    output: target,
    totalSize: plan.totalSize,
    tensorCount: plan.tensorCount,
    shards: plan.shards.map(({ file }) => file),
    plan,
    seconds: (performance.now() - started) / 1000,
  };
}

/** Writes shards one behind the other; a shard is synced to disk while the next is drawn. */
class ShardWriter {
  private readonly tables = new Map<Distribution, Uint16Array | Uint32Array>();
  private readonly chunks = Array.from({ length: CHUNKS_IN_FLIGHT }, () => new Uint32Array(CHUNK_BYTES / 4));
  private readonly pending: Promise<void>[] = Array.from({ length: CHUNKS_IN_FLIGHT }, () => Promise.resolve());
  private syncing: Promise<void> = Promise.resolve();
  private turn = 0;
  private bytesDone = 0;

  constructor(
    private readonly plan: SynthPlan,
    private readonly files: FileLayer,
    private readonly options: Pick<SynthRunOptions, "onProgress" | "signal">,
  ) {}

  async write(path: string, shard: ShardLayout): Promise<void> {
    const header = serializeHeader(shard.tensors, new Map([["format", "pt"]]));
    const file = await attempt("creating", path, () => this.files.open(path, "wx"));
    try {
      await writeFully(file, header.bytes, 0, path);
      for (const tensor of header.tensors) await this.writeTensor(file, path, tensor, shard.file);
      await Promise.all(this.pending);
      await this.syncing;
    } catch (error) {
      await Promise.allSettled(this.pending);
      await file.close();
      throw error;
    }
    this.syncing = attempt("syncing", path, () => file.datasync()).finally(() => file.close());
    this.syncing.catch(() => {});
  }

  /** Resolves when the last shard is on disk; throws what its sync threw. */
  async close(): Promise<void> {
    await this.syncing;
  }

  private async writeTensor(file: OpenFile, path: string, tensor: TensorInfo, shard: string): Promise<void> {
    const fill = this.filler(tensor);
    for (let byte = 0; byte < tensor.byteLength; byte += CHUNK_BYTES) {
      const turn = this.turn++ % CHUNKS_IN_FLIGHT;
      await this.pending[turn];
      refuseStopped(this.options.signal);
      const byteLength = Math.min(CHUNK_BYTES, tensor.byteLength - byte);
      // F32 is filled in pairs, so a lone last element needs the room of two words.
      const words = this.chunks[turn].subarray(0, Math.ceil(byteLength / 8) * 2);
      fill(words, byte);
      const bytes = new Uint8Array(words.buffer, 0, byteLength);
      this.pending[turn] = writeFully(file, bytes, tensor.byteOffset + byte, path).then(() => {
        this.bytesDone += byteLength;
        this.options.onProgress?.({ bytesDone: this.bytesDone, bytesTotal: this.plan.totalSize, shard });
      });
      // A failure is thrown where the chunk is awaited; without this line Node would call it unhandled in between.
      this.pending[turn].catch(() => {});
    }
  }

  /** Fills words that begin at a byte of the tensor. */
  private filler(tensor: TensorInfo): (words: Uint32Array, byte: number) => void {
    const { name, shape, dtype } = tensor;
    if (/norm[^.]*\.weight$/.test(name)) {
      const one = dtype === "BF16" ? 0x3f803f80 : dtype === "F16" ? 0x3c003c00 : 0x3f800000;
      return (words) => words.fill(one);
    }
    const isMatrix = shape.length >= 2;
    const table = this.table(isMatrix ? this.plan.distribution : "gaussian");
    const stream = new WeightStream(this.plan.seed, name, table, shape.at(-1) ?? 1);
    const bytesPerRandomWord = dtype === "F32" ? 8 : 4;
    return (words, byte) => stream.fill(words, byte / bytesPerRandomWord);
  }

  private table(distribution: Distribution): Uint16Array | Uint32Array {
    let table = this.tables.get(distribution);
    if (table === undefined) {
      table = quantileBits(distribution, this.plan.std, this.plan.dtype);
      this.tables.set(distribution, table);
    }
    return table;
  }
}

function weightBytes({ shards }: SynthPlan): number {
  return shards.flatMap(({ tensors }) => tensors).reduce((sum, tensor) => sum + byteLengthOf(tensor), 0);
}

/**
 * Every entry must be one that the marker lists: a donor of synth that was operated on or added to is not ours to
 * delete.
 */
async function refuseForeign(folder: string, entries: readonly string[], files: FileLayer): Promise<true> {
  let listed: unknown;
  try {
    const text = new TextDecoder().decode(await readSmallFile(join(folder, MARKER_FILE), files));
    listed = (JSON.parse(text) as { files?: unknown }).files;
  } catch {
    listed = undefined;
  }
  const own = new Set(Array.isArray(listed) ? listed : []);
  const foreign = entries.filter((entry) => !own.has(entry));
  if (foreign.length > 0) {
    throw new PhysariumError(
      "USAGE_OUTPUT_FOREIGN",
      `${folder}: not replaced, it holds ${foreign.length} entries that synth did not write ` +
        `(${foreign.slice(0, 3).join(", ")}${foreign.length > 3 ? ", …" : ""}); remove the folder yourself or choose ` +
        "another",
      { folder, foreign: foreign.slice(0, 20) },
    );
  }
  return true;
}
