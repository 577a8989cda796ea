import { createHash } from "node:crypto";
import { open, stat } from "node:fs/promises";
import { attempt, readFully } from "../../checkpoint/file-layer.js";
import { isPhysariumError, PhysariumError, refuseStopped } from "../../errors.js";
import type { HubAddress } from "../address.js";
import { HubClient, type HubFile, startHash } from "../hub-client.js";
import { PushJournal } from "./journal.js";
import { jsonOf, uploadObject } from "./lfs-upload.js";
import type { PushFile } from "./push-files.js";

export interface PushOptions {
  /** `org/name`. */
  readonly repository: string;
  readonly journalPath: string;
  readonly isPrivate?: boolean;
  readonly isPullRequest?: boolean;
  readonly client?: HubClient;
  readonly signal?: AbortSignal;
  readonly onProgress?: (bytesDone: number, file: string) => void;
}

export interface PushResult {
  readonly commit: string;
  readonly url: string;
  readonly files: number;
  readonly bytesSent: number;
}

/** How a file goes into the commit. */
type Entry =
  | { readonly kind: "lfs"; readonly oid: string; readonly byteLength: number }
  | { readonly kind: "regular"; readonly bytes: Uint8Array };

/** The Hub looks at the first bytes of a file to decide where it belongs. */
const SAMPLE_BYTES = 512;
const HASH_PIECE_BYTES = 4 << 20;
const NDJSON = "application/x-ndjson";

/**
 * One push into one repository: files go up as they are given, in any order; `finish` makes one commit of all, on top
 * of the commit that was the head when the session began, and reads back what the repository holds then.
 */
export class PushSession {
  private readonly entries = new Map<string, Entry>();
  private bytesSent = 0;
  private bytesDone = 0;

  private constructor(
    private readonly client: HubClient,
    private readonly address: HubAddress,
    private readonly options: PushOptions,
    private readonly journal: PushJournal,
    /** The head when the session began: the commit's parent. */
    private readonly parent: string,
  ) {}

  /** The repository is made where there is none. Throws `HUB_TOKEN_SCOPE` without a token that may write, `HUB_*`. */
  static async open(options: PushOptions): Promise<PushSession> {
    const { repository, client = new HubClient(), isPrivate = false } = options;
    const address: HubAddress = { kind: "model", repository, revision: "main", subfolder: "" };
    if (client.environment.token === undefined) {
      throw new PhysariumError(
        "HUB_TOKEN_SCOPE",
        `${repository}: a push needs a token with the right to write; set HF_TOKEN`,
        { repository },
      );
    }
    let parent = await client.commitOf(address).catch((error: unknown) => {
      if (isPhysariumError(error, "HUB_NOT_FOUND")) return undefined;
      throw error;
    });
    if (parent === undefined) {
      await create(client, repository, isPrivate);
      parent = await client.commitOf(address);
    }
    const journal = await PushJournal.open(options.journalPath, repository);
    return new PushSession(client, address, options, journal, parent);
  }

  /** Send one file, or take it for the commit where the Hub wants it there. Throws `HUB_*`, `IO_*`, `STOPPED`. */
  async add(file: PushFile): Promise<void> {
    refuseStopped(this.options.signal);
    const sample = await read(file, 0, Math.min(SAMPLE_BYTES, file.byteLength));
    const question = { path: file.path, size: file.byteLength, sample: Buffer.from(sample).toString("base64") };
    const answer = (await this.post("preupload/main", { files: [question] })) as {
      files?: { path: string; uploadMode: string; shouldIgnore?: boolean }[];
    };
    const mode = answer.files?.find(({ path }) => path === file.path);
    if (mode?.shouldIgnore) return;
    if (mode?.uploadMode === "regular") {
      this.entries.set(file.path, { kind: "regular", bytes: await read(file, 0, file.byteLength) });
      this.tell(file.byteLength, file.path);
      return;
    }
    const { size, mtimeNs } = await statOf(file);
    const known = this.journal.hashOf(file.path, Number(size), mtimeNs);
    const oid = known ?? (await sha256Of(file));
    const { path, byteLength } = file;
    if (known === undefined) {
      const object = { path, oid, byteLength, read: (begin: number, end: number) => read(file, begin, end) };
      this.bytesSent += await uploadObject(this.client.http, this.options.repository, object, (n) =>
        this.tell(n, path),
      );
      if (file.localPath !== undefined) {
        const { repository } = this.options;
        await this.journal.add({
          repository,
          path,
          byte_length: byteLength,
          modified_ns: String(mtimeNs),
          sha256: oid,
        });
      }
    } else this.tell(byteLength, path);
    this.entries.set(path, { kind: "lfs", oid, byteLength });
  }

  has(path: string): boolean {
    return this.entries.has(path);
  }

