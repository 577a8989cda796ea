import { createXXHash64 } from "hash-wasm";

/**
 * xxHash64 (seed 0) of byte runs: several times as fast as the decoder, so it is taken on every read. It finds damage,
 * not malice: whoever can write a packed file can write its checksums too.
 */
export class Checksum {
  private constructor(private readonly hasher: Awaited<ReturnType<typeof createXXHash64>>) {}

  static async create(): Promise<Checksum> {
    return new Checksum(await createXXHash64());
  }

  of(bytes: Uint8Array): bigint {
    return this.start().add(bytes).value();
  }

  start(): this {
    this.hasher.init();
    return this;
  }

  add(bytes: Uint8Array): this {
    this.hasher.update(bytes);
    return this;
  }

  value(): bigint {
    const digest = this.hasher.digest("binary");
    return new DataView(digest.buffer, digest.byteOffset, 8).getBigUint64(0, false);
  }
}

/** Sixteen hexadecimal digits, as JSON files carry it. */
export function checksumText(value: bigint): string {
  return value.toString(16).padStart(16, "0");
}
