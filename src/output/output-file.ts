import { dirname } from "node:path";
import { attempt, type FileLayer, ioError, nodeFiles, type OpenFile, writeFully } from "../checkpoint/file-layer.js";
import { PhysariumError } from "../errors.js";

/** A new file that takes its name only when it is whole: written to a sibling, synced, renamed; gone if anything fails. */
export class OutputFile {
  private constructor(
    private readonly file: OpenFile,
    private readonly temporaryPath: string,
    readonly path: string,
    private readonly files: FileLayer,
  ) {}

  static async create(path: string, files: FileLayer = nodeFiles): Promise<OutputFile> {
    const temporaryPath = `${path}.partial-${process.pid}`;
    const file = await attempt("creating", temporaryPath, () => files.open(temporaryPath, "wx"));
    return new OutputFile(file, temporaryPath, path, files);
  }

  write(bytes: Uint8Array, byteOffset: number): Promise<void> {
    return writeFully(this.file, bytes, byteOffset, this.temporaryPath);
  }

  /** Sync, take the final name, sync the folder: after this a crash loses nothing. */
  async commit(): Promise<void> {
    await attempt("syncing", this.temporaryPath, () => this.file.sync());
    await this.file.close();
    await attempt("renaming", this.temporaryPath, () => this.files.rename(this.temporaryPath, this.path));
    const folder = await this.files.open(dirname(this.path), "r");
    try {
      await folder.sync();
    } catch (error) {
      // Windows and some network file systems cannot sync a folder; the file itself is safe.
      const { code = "" } = error as NodeJS.ErrnoException;
      if (!["EISDIR", "EINVAL", "EPERM", "ENOTSUP"].includes(code)) throw ioError("syncing", dirname(this.path), error);
    } finally {
      await folder.close();
    }
  }

  async discard(): Promise<void> {
    await this.file.close().catch(() => {});
    await this.files.rm(this.temporaryPath, { force: true }).catch(() => {});
  }
}

/** Run `body` with a new file; what it wrote becomes `path` when it returns and vanishes when it throws. */
export async function writeOutputFile<T>(
  path: string,
  body: (output: OutputFile) => Promise<T>,
  files: FileLayer = nodeFiles,
): Promise<T> {
  const output = await OutputFile.create(path, files);
  try {
    const result = await body(output);
    await output.commit();
    return result;
  } catch (error) {
    await output.discard();
    throw error;
  }
}

/** Refuse before the first write if the disk cannot hold `byteLength` more. Throws `USAGE_DISK_SPACE`. */
export async function requireDiskSpace(
  folder: string,
  byteLength: number,
  files: FileLayer = nodeFiles,
): Promise<void> {
  const { bavail, bsize } = await attempt("examining", folder, () => files.statfs(folder));
  const available = bavail * bsize;
  if (byteLength > available) {
    throw new PhysariumError(
      "USAGE_DISK_SPACE",
      `${folder}: the output takes ${byteLength} bytes, the disk has ${available} left; free some space or choose another disk`,
      { byteLength, available },
    );
  }
}

/** What stands at a path: nothing, a file, a folder with or without entries. */
export async function whatStandsAt(
  path: string,
  files: FileLayer = nodeFiles,
): Promise<"nothing" | "file" | "empty folder" | "folder"> {
  try {
    const stat = await files.lstat(path);
    if (!stat.isDirectory()) return "file";
    return (await files.readdir(path)).length === 0 ? "empty folder" : "folder";
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return "nothing";
    throw ioError("examining", path, error);
  }
}
