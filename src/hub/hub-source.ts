import type { FileIdentity, ModelSource, SourceEntry, SourceFile, SourceRef } from "../checkpoint/model-source.js";
import { PhysariumError } from "../errors.js";
import { formatHubAddress, type HubAddress } from "./address.js";
import { HubClient, type HubFile, type HubSnapshot, startHash } from "./hub-client.js";

/** Files up to this length are proven by their hash when they are read whole: config, index, tokenizer. */
const PROVEN_WHOLE_BYTES = 256 << 20;

/**
 * A model on the Hub at one commit, read in exact ranges over the wire; nothing of it is kept on a disk. Files of the
 * address's subfolder are the model's root.
 */
export class HubSource implements ModelSource {
  readonly localPath = undefined;
  private readonly files: ReadonlyMap<string, HubFile>;

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
    return new HubFileSource(this.client, this.snapshot, this.fileOf(file));
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
  ) {}

  get byteLength(): number {
    return this.file.byteLength;
  }

  async read(begin: number, end: number): Promise<Uint8Array> {
    const bytes = new Uint8Array(end - begin);
    await this.readInto(bytes, begin);
    return bytes;
  }

  async readInto(buffer: Uint8Array, byteOffset: number): Promise<void> {
    if (buffer.byteLength > 0) {
      await this.client.range(this.snapshot, this.file, byteOffset, byteOffset + buffer.byteLength, async (pieces) => {
        let done = 0;
        for await (const piece of pieces) {
          buffer.set(piece, done);
          done += piece.byteLength;
        }
      });
    }
    const isWhole = byteOffset === 0 && buffer.byteLength === this.byteLength;
    if (isWhole && this.byteLength <= PROVEN_WHOLE_BYTES) this.prove(buffer);
  }

  async close(): Promise<void> {}

  private prove(bytes: Uint8Array): void {
    if (startHash(this.file).update(bytes).digest("hex") === this.file.hash.hex) return;
    throw new PhysariumError(
      "HUB_HASH",
      `${formatHubAddress(this.snapshot.address)}: "${this.file.path}" came with another hash than the Hub states; a ` +
        "proxy or mirror may alter it, nothing of it is used",
      { path: this.file.path, expected: this.file.hash.hex },
    );
  }
}
