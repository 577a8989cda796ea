import { constants } from "node:fs";
import { FileCache } from "./file-cache.js";
import { type FileLayer, type OpenFile, READ_ONLY, readFully, writeFully } from "./file-layer.js";

/** Addresses, offsets and lengths past the page cache are multiples of this: what every disk of today takes. */
export const BLOCK_BYTES = 4096;

/** Room beside a piece in its buffer, so that a read may begin and end on blocks. */
export const BLOCK_MARGIN = 2 * BLOCK_BYTES;

/** Elements of every dtype stay aligned in a buffer whose first byte stands where the file has it. */
const ELEMENT_BYTES = 8;

/** How files are read and written: through the page cache, or past it where that helps. */
export type Passage = "cached" | "direct";

/**
 * Reads and writes pieces of large files past the page cache, where the system can: the disk moves them straight into
 * our memory and the processors copy nothing (bench/io-forms.mjs times both). Blocks that a piece shares with its
 * neighbours, and everything on systems that cannot, go through the page cache; the kernel keeps the two coherent.
 * source: open(2), O_DIRECT
 */
export class DirectFiles {
  private readonly open: FileCache;
  /** Paths that turned out not to take it. */
  private readonly refused = new Set<string>();

  /** `maxOpen`: files kept open between uses; `isDirect`: is a path to go past the page cache? */
  constructor(
    files: FileLayer,
    maxOpen: number,
    private readonly isDirect: (path: string) => boolean,
  ) {
    this.open = new FileCache(files, maxOpen);
  }

  /**
   * Read `byteLength` bytes from `byteOffset` on into `buffer`, whose address is a multiple of a block and which has
   * `BLOCK_MARGIN` bytes to spare; returns the part of it that holds them. Throws `IO_*`.
   */
  async read(path: string, buffer: Uint8Array, byteOffset: number, byteLength: number): Promise<Uint8Array> {
    const bytes = placeOf(buffer, byteOffset, byteLength);
    const lead = bytes.byteOffset - buffer.byteOffset;
    const begin = byteOffset - lead;
    if (begin % BLOCK_BYTES === 0 && byteLength >= BLOCK_BYTES && this.goesDirect(path)) {
      const wanted = lead + byteLength;
      const blocks = buffer.subarray(0, Math.ceil(wanted / BLOCK_BYTES) * BLOCK_BYTES);
      const whole = await this.attempt(path, DIRECT_READ, (file) => readBlocks(file, blocks, begin, wanted));
      if (whole) return bytes;
    }
    await this.open.use(path, READ_ONLY, (file) => readFully(file, bytes, byteOffset, path));
    return bytes;
  }

  /** Write bytes to where they belong in an existing file. They lie in their buffer as `read` placed them. */
  async write(path: string, bytes: Uint8Array, byteOffset: number): Promise<void> {
    const first = Math.ceil(byteOffset / BLOCK_BYTES) * BLOCK_BYTES - byteOffset;
    const blocks = Math.floor((bytes.byteLength - first) / BLOCK_BYTES) * BLOCK_BYTES;
    const onBlock = (bytes.byteOffset + first) % BLOCK_BYTES === 0;
    let done = 0;
    if (blocks > 0 && onBlock && this.goesDirect(path)) {
      const middle = bytes.subarray(first, first + blocks);
      if (await this.attempt(path, DIRECT_WRITE, (file) => writeBlocks(file, middle, byteOffset + first))) {
        if (first > 0) await this.writeCached(path, bytes.subarray(0, first), byteOffset);
        done = first + blocks;
      }
    }
    if (done < bytes.byteLength) await this.writeCached(path, bytes.subarray(done), byteOffset + done);
  }

  close(): Promise<void> {
    return this.open.close();
  }

  private writeCached(path: string, bytes: Uint8Array, byteOffset: number): Promise<void> {
    return this.open.use(path, "r+", (file) => writeFully(file, bytes, byteOffset, path));
  }

  private goesDirect(path: string): boolean {
    return DIRECT !== undefined && !this.refused.has(path) && this.isDirect(path);
  }

  /** False where the page cache must do it: the file system takes no such call, or only part of it. */
  private async attempt(path: string, flags: number, call: (file: OpenFile) => Promise<boolean>): Promise<boolean> {
    try {
      if (await this.open.use(path, flags, call)) return true;
    } catch {
      // Whatever it was, the page cache tells it better: which call, which byte.
    }
    this.refused.add(path);
    return false;
  }
}

/** The part of a buffer, as for `read`, in which bytes of a file from `byteOffset` on lie as they do in its blocks. */
export function placeOf(buffer: Uint8Array, byteOffset: number, byteLength: number): Uint8Array {
  const lead = byteOffset % ELEMENT_BYTES === 0 ? byteOffset % BLOCK_BYTES : 0;
  return buffer.subarray(lead, lead + byteLength);
}

/** Undefined where the system has no such flag. */
const DIRECT: number | undefined = process.platform === "linux" ? constants.O_DIRECT : undefined;
const DIRECT_READ = READ_ONLY | (DIRECT ?? 0);
const DIRECT_WRITE = constants.O_RDWR | (DIRECT ?? 0);

/** Read blocks until `wanted` bytes are in; false where a call ends between blocks before that. */
async function readBlocks(file: OpenFile, blocks: Uint8Array, begin: number, wanted: number): Promise<boolean> {
  let done = 0;
  while (done < wanted) {
    const { bytesRead } = await file.read(blocks, done, blocks.byteLength - done, begin + done);
    done += bytesRead;
    if (bytesRead === 0 || (done < wanted && done % BLOCK_BYTES !== 0)) return false;
  }
  return true;
}

async function writeBlocks(file: OpenFile, blocks: Uint8Array, begin: number): Promise<boolean> {
  let done = 0;
  while (done < blocks.byteLength) {
    const { bytesWritten } = await file.write(blocks, done, blocks.byteLength - done, begin + done);
    done += bytesWritten;
    if (bytesWritten === 0 || done % BLOCK_BYTES !== 0) return false;
  }
  return true;
}

/** A buffer whose address is a multiple of a block. */
export function blockBuffer(byteLength: number): Uint8Array {
  const pages = Math.ceil(byteLength / WASM_PAGE_BYTES);
  return new Uint8Array(new WebAssembly.Memory({ initial: pages, maximum: pages }).buffer, 0, byteLength);
}

/** Memory for wasm begins on a page of the system, which other buffers need not. */
const WASM_PAGE_BYTES = 65_536;
