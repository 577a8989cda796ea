import { createHash } from "node:crypto";
import type { Donor } from "../../checkpoint/donor.js";
import { FileSource } from "../../checkpoint/file-layer.js";
import { readWhole } from "../../checkpoint/model-source.js";
import { isPhysariumError, PhysariumError } from "../../errors.js";
import { requireDiskSpace } from "../../output/disk-space.js";
import { OutputFile } from "../../output/output-file.js";
import { readHeader, type SafetensorsHeader, type TensorInfo } from "../../safetensors/header.js";
import { serializeHeader } from "../../safetensors/writer.js";
import type { GramKind } from "./gram.js";

/** Where a Gram file's numbers come from; every field stands in the file's `__metadata__`. */
export interface GramProvenance {
  readonly kind: GramKind;
  /** `modelFingerprint` of the model that ran. */
  readonly modelFingerprint: string;
  readonly modelName: string;
  readonly textName: string;
  readonly textSha256: string;
  /** The protocol's name, window and BOS as JSON. */
  readonly protocol: string;
  readonly sequences: number;
  readonly tokens: number;
  readonly seed: number;
  readonly physariumVersion: string;
}

export interface GramEntry {
  readonly layer: number;
  /** Name of the site: a step's, or that of a place inside a step. */
  readonly step: string;
  readonly width: number;
}

/** An expert of a layer: how many tokens it saw stands in the file, too. */
export interface ExpertEntry {
  readonly layer: number;
  readonly expert: number;
}

const FORMAT = "physarium-gram-1";

/** `layers.<n>.<site>.gram` (width, width) or `layers.<n>.<step>.mean_square` (width), F32. */
export function gramTensorName({ layer, step }: Omit<GramEntry, "width">, kind: GramKind): string {
  return `layers.${layer}.${step}.${kind === "gram" ? "gram" : "mean_square"}`;
}

/** F32 [1]. */
function tokensTensorName({ layer, expert }: ExpertEntry): string {
  return `layers.${layer}.experts.${expert}.tokens`;
}

/**
 * Writes a Gram file entry by entry, in any order; the file takes its name when all are there. `inputs` are the files
 * and folders read.
 */
export class GramFileWriter {
  private readonly missing: Set<string>;

  private constructor(
    private readonly output: OutputFile,
    private readonly header: ReturnType<typeof serializeHeader>,
    private readonly kind: GramKind,
  ) {
    this.missing = new Set(header.tensors.map(({ name }) => name));
  }

  static async create(
    path: string,
    entries: readonly GramEntry[],
    provenance: GramProvenance,
    inputs: readonly string[],
    experts: readonly ExpertEntry[] = [],
  ): Promise<GramFileWriter> {
    const { kind } = provenance;
    const metadata = new Map([["format", FORMAT], ...Object.entries(provenance).map(toMetadata)]);
    const header = serializeHeader(
      [
        ...entries.map((entry) => ({
          name: gramTensorName(entry, kind),
          dtype: "F32",
          shape: kind === "gram" ? [entry.width, entry.width] : [entry.width],
        })),
        ...experts.map((entry) => ({ name: tokensTensorName(entry), dtype: "F32", shape: [1] })),
      ],
      metadata,
    );
    const output = await OutputFile.create(path, { inputs, mayReplace: mayReplaceGrams });
    try {
      await requireDiskSpace(path, header.fileByteLength);
      await output.write(header.bytes, 0);
    } catch (error) {
      await output.discard();
      throw error;
    }
    return new GramFileWriter(output, header, kind);
  }

  write(entry: Omit<GramEntry, "width">, mean: Float32Array): Promise<void> {
    return this.writeTensor(gramTensorName(entry, this.kind), mean);
  }

  writeExpertTokens(entry: ExpertEntry, tokens: number): Promise<void> {
    return this.writeTensor(tokensTensorName(entry), Float32Array.of(tokens));
  }

  private async writeTensor(name: string, mean: Float32Array): Promise<void> {
    const tensor = this.header.tensors.find((candidate) => candidate.name === name);
    if (tensor === undefined || tensor.byteLength !== mean.byteLength) {
      throw new PhysariumError("INTERNAL", `${name} has no place of ${mean.byteLength} bytes in the Gram file`);
    }
    // Typed arrays are little-endian on every machine that Node runs on.
    const bytes = new Uint8Array(mean.buffer, mean.byteOffset, mean.byteLength);
    await this.output.write(bytes, tensor.byteOffset);
    this.missing.delete(name);
  }

  /** Sync and rename; throws where an entry was not written. */
  async finish(): Promise<void> {
    if (this.missing.size > 0) {
      throw new PhysariumError("INTERNAL", `the Gram file misses ${[...this.missing].slice(0, 3).join(", ")}`);
    }
    await this.output.commit();
  }

  /** Leave nothing behind. */
  abandon(): Promise<void> {
    return this.output.discard();
  }
}

