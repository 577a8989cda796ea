import { constants } from "node:fs";
import * as fs from "node:fs/promises";
import { PhysariumError } from "../errors.js";
import type { ByteSource } from "../safetensors/source.js";

/** An open file, as `node:fs/promises` gives it: the few members we use, so that tests can count and break them. */
export type OpenFile = Pick<fs.FileHandle, "read" | "write" | "stat" | "sync" | "datasync" | "truncate" | "close">;

/** The file system calls Physarium makes. `nodeFiles` is the real one; tests wrap it to inject faults. */
export interface FileLayer {
  open(path: string, flags: string | number, mode?: number): Promise<OpenFile>;
  stat: typeof fs.stat;
  lstat: typeof fs.lstat;
  statfs: typeof fs.statfs;
  readdir: typeof fs.readdir;
  realpath: typeof fs.realpath;
  mkdir: typeof fs.mkdir;
  rename: typeof fs.rename;
  link: typeof fs.link;
  rm: typeof fs.rm;
}

export const nodeFiles: FileLayer = fs;

/** Read-only; never blocks on a FIFO that took a regular file's place, never becomes our controlling terminal. */
export const READ_ONLY = constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOCTTY;

/** One read or write call moves at most this much: larger counts fail past 2^31 − 1 on Linux. */
const MAX_CALL_BYTES = 1 << 30;

/** Turn what the operating system said into our error: which operation, which file, which byte. */
export function ioError(operation: string, path: string, cause: unknown, byteOffset?: number): PhysariumError {
  if (cause instanceof PhysariumError) return cause;
  const { code: errno = "unknown", message = String(cause) } = cause as NodeJS.ErrnoException;
  const where = byteOffset === undefined ? path : `${path}: byte ${byteOffset}`;
  const details = { path, operation, errno, ...(byteOffset === undefined ? {} : { byteOffset }) };
  if (errno === "ENOSPC" || errno === "EDQUOT") {
    return new PhysariumError(
      "IO_DISK_FULL",
      `${where}: ${operation} failed, the disk is full (${errno}); free some space, then run again`,
      details,
      cause,
    );
  }
  if (errno === "EACCES" || errno === "EPERM" || errno === "EROFS") {
    return new PhysariumError(
      "IO_PERMISSION",
      `${where}: ${operation} is not permitted (${errno}); check the owner and mode`,
      details,
      cause,
    );
  }
  if (errno === "ENOENT") {
    return new PhysariumError(
      "IO_NOT_FOUND",
      `${where}: ${operation} failed, there is no such file (${errno})`,
      details,
      cause,
    );
  }
  return new PhysariumError("IO_FAILED", `${where}: ${operation} failed: ${message}`, details, cause);
}

/** Run one file system call and give its failure our words. */
export async function attempt<T>(operation: string, path: string, call: () => Promise<T>): Promise<T> {
  try {
    return await call();
  } catch (error) {
    throw ioError(operation, path, error);
  }
}

/**
 * Fill `buffer` from `byteOffset`. A read may return less than asked; missing bytes would look like pruned weights, so
 * we loop.
 */
export async function readFully(file: OpenFile, buffer: Uint8Array, byteOffset: number, path: string): Promise<void> {
  let done = 0;
  while (done < buffer.byteLength) {
    const position = byteOffset + done;
    let bytesRead: number;
    try {
      ({ bytesRead } = await file.read(buffer, done, Math.min(buffer.byteLength - done, MAX_CALL_BYTES), position));
    } catch (error) {
      throw ioError("reading", path, error, position);
    }
    if (bytesRead === 0) {
      throw new PhysariumError(
        "IO_SHORT_READ",
        `${path}: the file ends at byte ${position}, expected ${buffer.byteLength - done} more; it was shortened ` +
          "while being read",
        { path, byteOffset: position, missingBytes: buffer.byteLength - done },
      );
    }
    done += bytesRead;
  }
}

/**
 * Write all of `buffer` at `byteOffset`, looping over short writes. On a full disk the error says how many bytes were
 * left.
 */
export async function writeFully(file: OpenFile, buffer: Uint8Array, byteOffset: number, path: string): Promise<void> {
  let done = 0;
  while (done < buffer.byteLength) {
    const position = byteOffset + done;
    let bytesWritten: number;
    try {
      ({ bytesWritten } = await file.write(buffer, done, Math.min(buffer.byteLength - done, MAX_CALL_BYTES), position));
    } catch (error) {
      throw ioError("writing", path, error, position);
    }
    if (bytesWritten === 0) {
      throw new PhysariumError(
        "IO_SHORT_WRITE",
        `${path}: byte ${position}: the system accepted 0 of ${buffer.byteLength - done} bytes`,
        {
          path,
          byteOffset: position,
          missingBytes: buffer.byteLength - done,
        },
      );
    }
    done += bytesWritten;
  }
}

/** Close a file that was written: some file systems report a failed write only here. */
export function closeWritten(file: OpenFile, path: string): Promise<void> {
  return attempt("closing", path, () => file.close());
}

/** Close a file that was only read, or whose error is known already: nothing can be lost by a failure. */
export async function closeQuietly(file: { close(): Promise<void> }): Promise<void> {
  await file.close().catch(() => {});
}

/** A `ByteSource` over a file that stays open until `close`. */
export class FileSource implements ByteSource {
  private constructor(
    private readonly file: OpenFile,
    readonly path: string,
    readonly byteLength: number,
    readonly modifiedNs: bigint,
  ) {}

  static async open(path: string, files: FileLayer = nodeFiles): Promise<FileSource> {
    const file = await attempt("opening", path, () => files.open(path, READ_ONLY));
    try {
      const stat = await attempt("examining", path, () => file.stat({ bigint: true }));
      if (!stat.isFile()) throw new PhysariumError("DONOR_NOT_A_FILE", `${path}: expected a regular file`, { path });
      return new FileSource(file, path, Number(stat.size), stat.mtimeNs);
    } catch (error) {
      await closeQuietly(file);
      throw error;
    }
  }

  async read(begin: number, end: number): Promise<Uint8Array> {
    const bytes = new Uint8Array(end - begin);
    await readFully(this.file, bytes, begin, this.path);
    return bytes;
  }

  /** Read into memory the caller owns, a wasm band for one. */
  readInto(buffer: Uint8Array, byteOffset: number): Promise<void> {
    return readFully(this.file, buffer, byteOffset, this.path);
  }

  close(): Promise<void> {
    return closeQuietly(this.file);
  }
}

/** Read a small file whole; `maxByteLength` guards against a hostile one. */
export async function readSmallFile(
  path: string,
  files: FileLayer = nodeFiles,
  maxByteLength = 100_000_000,
): Promise<Uint8Array> {
  return readBounded(await FileSource.open(path, files), path, maxByteLength);
}

/** Read an opened source whole and close it. `path` names it in a message. Throws `DONOR_FILE_TOO_LARGE`, `IO_*`. */
export async function readBounded(
  source: ByteSource & { close(): Promise<void> },
  path: string,
  maxByteLength: number,
): Promise<Uint8Array> {
  try {
    if (source.byteLength > maxByteLength) {
      throw new PhysariumError(
        "DONOR_FILE_TOO_LARGE",
        `${path}: the file has ${source.byteLength} bytes, at most ${maxByteLength} are expected of it`,
        { path },
      );
    }
    return await source.read(0, source.byteLength);
  } finally {
    await source.close();
  }
}
