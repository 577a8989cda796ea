import type { FileSource } from "../checkpoint/file-layer.js";
import { BandDecoder, tooLong, wrongChecksum } from "./band-decoder.js";
import { elementBytes } from "./band-format.js";
import type { CodedBand } from "./band-protocol.js";
import { Checksum } from "./checksum.js";
import { paddingError } from "./packed-shard.js";

/** Where a band lies in a packed file and what it must become. */
export interface PackedBand extends CodedBand {
  readonly byteOffset: number;
}

/** Reads, decodes and checks bands: one at a time, since it owns one decoder. */
export class BandReader {
  private decoder: BandDecoder | undefined;

  private constructor(private readonly checksum: Checksum) {}

  static async create(): Promise<BandReader> {
    return new BandReader(await Checksum.create());
  }

  /**
   * The raw bytes of a band: a view that the next call overwrites, or fresh bytes. Nothing leaves here that does not
   * have its checksum.
   * Throws `DONOR_PACK_*`, `IO_*`.
   */
  async read(source: Pick<FileSource, "read" | "readInto">, band: PackedBand): Promise<Uint8Array> {
    const raw = await this.decode(source, band);
    if (this.checksum.of(raw) !== band.checksum) throw wrongChecksum(band.where);
    return raw;
  }

  private async decode(source: Pick<FileSource, "read" | "readInto">, band: PackedBand): Promise<Uint8Array> {
    const { byteOffset, byteLength, rawByteLength, dtype } = band;
    if (band.padding > 0) {
      const end = byteOffset + byteLength;
      const padding = await source.read(end, end + band.padding);
      if (padding.some((byte) => byte !== 0)) throw paddingError(band.where);
    }
    if (byteLength === rawByteLength) return source.read(byteOffset, byteOffset + byteLength);
    if (dtype === undefined || byteLength > rawByteLength) throw tooLong(band.where);
    this.decoder ??= new BandDecoder();
    await source.readInto(this.decoder.input(byteLength), byteOffset);
    return this.decoder.decode(dtype, byteLength, rawByteLength / elementBytes(dtype), band.where);
  }
}
