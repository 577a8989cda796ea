import type { FileLayer, OpenFile } from "../../dist/checkpoint/file-layer.js";
import { nodeFiles } from "../../dist/checkpoint/file-layer.js";

/** One call to the file layer, as it was asked for. */
export interface Call {
  readonly operation: string;
  readonly path: string;
  /** Reads and writes: where. */
  readonly byteOffset?: number;
}

export interface Faults {
  /** Called before the n-th call (from 1); throw to make it fail. */
  readonly before?: (call: Call, n: number) => void;
  /** How many bytes the n-th call may move at most; 0 makes a read end and a write accept nothing. */
  readonly limit?: (call: Call, n: number, byteLength: number) => number;
}

export interface FaultyFiles extends FileLayer {
  readonly calls: Call[];
  /** Paths opened with leave to write. */
  readonly written: Set<string>;
  readonly open_: { now: number; most: number };
}

export function errno(code: string): NodeJS.ErrnoException {
  return Object.assign(new Error(`${code}: injected`), { code });
}

/** The real file layer with faults: every call is counted, may fail, and may move fewer bytes than asked. */
export function faultyFiles({ before = () => {}, limit = (_call, _n, byteLength) => byteLength }: Faults): FaultyFiles {
  const calls: Call[] = [];
  const written = new Set<string>();
  const open_ = { now: 0, most: 0 };
  const enter = (operation: string, path: string, byteOffset?: number): [Call, number] => {
    const call: Call = { operation, path, ...(byteOffset === undefined ? {} : { byteOffset }) };
    const n = calls.push(call);
    before(call, n);
    return [call, n];
  };
  const wrap = (file: OpenFile, path: string): OpenFile => {
    const move = (operation: "read" | "write") =>
      (async (buffer: Uint8Array, offset: number, length: number, position: number) => {
        const [call, n] = enter(operation, path, position);
        const most = limit(call, n, length);
        if (most === 0) return operation === "read" ? { bytesRead: 0, buffer } : { bytesWritten: 0, buffer };
        return (file[operation] as OpenFile["write"])(buffer, offset, most, position);
      }) as never;
    const pass = (operation: "stat" | "sync" | "datasync" | "truncate") =>
      (async (...args: never[]) => {
        enter(operation, path);
        return (file[operation] as (...rest: never[]) => unknown)(...args);
      }) as never;
    return {
      read: move("read"),
      write: move("write"),
      stat: pass("stat"),
      sync: pass("sync"),
      datasync: pass("datasync"),
      truncate: pass("truncate"),
      close: async () => {
        // Closed in any case: only the report of it fails.
        await file.close();
        open_.now--;
        enter("close", path);
      },
    };
  };
  const pass = (operation: Exclude<keyof FileLayer, "open">) =>
    (async (path: string, ...rest: never[]) => {
      enter(operation, path);
      return (nodeFiles[operation] as (...args: unknown[]) => unknown)(path, ...rest);
    }) as never;
  return {
    calls,
    written,
    open_,
    open: async (path, flags, mode) => {
      enter("open", path);
      const writes = typeof flags === "number" ? (flags & 3) !== 0 : flags !== "r";
      if (writes) written.add(path);
      const file = await nodeFiles.open(path, flags, mode);
      open_.most = Math.max(open_.most, ++open_.now);
      return wrap(file, path);
    },
    stat: pass("stat"),
    lstat: pass("lstat"),
    statfs: pass("statfs"),
    readdir: pass("readdir"),
    realpath: pass("realpath"),
    mkdir: pass("mkdir"),
    rename: pass("rename"),
    // A link is made where it leads from.
    link: async (existing, path) => {
      enter("link", path as string);
      return nodeFiles.link(existing, path);
    },
    rm: pass("rm"),
  };
}
