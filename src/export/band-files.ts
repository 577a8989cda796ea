import { BLOCK_BYTES, BLOCK_MARGIN, blockBuffer, DirectFiles } from "../checkpoint/direct-files.js";
import { type FileLayer, nodeFiles } from "../checkpoint/file-layer.js";

/** Bytes of a file. */
export interface StoredBand {
  readonly path: string;
  readonly byteOffset: number;
  readonly byteLength: number;
}

/** What the threads of a conversion begin with: the files to read and write past the page cache. */
export interface BandFilesSetup {
  readonly direct: readonly string[];
}

/** What is read and what is written, each past the page cache and through it; several shards in a row. */
const MAX_OPEN_FILES = 8;

/** The files of one thread's bands, and for each band under way a room to read to and one to write from. */
export class BandFiles {
  private readonly files: DirectFiles;
  private readonly inputs: Uint8Array[] = [];
  private readonly outputs: Uint8Array[] = [];

  constructor({ direct }: BandFilesSetup, files: FileLayer = nodeFiles) {
    const paths = new Set(direct);
    this.files = new DirectFiles(files, MAX_OPEN_FILES, (path) => paths.has(path));
  }

  /** The bytes of a band, read where they are not there yet. Throws `IO_*`. */
  async read(slot: number, band: Uint8Array | StoredBand): Promise<Uint8Array> {
    if (!("path" in band)) return band;
    const { path, byteOffset, byteLength } = band;
    this.inputs[slot] = holding(this.inputs[slot], byteLength);
    return this.files.read(path, this.inputs[slot], byteOffset, byteLength);
  }

  /** Where to put `byteLength` bytes that `write` takes to `byteOffset` of a file. */
  room(slot: number, byteLength: number, byteOffset: number): Uint8Array {
    this.outputs[slot] = holding(this.outputs[slot], byteLength);
    return this.outputs[slot].subarray(byteOffset % BLOCK_BYTES).subarray(0, byteLength);
  }

  write(path: string, bytes: Uint8Array, byteOffset: number): Promise<void> {
    return this.files.write(path, bytes, byteOffset);
  }

  close(): Promise<void> {
    return this.files.close();
  }
}

/** The buffer, or a larger one on a block, for so many bytes anywhere in their blocks. */
function holding(buffer: Uint8Array | undefined, byteLength: number): Uint8Array {
  const wanted = byteLength + BLOCK_MARGIN;
  return buffer !== undefined && buffer.byteLength >= wanted ? buffer : blockBuffer(wanted);
}
