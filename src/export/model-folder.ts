import { join } from "node:path";
import { type Donor, type Model, openDonor } from "../checkpoint/donor.js";
import { type FileLayer, nodeFiles } from "../checkpoint/file-layer.js";
import { readWhole, type SourceFile } from "../checkpoint/model-source.js";
import { refuseQuantised } from "../checkpoint/quantised.js";
import { PhysariumError } from "../errors.js";
import type { TensorInfo } from "../safetensors/header.js";

/** A tensor of the donor and the shard it lies in. */
export interface LocatedTensor {
  readonly shard: string;
  readonly info: TensorInfo;
}

/** A donor opened for conversion: its tensors by name and its side files as text. `close` releases the shards. */
export class ModelFolder {
  private readonly sources = new Map<string, Promise<SourceFile>>();

  private constructor(
    readonly donor: Donor,
    readonly tensors: ReadonlyMap<string, LocatedTensor>,
  ) {}

  static async open(model: Model, files: FileLayer = nodeFiles): Promise<ModelFolder> {
    const donor = await openDonor(model, files);
    const tensors = new Map<string, LocatedTensor>();
    for (const shard of donor.shards) {
      for (const info of shard.tensors) tensors.set(info.name, { shard: shard.file, info });
    }
    refuseQuantised(tensors.values());
    return new ModelFolder(donor, tensors);
  }

  /** The text of a side file, or undefined where there is none. */
  async text(file: string): Promise<string | undefined> {
    if (!this.donor.sideFiles.some((side) => side.file === file)) return undefined;
    const bytes = await readWhole(this.donor.source, file);
    try {
      return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
    } catch (error) {
      throw new PhysariumError("DONOR_SIDE_FILE", `${file}: not valid UTF-8`, { file }, error);
    }
  }

  /** Bytes `[begin, end)` of a tensor, counted from its own start. */
  async read({ shard, info }: LocatedTensor, begin: number, end: number): Promise<Uint8Array> {
    let source = this.sources.get(shard);
    if (source === undefined) {
      source = this.donor.source.open(shard);
      this.sources.set(shard, source);
    }
    return (await source).read(info.byteOffset + begin, info.byteOffset + end);
  }

  /** The file that a tensor lies in, where it is one on a disk of ours. */
  pathOf({ shard }: LocatedTensor): string | undefined {
    const { localPath } = this.donor.source;
    return localPath === undefined ? undefined : join(localPath, shard);
  }

  async close(): Promise<void> {
    for (const source of this.sources.values()) await (await source.catch(() => undefined))?.close();
  }
}
