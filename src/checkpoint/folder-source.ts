import { basename, join, resolve } from "node:path";
import { PhysariumError } from "../errors.js";
import { attempt, type FileLayer, FileSource, nodeFiles } from "./file-layer.js";
import type { FileIdentity, ModelSource, SourceEntry, SourceFile, SourceRef } from "./model-source.js";

/** A model that lies in a folder. Symbolic links are followed: hub caches are made of them. */
export class FolderSource implements ModelSource {
  constructor(
    readonly localPath: string,
    private readonly files: FileLayer = nodeFiles,
  ) {}

  get place(): string {
    return this.localPath;
  }

  get name(): string {
    return donorName(resolve(this.localPath));
  }

  get ref(): SourceRef {
    return { kind: "folder", path: this.localPath };
  }

  /** A snapshot in a hub cache is named by its commit. */
  get commit(): string | undefined {
    return /models--[^/\\]+[/\\]snapshots[/\\]([0-9a-f]{40})(?![0-9a-f])/.exec(resolve(this.localPath))?.[1];
  }

  list(folder = ""): Promise<SourceEntry[]> {
    return listFolder(folder === "" ? this.localPath : join(this.localPath, folder), this.files);
  }

  open(file: string): Promise<SourceFile> {
    return FileSource.open(join(this.localPath, file), this.files);
  }

  async identity(file: string): Promise<FileIdentity> {
    const path = join(this.localPath, file);
    const stat = await attempt("examining", path, () => statBig(path, this.files));
    return { byteLength: Number(stat.size), modifiedNs: stat.mtimeNs };
  }

  async close(): Promise<void> {}
}

/** What was given as a model: a path is a folder's. */
export function sourceOf(model: string | ModelSource, files: FileLayer = nodeFiles): ModelSource {
  return typeof model === "string" ? new FolderSource(model, files) : model;
}

/** The name people know a model by: its folder's, with a hub cache's commit folder skipped. */
export function donorName(path: string): string {
  const match = /models--([^/\\]+)--([^/\\]+)/.exec(path);
  return match === null ? basename(path) : `${match[1]}/${match[2]}`;
}

async function listFolder(path: string, files: FileLayer): Promise<SourceEntry[]> {
  let names: string[];
  try {
    if (!(await files.stat(path)).isDirectory()) {
      throw new PhysariumError(
        "DONOR_NOT_A_FOLDER",
        `${path}: expected a model folder with config.json and safetensors files, found a file`,
        { path },
      );
    }
    names = await files.readdir(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") {
      throw new PhysariumError(
        "DONOR_NOT_FOUND",
        `${path}: there is no such folder; give the path of a model folder`,
        { path },
        error,
      );
    }
    if ((error as NodeJS.ErrnoException).code === "ELOOP") {
      throw new PhysariumError("DONOR_SYMLINK", `${path}: the symbolic link leads in a circle`, { path }, error);
    }
    return attempt("listing", path, () => Promise.reject(error));
  }
  const entries: SourceEntry[] = [];
  for (const name of names.sort()) {
    const file = join(path, name);
    let stat: Awaited<ReturnType<typeof statBig>>;
    try {
      stat = await statBig(file, files);
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code === "ENOENT" || code === "ELOOP") {
        const fault = code === "ELOOP" ? "leads in a circle" : "points to nothing";
        throw new PhysariumError(
          "DONOR_SYMLINK",
          `${file}: the symbolic link ${fault}; finish the download or remove the link`,
          { path: file },
          error,
        );
      }
      return attempt("examining", file, () => Promise.reject(error));
    }
    if (!stat.isFile() && !stat.isDirectory()) {
      throw new PhysariumError(
        "DONOR_NOT_A_FILE",
        `${file}: expected a regular file or folder, found a device, pipe or socket; remove it`,
        { path: file },
      );
    }
    entries.push({
      name,
      kind: stat.isFile() ? "file" : "folder",
      byteLength: Number(stat.size),
      modifiedNs: stat.mtimeNs,
    });
  }
  return entries;
}

function statBig(path: string, files: FileLayer) {
  return files.stat(path, { bigint: true });
}
