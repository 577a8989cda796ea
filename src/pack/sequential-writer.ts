import { type OpenFile, writeFully } from "../checkpoint/file-layer.js";
import type { Checksum } from "./checksum.js";

/** Small bands are written together: a call for each would cost more than its bytes. */
const PIECE_BYTES = 4 << 20;

/** Appends to a file in pieces of some MiB and takes their checksum on the way. */
export class SequentialWriter {
  private held: Uint8Array[] = [];
  private heldBytes = 0;
  private position: number;

  /** `checksum` must be this writer's alone until `finish`. */
  constructor(
    private readonly file: OpenFile,
    private readonly path: string,
    byteOffset: number,
    private readonly checksum: Checksum,
  ) {
    this.position = byteOffset;
    checksum.start();
  }

  async append(bytes: Uint8Array): Promise<void> {
    this.held.push(bytes);
    this.heldBytes += bytes.byteLength;
    if (this.heldBytes >= PIECE_BYTES) await this.flush();
  }

  /** Write what is held. Returns the position behind the last byte. */
  async flush(): Promise<number> {
    const piece = this.held.length === 1 ? this.held[0] : new Uint8Array(Buffer.concat(this.held));
    this.held = [];
    this.heldBytes = 0;
    this.checksum.add(piece);
    await writeFully(this.file, piece, this.position, this.path);
    this.position += piece.byteLength;
    return this.position;
  }
}
