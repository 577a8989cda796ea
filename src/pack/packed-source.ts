import { join } from "node:path";
import { type FileLayer, FileSource } from "../checkpoint/file-layer.js";
import { FolderSource } from "../checkpoint/folder-source.js";
import type { FileIdentity, ModelSource, SourceEntry, SourceFile, SourceRef } from "../checkpoint/model-source.js";
import { MANIFEST_FILE } from "./manifest.js";
import type { PackedModel } from "./packed-model.js";
import type { PackedShard } from "./packed-shard.js";

/**
 * The model that a packed folder stands for: its shards have their own names, lengths and bytes, decoded and checked as
 * they are read; its packed files are not seen. Side files are read as they lie there. No file holds the weights, so
 * there is no `localPath`.
 */
export class PackedSource implements ModelSource {
  readonly localPath = undefined;
  private readonly folder: FolderSource;
  private readonly shards: ReadonlyMap<string, PackedShard>;
  private readonly hidden: ReadonlySet<string>;

  constructor(
    private readonly model: PackedModel,
    private readonly files: FileLayer,
  ) {
    this.folder = new FolderSource(model.path, files);
    this.shards = new Map(model.shards.map((shard) => [shard.original.file, shard]));
    this.hidden = new Set([MANIFEST_FILE, ...model.shards.map((shard) => shard.file)]);
  }

  get place(): string {
    return this.model.path;
  }

  get name(): string {
    return this.folder.name;
  }

  get ref(): SourceRef {
    return { kind: "packed", path: this.model.path };
  }

  async list(folder = ""): Promise<SourceEntry[]> {
    if (folder !== "") return this.folder.list(folder);
    const entries = await this.folder.list();
    const packed = new Map(entries.map((entry) => [entry.name, entry]));
    const shards = [...this.shards].map(([name, { file, original }]): SourceEntry => {
      const modifiedNs = packed.get(file)?.modifiedNs ?? 0n;
      return { name, kind: "file", byteLength: original.byteLength, modifiedNs };
    });
    const others = entries.filter(({ name }) => !this.hidden.has(name) && !this.shards.has(name));
    return [...others, ...shards].sort((a, b) => (a.name < b.name ? -1 : 1));
  }

  async open(file: string): Promise<SourceFile> {
    const shard = this.shards.get(file);
    if (shard === undefined) return FileSource.open(this.besides(file), this.files);
    const source = this.model.shardSource(file);
    const { modifiedNs } = await this.identity(file);
    return {
      byteLength: source.byteLength,
      modifiedNs,
      read: (begin, end) => source.read(begin, end),
      readInto: async (buffer, byteOffset) => {
        buffer.set(await source.read(byteOffset, byteOffset + buffer.byteLength));
      },
      // The model keeps its files open for the next shard.
      close: async () => {},
    };
  }

  /** A shard's length is the unpacked one; how its bytes are is for the checksum of each band to say. */
  async identity(file: string): Promise<FileIdentity> {
    const shard = this.shards.get(file);
    if (shard === undefined) return this.folder.identity(file);
    const { modifiedNs } = await this.folder.identity(shard.file);
    return { byteLength: shard.original.byteLength, modifiedNs };
  }

  close(): Promise<void> {
    return this.model.close();
  }

  /** The path of a file that is packed as it is; packed files are not there. */
  private besides(file: string): string {
    return join(this.model.path, this.hidden.has(file) ? `${file} (packed)` : file);
  }
}
