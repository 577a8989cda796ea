import { dirname, join, resolve, sep } from "node:path";
import { attempt, type FileLayer, nodeFiles, type OpenFile, writeFully } from "../checkpoint/file-layer.js";
import { PhysariumError } from "../errors.js";
import { whatStandsAt } from "./output-file.js";

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
