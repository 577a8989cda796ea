import { closeQuietly, type FileLayer, ioError, type OpenFile } from "./file-layer.js";

interface CachedFile {
  readonly file: Promise<OpenFile>;
  users: number;
}

/**
 * A few files kept open between uses, the least recently used closed first: handles stay bounded with any number of
 * shards. A file is never closed while somebody reads or writes it, so the bound may be passed by the number of uses
 * under way.
 */
export class FileCache {
  /** In the order of their last use. */
  private readonly cached = new Map<string, CachedFile>();

  constructor(
    private readonly files: FileLayer,
    private readonly maxOpen: number,
  ) {}

  /**
   * Call `work` with the open file; a path opened with other flags is another file here. Throws `IO_*` when it cannot
   * be opened.
   */
  async use<T>(path: string, flags: string | number, work: (file: OpenFile) => Promise<T>): Promise<T> {
    const key = `${flags} ${path}`;
    const entry = this.cached.get(key) ?? { file: this.files.open(path, flags), users: 0 };
    this.cached.delete(key);
    this.cached.set(key, entry);
    entry.users++;
    try {
      let file: OpenFile;
      try {
        file = await entry.file;
      } catch (error) {
        if (this.cached.get(key) === entry) this.cached.delete(key);
        throw ioError("opening", path, error);
      }
      return await work(file);
    } finally {
      entry.users--;
      await this.evict();
    }
  }

  async close(): Promise<void> {
    const entries = [...this.cached.values()];
    this.cached.clear();
    for (const { file } of entries) await closeCached(file);
  }

  private async evict(): Promise<void> {
    for (const [key, { file, users }] of this.cached) {
      if (this.cached.size <= this.maxOpen) return;
      if (users > 0) continue;
      this.cached.delete(key);
      await closeCached(file);
    }
  }
}

/** What was written is flushed through a handle of its own later, which reports what this one could not. */
async function closeCached(file: Promise<OpenFile>): Promise<void> {
  await file.then(closeQuietly, () => {});
}
