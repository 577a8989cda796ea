import { appendFile, readFile, rm } from "node:fs/promises";
import { attempt } from "../../checkpoint/file-layer.js";

/** A file that lies in large file storage, as the disk had it then. */
export interface UploadedFile {
  readonly repository: string;
  readonly path: string;
  readonly byte_length: number;
  readonly modified_ns: string;
  readonly sha256: string;
}

/**
 * What is up already: one JSON line a file, in `<folder>.push.jsonl` beside what is pushed. A broken push reads it and
 * hashes and sends nothing twice; a finished one removes it.
 */
export class PushJournal {
  private constructor(
    readonly path: string,
    private readonly files: Map<string, UploadedFile>,
  ) {}

  static async open(path: string, repository: string): Promise<PushJournal> {
    const files = new Map<string, UploadedFile>();
    const text = await readFile(path, "utf8").catch(() => "");
    for (const line of text.split("\n")) {
      try {
        const file = JSON.parse(line) as UploadedFile;
        if (file.repository === repository && /^[0-9a-f]{64}$/.test(file.sha256)) files.set(file.path, file);
      } catch {
        // The last line of a killed run may be half a line.
      }
    }
    return new PushJournal(path, files);
  }

  /** The hash of a file that is up and has not been touched since. */
  hashOf(path: string, byteLength: number, modifiedNs: bigint): string | undefined {
    const file = this.files.get(path);
    return file?.byte_length === byteLength && file.modified_ns === String(modifiedNs) ? file.sha256 : undefined;
  }

  async add(file: UploadedFile): Promise<void> {
    this.files.set(file.path, file);
    await attempt("writing", this.path, () => appendFile(this.path, `\n${JSON.stringify(file)}`));
  }

  async remove(): Promise<void> {
    await rm(this.path, { force: true });
  }
}
