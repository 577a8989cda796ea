import type { Hash } from "node:crypto";
import { mkdir, open, readFile, readlink, rename, rm, stat, symlink } from "node:fs/promises";
import { dirname, join, relative } from "node:path";
import { attempt } from "../checkpoint/file-layer.js";
import { writeSmallFile } from "../output/small-file.js";
import type { HubAddress } from "./address.js";
import { type HubFile, type HubSnapshot, startHash } from "./hub-client.js";

/**
 * The cache that the Hub's clients share, as Python's lays it out:
 *
 * ```
 * <cache>/models--org--name/blobs/<hash>                  the bytes, by sha256 or git's sha1
 *                           blobs/<hash>.incomplete       what has come of them so far
 *                           snapshots/<commit>/<path>     relative links to blobs
 *                           refs/<revision>               the commit that a branch pointed to
 * ```
 * source: huggingface_hub, "Understand caching"
 */
export class HubCache {
  constructor(readonly folder: string) {}

  repositoryFolder({ kind, repository }: HubAddress): string {
    return join(this.folder, `${kind}s--${repository.replaceAll("/", "--")}`);
  }

  snapshotFolder(address: HubAddress, commit: string): string {
    return join(this.repositoryFolder(address), "snapshots", commit);
  }

  blobPath(address: HubAddress, file: HubFile): string {
    return join(this.repositoryFolder(address), "blobs", file.hash.hex);
  }

  /** The commit that a revision had when it was last fetched; what is a commit already is one. */
  async knownCommit(address: HubAddress): Promise<string | undefined> {
    if (/^[0-9a-f]{40}$/.test(address.revision)) return address.revision;
    try {
      const text = await readFile(join(this.repositoryFolder(address), "refs", ...address.revision.split("/")), "utf8");
      return /^[0-9a-f]{40}$/.test(text.trim()) ? text.trim() : undefined;
    } catch {
      return undefined;
    }
  }

  /** Whether the blob of a file lies here at full length. Its hash was checked before it got its name. */
  async has(address: HubAddress, file: HubFile): Promise<boolean> {
    try {
      const found = await stat(this.blobPath(address, file));
      return found.isFile() && found.size === file.byteLength;
    } catch {
      return false;
    }
  }

  /** Link a file into its snapshot. */
  async link({ address, commit }: HubSnapshot, file: HubFile): Promise<void> {
    const path = join(this.snapshotFolder(address, commit), ...file.path.split("/"));
    const target = relative(dirname(path), this.blobPath(address, file));
    await attempt("linking", path, async () => {
      await mkdir(dirname(path), { recursive: true });
      if ((await readlink(path).catch(() => undefined)) === target) return;
      // A link takes its name at once, so that nobody sees a half-made one.
      const temporary = `${path}.${process.pid}.tmp`;
      await rm(temporary, { force: true });
      await symlink(target, temporary);
      await rename(temporary, path);
    });
  }

  /** Remember what commit a branch or tag pointed to. */
  async remember({ address, commit }: HubSnapshot): Promise<void> {
    if (address.revision === commit) return;
    const path = join(this.repositoryFolder(address), "refs", ...address.revision.split("/"));
    await attempt("creating", dirname(path), () => mkdir(dirname(path), { recursive: true }));
    await writeSmallFile(path, commit);
  }

  /** Open what has come of a blob so far, to go on at its end. */
  async openIncomplete(address: HubAddress, file: HubFile): Promise<IncompleteBlob> {
    const path = `${this.blobPath(address, file)}.incomplete`;
    return attempt("opening", path, async () => {
      await mkdir(dirname(path), { recursive: true });
      const handle = await open(path, "a+");
      const { size } = await handle.stat();
      // More than the whole cannot be its beginning.
      if (size > file.byteLength) await handle.truncate(0);
      const byteLength = size > file.byteLength ? 0 : size;
      const hash = startHash(file);
      const buffer = new Uint8Array(4 << 20);
      for (let at = 0; at < byteLength; ) {
        const { bytesRead } = await handle.read(buffer, 0, Math.min(buffer.byteLength, byteLength - at), at);
        if (bytesRead === 0) throw new Error("the file was shortened while it was read");
        hash.update(buffer.subarray(0, bytesRead));
        at += bytesRead;
      }
      return new IncompleteBlob(path, this.blobPath(address, file), file, handle, byteLength, hash);
    });
  }
}

/** A blob that is still coming: its bytes so far and the hash over them. */
export class IncompleteBlob {
  constructor(
    readonly path: string,
    private readonly finalPath: string,
    private readonly file: HubFile,
    private readonly handle: Awaited<ReturnType<typeof open>>,
    public byteLength: number,
    private hash: Hash,
  ) {}

  async append(piece: Uint8Array): Promise<void> {
    await attempt("writing", this.path, () => this.handle.appendFile(piece));
    this.hash.update(piece);
    this.byteLength += piece.byteLength;
  }

  /** Throw everything away and begin anew. */
  async restart(): Promise<void> {
    await attempt("truncating", this.path, () => this.handle.truncate(0));
    this.byteLength = 0;
    this.hash = startHash(this.file);
  }

  /** True where the bytes are those that the Hub promised. */
  isProven(): boolean {
    return this.byteLength === this.file.byteLength && this.hash.copy().digest("hex") === this.file.hash.hex;
  }

  /** Flush and take the final name. */
  async commit(): Promise<void> {
    await attempt("flushing", this.path, async () => {
      await this.handle.sync();
      await this.handle.close();
      await rename(this.path, this.finalPath);
    });
  }

  async close(): Promise<void> {
    await this.handle.close().catch(() => {});
  }
}
