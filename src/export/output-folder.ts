import { dirname, join, resolve, sep } from "node:path";
import { attempt, type FileLayer, FileSource, nodeFiles, type OpenFile, writeFully } from "../checkpoint/file-layer.js";
import { PhysariumError } from "../errors.js";
import { whatStandsAt } from "../output/output-file.js";

/** A new folder that takes its name only when it is whole: built as a sibling, synced, renamed; gone if anything fails. */
export class OutputFolder {
  private constructor(
    readonly path: string,
    private readonly temporaryPath: string,
    private readonly files: FileLayer,
  ) {}

  /**
   * `inputs` are the paths read from: the new folder may not lie in them nor they in it. An empty folder may stand there already.
   * Throws `USAGE_OUTPUT_EXISTS`, `USAGE_OUTPUT_IN_DONOR`.
   */
  static async create(path: string, inputs: readonly string[], files: FileLayer = nodeFiles): Promise<OutputFolder> {
    const full = resolve(path);
    for (const input of inputs.map((each) => resolve(each))) {
      if (full === input || full.startsWith(input + sep) || input.startsWith(full + sep)) {
        throw new PhysariumError(
          "USAGE_OUTPUT_IN_DONOR",
          `${path}: the new folder and ${input} lie in each other; give another folder`,
        );
      }
    }
    const there = await whatStandsAt(full, files);
    if (there === "file" || there === "folder") {
      throw new PhysariumError(
        "USAGE_OUTPUT_EXISTS",
        `${path}: a ${there} stands there already; give the name of a new folder`,
        { path },
      );
    }
    if ((await whatStandsAt(dirname(full), files)) === "nothing") {
      throw new PhysariumError("USAGE_OUTPUT", `${dirname(full)}: there is no such folder; create it first`);
    }
    const temporaryPath = `${full}.partial-${process.pid}`;
    await attempt("creating", temporaryPath, () => files.mkdir(temporaryPath));
    return new OutputFolder(full, temporaryPath, files);
  }

  /** Where the folder will stand: its disk must hold it. */
  get parentPath(): string {
    return dirname(this.path);
  }

  /** Write one file; `body` gets it open and the path for messages. */
  async write(name: string, body: (file: OpenFile, path: string) => Promise<void>): Promise<void> {
    const path = join(this.temporaryPath, name);
    const file = await attempt("creating", path, () => this.files.open(path, "wx"));
    try {
      await body(file, path);
      await attempt("syncing", path, () => file.sync());
    } finally {
      await file.close();
    }
  }

  writeText(name: string, text: string): Promise<void> {
    return this.write(name, (file, path) => writeFully(file, new TextEncoder().encode(text), 0, path));
  }

  async commit(): Promise<void> {
    // An empty folder of that name is replaced by the rename itself; one that has filled up meanwhile makes it fail.
    await attempt("renaming", this.temporaryPath, () => this.files.rename(this.temporaryPath, this.path));
  }

  async discard(): Promise<void> {
    await this.files.rm(this.temporaryPath, { recursive: true, force: true }).catch(() => {});
  }
}

/** Bytes copied at once. */
const COPY_BYTES = 8 << 20;

/** Copy a range of one file into another. */
export async function copyRange(
  source: FileSource,
  from: number,
  byteLength: number,
  file: OpenFile,
  to: number,
  path: string,
): Promise<void> {
  for (let done = 0; done < byteLength; done += COPY_BYTES) {
    const end = Math.min(byteLength, done + COPY_BYTES);
    await writeFully(file, await source.read(from + done, from + end), to + done, path);
  }
}

/** Copy a side file into a new folder. */
export async function copyFile(from: string, folder: OutputFolder, name: string, files: FileLayer): Promise<void> {
  const source = await FileSource.open(from, files);
  try {
    await folder.write(name, (file, path) => copyRange(source, 0, source.byteLength, file, 0, path));
  } finally {
    await source.close();
  }
}
