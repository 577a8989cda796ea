import type { FileSource } from "../checkpoint/file-layer.js";
import { PhysariumError } from "../errors.js";
import type { FloatDtype } from "../safetensors/dtypes.js";
import { BandDecoder } from "./band-decoder.js";
import { elementBytes } from "./band-format.js";
import { Checksum } from "./checksum.js";
import { damaged } from "./packed-shard.js";

/** Where a band lies in a packed file and what it must become. */
export interface PackedBand {
  readonly byteOffset: number;
  readonly byteLength: number;
  readonly padding: number;
  readonly rawByteLength: number;
  readonly checksum: bigint;
  readonly dtype?: FloatDtype;
  readonly where: string;
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
    if (this.checksum.of(raw) !== band.checksum) {
      throw new PhysariumError(
        "DONOR_PACK_CHECKSUM",
        `${band.where}: the band's weights do not have their checksum; the packed file is damaged, copy or ` +
          "download it again",
        { where: band.where },
      );
    }
    return raw;
  }

  private async decode(source: Pick<FileSource, "read" | "readInto">, band: PackedBand): Promise<Uint8Array> {
    const { byteOffset, byteLength, rawByteLength, dtype } = band;
    if (band.padding > 0) {
      const end = byteOffset + byteLength;
      const padding = await source.read(end, end + band.padding);
      if (padding.some((byte) => byte !== 0)) throw damaged(band.where, "the bytes behind the last band are not zero");
    }
    if (byteLength === rawByteLength) return source.read(byteOffset, byteOffset + byteLength);
    if (dtype === undefined || byteLength > rawByteLength)
      throw damaged(band.where, "the band is longer than its weights");
    this.decoder ??= new BandDecoder();
    await source.readInto(this.decoder.input(byteLength), byteOffset);
    return this.decoder.decode(dtype, byteLength, rawByteLength / elementBytes(dtype), band.where);
  }
}
