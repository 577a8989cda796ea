import { basename, dirname, join, resolve } from "node:path";
import { type FileLayer, nodeFiles, type OpenFile } from "../checkpoint/file-layer.js";
import { MANIFEST_FILE } from "./manifest.js";
import { openPacked, type PackedModel } from "./packed-model.js";
import type { PackedShard } from "./packed-shard.js";

/** A file layer and what it keeps open. */
export interface PackedFiles {
  readonly files: FileLayer;
  close(): Promise<void>;
}

/**
 * The file system as it would be if `folder`, a packed model, lay there unpacked: its shards have their own names,
 * lengths and bytes, decoded and checked as they are read, and its packed files are not seen. Everything else is
 * `base`. What takes a `FileLayer` thereby takes a packed folder; writing to a shard fails with EROFS. Throws what
 * `openPacked` throws.
 */
export async function unpackedView(folder: string, base: FileLayer = nodeFiles): Promise<PackedFiles> {
  const model = await openPacked(folder, base);
  const places = new Set([resolve(folder), await base.realpath(folder)]);
  const shards = new Map(model.shards.map((shard) => [shard.original.file, shard]));
  const hidden = new Set([MANIFEST_FILE, ...model.shards.map((shard) => shard.file)]);
  const shardAt = (path: string) => (places.has(dirname(resolve(path))) ? shards.get(basename(path)) : undefined);
  const isHidden = (path: string) => places.has(dirname(resolve(path))) && hidden.has(basename(path));

  const examine =
    (call: FileLayer["stat"]) =>
    async (path: string, options?: { bigint?: boolean }): Promise<unknown> => {
      if (isHidden(path)) throw systemError("ENOENT", "stat", path);
      const shard = shardAt(path);
      if (shard === undefined) return call(path, options as { bigint: true });
      return withSize(await call(join(folder, shard.file), options as { bigint: true }), shard.original.byteLength);
    };
  const files: FileLayer = {
    ...base,
    stat: examine(base.stat) as FileLayer["stat"],
    lstat: examine(base.lstat as FileLayer["stat"]) as FileLayer["lstat"],
    realpath: (async (path: string) => {
      const shard = shardAt(path);
      return shard === undefined ? base.realpath(path) : join(await base.realpath(folder), shard.original.file);
    }) as FileLayer["realpath"],
    readdir: (async (path: string, ...rest: []) => {
      const names = await base.readdir(path, ...rest);
      if (!places.has(resolve(path))) return names;
      return [...names.filter((name) => !hidden.has(name)), ...shards.keys()].sort();
    }) as FileLayer["readdir"],
    open: async (path, flags, mode) => {
      if (isHidden(path)) throw systemError("ENOENT", "open", path);
      const shard = shardAt(path);
      if (shard === undefined) return base.open(path, flags, mode);
      const writes = typeof flags === "string" ? flags !== "r" : (flags & 3) !== 0;
      if (writes) throw systemError("EROFS", "open", path);
      return openShard(model, shard, () => files.stat(path, { bigint: true }));
    },
  };
  return { files, close: () => model.close() };
}

/** A shard as an open file; reading past its end gives what there is, as a file does. */
function openShard(model: PackedModel, shard: PackedShard, stat: () => Promise<unknown>): OpenFile {
  const source = model.shardSource(shard.original.file);
  const refuse = async () => {
    throw systemError("EROFS", "write", shard.original.file);
  };
  const read = async (buffer: Uint8Array, offset: number, length: number, position: number) => {
    const end = Math.min(position + length, source.byteLength);
    const bytes = position < end ? await source.read(position, end) : new Uint8Array(0);
    buffer.set(bytes, offset);
    return { bytesRead: bytes.byteLength, buffer };
  };
  return {
    read: read as OpenFile["read"],
    stat: stat as OpenFile["stat"],
    write: refuse as OpenFile["write"],
    truncate: refuse,
    sync: async () => {},
    datasync: async () => {},
    close: async () => {},
  };
}

function withSize<Stats extends { size: number | bigint }>(stats: Stats, size: number): Stats {
  const copy = Object.assign(Object.create(Object.getPrototypeOf(stats)), stats);
  copy.size = typeof stats.size === "bigint" ? BigInt(size) : size;
  return copy;
}

function systemError(code: string, syscall: string, path: string): NodeJS.ErrnoException {
  return Object.assign(new Error(`${code}: ${syscall} '${path}'`), { code, syscall, path });
}