  /** The commit, and a look at what it holds. Throws `HUB_CONFLICT`, `HUB_READ_BACK`, `HUB_*`. */
  async finish(summary: string): Promise<PushResult> {
    const { repository, isPullRequest = false } = this.options;
    const header = { key: "header", value: { summary, description: "", parentCommit: this.parent } };
    const lines: unknown[] = [header];
    for (const [path, entry] of this.entries) {
      if (entry.kind === "lfs") {
        lines.push({ key: "lfsFile", value: { path, algo: "sha256", oid: entry.oid, size: entry.byteLength } });
      } else {
        const content = Buffer.from(entry.bytes).toString("base64");
        lines.push({ key: "file", value: { path, encoding: "base64", content } });
      }
    }
    const body = lines.map((line) => `${JSON.stringify(line)}\n`).join("");
    const answer = (await this.post(`commit/main${isPullRequest ? "?create_pr=1" : ""}`, body)) as {
      commitOid?: string;
      commitUrl?: string;
      pullRequestUrl?: string;
    };
    const commit = answer.commitOid ?? "";
    if (!/^[0-9a-f]{40}$/.test(commit)) {
      throw new PhysariumError("HUB_ANSWER", `${repository}: the answer to the commit names no commit`, {});
    }
    await this.readBack(commit);
    await this.journal.remove();
    const url = answer.pullRequestUrl ?? answer.commitUrl ?? `${this.client.http.endpoint}/${repository}`;
    return { commit, url, files: this.entries.size, bytesSent: this.bytesSent };
  }

  /** Every file that was pushed must stand in the commit with the length and hash that it has here. */
  private async readBack(commit: string): Promise<void> {
    const { files } = await this.client.snapshot({ ...this.address, revision: commit });
    const found = new Map(files.map((file) => [file.path, file]));
    const wrong = [...this.entries].filter(([path, entry]) => !isSame(entry, found.get(path))).map(([path]) => path);
    if (wrong.length === 0) return;
    throw new PhysariumError(
      "HUB_READ_BACK",
      `${this.options.repository}: at commit ${commit} ${wrong.length} files are not what was pushed: ` +
        `${wrong.slice(0, 3).join(", ")}; push again, or look at the repository`,
      { commit, wrong },
    );
  }

  private post(what: string, value: unknown): Promise<unknown> {
    const { repository, signal } = this.options;
    const isText = typeof value === "string";
    const headers = { "content-type": isText ? NDJSON : "application/json" };
    const body = () => (isText ? value : JSON.stringify(value));
    const url = `${this.client.http.endpoint}/api/models/${repository}/${what}`;
    const call = { method: "POST", headers, body };
    const read = async (reply: Parameters<typeof jsonOf>[0]): Promise<unknown> => {
      if (reply.status !== 412 && reply.status !== 409) return jsonOf(reply);
      await reply.drop();
      throw new PhysariumError(
        "HUB_CONFLICT",
        `${repository}: somebody committed to it since this push began (its head was ${this.parent}); look at it, ` +
          "then run the same command again: what is up stays up",
        { parent: this.parent },
      );
    };
    return this.client.http.send(url, call, read, signal);
  }

  private tell(bytes: number, path: string): void {
    this.bytesDone += bytes;
    this.options.onProgress?.(this.bytesDone, path);
  }
}

const UNKNOWN = { size: -1n, mtimeNs: 0n };

async function create({ http }: HubClient, repository: string, isPrivate: boolean): Promise<void> {
  const [organization, name] = repository.split("/");
  const body = () => JSON.stringify({ type: "model", name, organization, private: isPrivate });
  const call = { method: "POST", headers: { "content-type": "application/json" }, body };
  // Somebody may have made it since it was looked for.
  await http.send(`${http.endpoint}/api/repos/create`, call, (reply) =>
    reply.status === 409 ? reply.drop() : jsonOf(reply),
  );
}

function isSame(entry: Entry, found: HubFile | undefined): boolean {
  if (found === undefined) return false;
  if (entry.kind === "lfs") return found.byteLength === entry.byteLength && found.hash.hex === entry.oid;
  const { byteLength } = entry.bytes;
  const hash = startHash({ ...found, byteLength })
    .update(entry.bytes)
    .digest("hex");
  return found.byteLength === byteLength && found.hash.hex === hash;
}

function statOf({ localPath, handle }: PushFile): Promise<{ readonly size: bigint; readonly mtimeNs: bigint }> {
  if (handle !== undefined) return handle.stat({ bigint: true });
  return localPath === undefined ? Promise.resolve(UNKNOWN) : stat(localPath, { bigint: true });
}

async function read({ localPath, handle, bytes }: PushFile, begin: number, end: number): Promise<Uint8Array> {
  if (handle !== undefined) {
    const piece = new Uint8Array(end - begin);
    await readFully(handle, piece, begin, localPath ?? "");
    return piece;
  }
  if (localPath === undefined) return (bytes ?? new Uint8Array()).subarray(begin, end);
  const file = await attempt("opening", localPath, () => open(localPath, "r"));
  try {
    const piece = new Uint8Array(end - begin);
    await readFully(file, piece, begin, localPath);
    return piece;
  } finally {
    await file.close();
  }
}

async function sha256Of(file: PushFile): Promise<string> {
  const hash = createHash("sha256");
  for (let at = 0; at < file.byteLength; at += HASH_PIECE_BYTES) {
    hash.update(await read(file, at, Math.min(at + HASH_PIECE_BYTES, file.byteLength)));
  }
  return hash.digest("hex");
}