/** An earlier Gram file gives way, nothing else. */
async function mayReplaceGrams(path: string): Promise<true | string> {
  const advice = "it is no file of Gram matrices, which alone is replaced; choose another name";
  try {
    await (await GramFile.open(path)).close();
    return true;
  } catch (error) {
    if (isPhysariumError(error, "DONOR_")) return advice;
    throw error;
  }
}

/** A Gram file, opened for reading: one matrix at a time comes into memory. */
export class GramFile {
  private constructor(
    private readonly source: FileSource,
    private readonly header: SafetensorsHeader,
    readonly kind: GramKind,
  ) {}

  /** With `fingerprint`, throws `DONOR_GRAM_MISMATCH` where the file was collected from another model. */
  static async open(path: string, fingerprint?: string): Promise<GramFile> {
    const source = await FileSource.open(path);
    try {
      const header = await readHeader(source, path);
      const { metadata } = header;
      const kind = metadata.get("kind");
      if (metadata.get("format") !== FORMAT || (kind !== "gram" && kind !== "norms")) {
        throw new PhysariumError("DONOR_GRAM_FORMAT", `${path}: this is no file of Gram matrices (${FORMAT})`, {
          path,
        });
      }
      const found = metadata.get("model_fingerprint");
      if (fingerprint !== undefined && found !== fingerprint) {
        throw new PhysariumError(
          "DONOR_GRAM_MISMATCH",
          `${path}: collected from ${metadata.get("model_name")} with fingerprint ${found}, this model has ` +
            `${fingerprint}; collect again`,
          { path, found, expected: fingerprint },
        );
      }
      return new GramFile(source, header, kind);
    } catch (error) {
      await source.close();
      throw error;
    }
  }

  /** Whether a place was collected. */
  has(layer: number, step: string): boolean {
    const name = gramTensorName({ layer, step }, this.kind);
    return this.header.tensors.some((tensor) => tensor.name === name);
  }

  get metadata(): ReadonlyMap<string, string> {
    return this.header.metadata;
  }

  /** SHA-256 over everything it says of itself: model, text, protocol, tokens, seed. */
  get identity(): string {
    return createHash("sha256")
      .update(JSON.stringify([...this.metadata]))
      .digest("hex");
  }

  /** Channels of a site. Throws `DONOR_TENSOR_MISSING`. */
  width(layer: number, step: string): number {
    return this.find(layer, step).shape[0];
  }

  /** Tokens that an expert saw. Throws `DONOR_TENSOR_MISSING`. */
  async expertTokens(layer: number, expert: number): Promise<number> {
    const { byteOffset, byteLength } = this.named(tokensTensorName({ layer, expert }));
    const bytes = await this.source.read(byteOffset, byteOffset + byteLength);
    return new DataView(bytes.buffer, bytes.byteOffset).getFloat32(0, true);
  }

  /** The mean as it was written. Throws `DONOR_TENSOR_MISSING`. */
  async read(layer: number, step: string): Promise<Float32Array> {
    return this.readRows(layer, step, 0, this.width(layer, step));
  }

  /** Rows `[rowStart, rowEnd)` of a Gram, or so many entries of norms. */
  async readRows(layer: number, step: string, rowStart: number, rowEnd: number): Promise<Float32Array> {
    const { byteOffset, byteLength, shape } = this.find(layer, step);
    const rowBytes = byteLength / shape[0];
    const bytes = await this.source.read(byteOffset + rowStart * rowBytes, byteOffset + rowEnd * rowBytes);
    return new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4);
  }

  private find(layer: number, step: string): TensorInfo {
    return this.named(gramTensorName({ layer, step }, this.kind));
  }

  private named(name: string): TensorInfo {
    const tensor = this.header.tensors.find((candidate) => candidate.name === name);
    if (tensor === undefined) {
      throw new PhysariumError("DONOR_TENSOR_MISSING", `${this.source.path}: there is no tensor "${name}"`, { name });
    }
    return tensor;
  }

  close(): Promise<void> {
    return this.source.close();
  }
}

/**
 * Bytes of each tensor that enter the fingerprint: enough to tell an operated model from its donor, without reading it
 * whole.
 */
const SAMPLED_BYTES = 4096;

/** SHA-256 over config.json and every tensor's name, dtype, shape and first bytes. */
export async function modelFingerprint(donor: Donor): Promise<string> {
  const hash = createHash("sha256");
  hash.update(await readWhole(donor.source, "config.json"));
  for (const shard of donor.shards) {
    const source = await donor.source.open(shard.file);
    try {
      for (const { name, dtype, shape, byteOffset, byteLength } of shard.tensors) {
        hash.update(JSON.stringify([name, dtype, shape]));
        hash.update(await source.read(byteOffset, byteOffset + Math.min(byteLength, SAMPLED_BYTES)));
      }
    } finally {
      await source.close();
    }
  }
  return hash.digest("hex");
}

/** camelCase to snake_case, as everything in files. */
function toMetadata([key, value]: [string, string | number]): [string, string] {
  return [key.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`), `${value}`];
}
