import { attempt, FileSource, nodeFiles, type OpenFile, writeFully } from "../checkpoint/file-layer.js";
import { inlinePool, type Pool, threadPool } from "../threads/pool.js";
import { BandEncoder } from "./band-encoder.js";
import { elementBytes } from "./band-format.js";
import type { BandTask, DecodeTask, EncodedBand, EncodeTask } from "./band-protocol.js";
import { BandReader } from "./band-reader.js";
import { Checksum } from "./checksum.js";

/**
 * A second task waits at each thread while the first is done, so that no thread waits for the one that hands them out.
 */
const TASKS_PER_THREAD = 2;

/** Threads that code and decode bands; with 0 the calling thread does it. */
export async function bandPool(workers: number): Promise<Pool<BandTask, EncodedBand | undefined>> {
  if (workers > 0) return threadPool(new URL("./band-worker.js", import.meta.url), {}, workers, TASKS_PER_THREAD);
  const tasks = await BandTasks.create();
  return inlinePool(tasks.handle, 1, async () => {
    await tasks.handle({ kind: "close" });
  });
}

/**
 * Does band tasks one at a time, with its own reading and writing; the files of the shard in hand stay open between
 * tasks.
 */
export class BandTasks {
  private turn: Promise<unknown> = Promise.resolve();
  private encoder: BandEncoder | undefined;
  private source: FileSource | undefined;
  private output: { path: string; file: OpenFile } | undefined;

  private constructor(
    private readonly checksum: Checksum,
    private readonly reader: BandReader,
  ) {}

  static async create(): Promise<BandTasks> {
    return new BandTasks(await Checksum.create(), await BandReader.create());
  }

  /** There is one encoder and one decoder: tasks take turns. */
  readonly handle = (task: BandTask): Promise<EncodedBand | undefined> => {
    const result = this.turn.then(() => this.run(task));
    this.turn = result.catch(() => {});
    return result;
  };

  private async run(task: BandTask): Promise<EncodedBand | undefined> {
    if (task.kind === "encode") return this.encode(task);
    if (task.kind === "decode") await this.decode(task);
    else await this.closeFiles();
    return undefined;
  }

  private async encode({ path, byteOffset, byteLength, dtype }: EncodeTask): Promise<EncodedBand> {
    const source = await this.openSource(path);
    if (dtype === undefined) {
      const bytes = await source.read(byteOffset, byteOffset + byteLength);
      return { bytes, checksum: this.checksum.of(bytes) };
    }
    this.encoder ??= new BandEncoder();
    const raw = this.encoder.input(byteLength);
    await source.readInto(raw, byteOffset);
    const bytes = this.encoder.encode(dtype, byteLength / elementBytes(dtype)) ?? raw.slice();
    return { bytes, checksum: this.checksum.of(raw) };
  }

  private async decode(task: DecodeTask): Promise<void> {
    const raw = await this.reader.read(await this.openSource(task.path), task);
    const { file, path } = await this.openOutput(task.outputPath);
    await writeFully(file, raw, task.outputByteOffset, path);
  }

  private async openSource(path: string): Promise<FileSource> {
    if (this.source?.path !== path) {
      await this.source?.close();
      this.source = undefined;
      this.source = await FileSource.open(path);
    }
    return this.source;
  }

  private async openOutput(path: string): Promise<{ path: string; file: OpenFile }> {
    if (this.output?.path !== path) {
      await this.output?.file.close();
      this.output = undefined;
      this.output = { path, file: await attempt("opening", path, () => nodeFiles.open(path, "r+")) };
    }
    return this.output;
  }

  private async closeFiles(): Promise<void> {
    await this.source?.close();
    await this.output?.file.close();
    this.source = undefined;
    this.output = undefined;
  }
}
