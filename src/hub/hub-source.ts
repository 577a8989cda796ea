import type { FileIdentity, ModelSource, SourceEntry, SourceFile, SourceRef } from "../checkpoint/model-source.js";
import { PhysariumError } from "../errors.js";
import { formatHubAddress, type HubAddress } from "./address.js";
import { HubClient, type HubFile, type HubSnapshot, startHash } from "./hub-client.js";
import { readRange } from "./read-range.js";

/** Files up to this length are proven by their hash when they are read whole: config, index, tokenizer. */
const PROVEN_WHOLE_BYTES = 256 << 20;
/** Beginnings of files up to this length stay in memory: headers are read by everybody. */
const KEPT_BYTES = 8 << 20;

/**
 * A model on the Hub at one commit, read in exact ranges over the wire; nothing of it is kept on a disk. Files of the
 * address's subfolder are the model's root.
 */
export class HubSource implements ModelSource {
  readonly localPath = undefined;
  private readonly files: ReadonlyMap<string, HubFile>;
  private readonly beginnings = new Map<string, Uint8Array>();

  constructor(
    readonly client: HubClient,
    readonly snapshot: HubSnapshot,
  ) {
    const { subfolder } = snapshot.address;
    const root = subfolder === "" ? "" : `${subfolder}/`;
    this.files = new Map(snapshot.files.map((file) => [file.path.slice(root.length), file]));
  }

  /** The commit of the address, its files, nothing of their bytes. Throws `HUB_*`. */
  static async open(address: HubAddress, client = new HubClient()): Promise<HubSource> {
    return new HubSource(client, await client.snapshot(address));
  }

  /** The address with its commit: what is read is this and stays this. */
  get place(): string {
    const { address, commit } = this.snapshot;
    return formatHubAddress({ ...address, revision: commit });
  }

  get name(): string {
    return this.snapshot.address.repository;
  }

  get commit(): string {
    return this.snapshot.commit;
  }

  get ref(): SourceRef {
    return { kind: "hub", path: this.place };
  }

  async list(folder = ""): Promise<SourceEntry[]> {
    const inside = folder === "" ? "" : `${folder}/`;
    const entries = new Map<string, SourceEntry>();
    for (const [path, { byteLength }] of this.files) {
      if (!path.startsWith(inside)) continue;
      const [name, ...deeper] = path.slice(inside.length).split("/");
      if (deeper.length === 0) entries.set(name, { name, kind: "file", byteLength, modifiedNs: 0n });
      else if (!entries.has(name)) entries.set(name, { name, kind: "folder", byteLength: 0, modifiedNs: 0n });
    }
    if (entries.size === 0) {
      const where = folder === "" ? this.place : `${this.place}/${folder}`;
      throw new PhysariumError("HUB_NOT_FOUND", `${where}: there is no file of a model here`, {});
    }
    return [...entries.values()].sort((a, b) => (a.name < b.name ? -1 : 1));
  }

  async open(file: string): Promise<SourceFile> {
    return new HubFileSource(this.client, this.snapshot, this.fileOf(file), this.beginnings);
  }

  async identity(file: string): Promise<FileIdentity> {
    const { byteLength, hash } = this.fileOf(file);
    return { byteLength, modifiedNs: 0n, content: `${hash.kind}:${hash.hex}` };
  }

  async close(): Promise<void> {}

  /** What the Hub states of a file, its hash above all. Throws `IO_NOT_FOUND`. */
  fileOf(file: string): HubFile {
    const found = this.files.get(file);
    if (found !== undefined) return found;
    throw new PhysariumError("IO_NOT_FOUND", `${this.place}/${file}: there is no such file`, { path: file });
  }
}

/** One file, read in ranges. Read whole, a small one is proven by its hash. */
class HubFileSource implements SourceFile {
  readonly modifiedNs = 0n;

  constructor(
    private readonly client: HubClient,
    private readonly snapshot: HubSnapshot,
    private readonly file: HubFile,
    private readonly beginnings: Map<string, Uint8Array>,
  ) {}

  get byteLength(): number {
    return this.file.byteLength;
  }

  async read(begin: number, end: number): Promise<Uint8Array> {
    const bytes = new Uint8Array(end - begin);
    await this.readInto(bytes, begin);
    return bytes;
  }

  /** With `onFilled` whoever follows the bytes proves them; else a small file that is read whole is proven here. */
  async readInto(
    buffer: Uint8Array,
    byteOffset: number,
    signal?: AbortSignal,
    onFilled?: (byteLength: number) => void,
  ): Promise<void> {
    const end = byteOffset + buffer.byteLength;
    const kept = this.beginnings.get(this.file.path) ?? new Uint8Array();
    const known = kept.subarray(byteOffset, end);
    buffer.set(known);
    onFilled?.(known.byteLength);
    await this.fill(buffer, byteOffset, known.byteLength, signal, onFilled);
    if (onFilled !== undefined) return;
    if (byteOffset === 0 && end === this.byteLength && end <= PROVEN_WHOLE_BYTES && !this.isProven(buffer)) {
      await this.fill(buffer, 0, 0, signal);
      if (!this.isProven(buffer)) throw this.refusal();
    }
    if (byteOffset <= kept.byteLength && end > kept.byteLength && end <= KEPT_BYTES) {
      const longer = new Uint8Array(end);
      longer.set(kept);
      longer.set(buffer, byteOffset);
      this.beginnings.set(this.file.path, longer);
    }
  }

  /** What `buffer` lacks behind its first `done` bytes. */
  private fill(
    buffer: Uint8Array,
    byteOffset: number,
    done: number,
    signal?: AbortSignal,
    onFilled?: (byteLength: number) => void,
  ): Promise<void> {
    let filled = done;
    const range = { begin: byteOffset + done, end: byteOffset + buffer.byteLength };
    const take = (piece: Uint8Array): void => {
      buffer.set(piece, filled);
      filled += piece.byteLength;
      onFilled?.(filled);
    };
    return readRange(this.client, this.snapshot, this.file, range, take, signal);
  }

  async close(): Promise<void> {}

  private isProven(bytes: Uint8Array): boolean {
    return startHash(this.file).update(bytes).digest("hex") === this.file.hash.hex;
  }

  private refusal(): PhysariumError {
    return new PhysariumError(
      "HUB_HASH",
      `${formatHubAddress(this.snapshot.address)}: "${this.file.path}" came twice with another hash than the Hub ` +
        "states; a proxy or mirror may alter it, nothing of it is used",
      { path: this.file.path, expected: this.file.hash.hex },
    );
  }
}
