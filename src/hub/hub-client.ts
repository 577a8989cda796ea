import { createHash, type Hash } from "node:crypto";
import { PhysariumError } from "../errors.js";
import { checkHubPath, formatHubAddress, type HubAddress } from "./address.js";
import { type HubEnvironment, readHubEnvironment } from "./environment.js";
import { type HttpOptions, HubHttp, type Reply } from "./http.js";

/** A file of a repository at one commit. */
export interface HubFile {
  /** Inside the repository, subfolders included. */
  readonly path: string;
  readonly byteLength: number;
  /** What the bytes must hash to: sha256 of a file in large file storage, git's sha1 of a blob elsewhere. */
  readonly hash: { readonly kind: "sha256" | "git-sha1"; readonly hex: string };
}

/** A repository at one commit, and all its files. */
export interface HubSnapshot {
  readonly address: HubAddress;
  /** 40 hexadecimal digits. */
  readonly commit: string;
  readonly files: readonly HubFile[];
}

/** The hash that the Hub states of a file, begun. */
export function startHash({ hash, byteLength }: Pick<HubFile, "hash" | "byteLength">): Hash {
  if (hash.kind === "sha256") return createHash("sha256");
  // What git hashes of a blob: its kind and length, then its bytes.
  return createHash("sha1").update(`blob ${byteLength}\0`);
}

/** Trees are paged; a server that turns pages for ever is stopped here. */
const MAX_PAGES = 10_000;
const MAX_FILES = 200_000;

/** Three endpoints of the Hub: what a revision is, what files it has, and the bytes of a file. */
export class HubClient {
  readonly http: HubHttp;
  /** What each file's server called its bytes the first time; all ranges of a file must be of the same. */
  private readonly etags = new Map<string, string>();
  /** Bytes of files that came, and the answers that they came in. */
  readonly traffic = { answers: 0, bytes: 0 };

  constructor(
    readonly environment: HubEnvironment = readHubEnvironment(),
    options: HttpOptions = {},
  ) {
    this.http = new HubHttp(environment, options);
  }

  /** The commit of a revision, and every file under the address's subfolder. Throws `HUB_*`. */
  async snapshot(address: HubAddress): Promise<HubSnapshot> {
    const commit = await this.commitOf(address);
    return { address, commit, files: await this.filesOf(address, commit) };
  }

  /** The commit that a branch or tag points to now. */
  async commitOf(address: HubAddress): Promise<string> {
    const url = `${this.api(address)}/revision/${encodeURIComponent(address.revision)}`;
    const answer = await this.http.get(url, {}, async (reply) => {
      await this.refuse(reply, address);
      return reply.json();
    });
    const sha = (answer as { sha?: unknown } | null)?.sha;
    if (typeof sha === "string" && /^[0-9a-f]{40}$/.test(sha)) return sha;
    throw new PhysariumError("HUB_ANSWER", `${url}: expected the commit of the revision in "sha", found none`, {});
  }

  private async filesOf(address: HubAddress, commit: string): Promise<HubFile[]> {
    const where = address.subfolder === "" ? "" : `/${pathOf(address.subfolder)}`;
    const files: HubFile[] = [];
    let next: string | undefined = `${this.api(address)}/tree/${commit}${where}?recursive=true`;
    for (let page = 0; next !== undefined; page++) {
      if (page === MAX_PAGES || files.length > MAX_FILES) {
        throw new PhysariumError("HUB_ANSWER", `${formatHubAddress(address)}: its list of files does not end`, {});
      }
      const url: string = next;
      const [entries, link] = await this.http.get(url, {}, async (reply): Promise<[unknown, string | undefined]> => {
        await this.refuse(reply, address);
        return [await reply.json(), reply.header("link")];
      });
      for (const entry of Array.isArray(entries) ? entries : []) {
        const file = parseEntry(entry, formatHubAddress(address));
        if (file !== undefined) files.push(file);
      }
      next = nextPage(link, url, this.http.endpoint);
    }
    return files.sort((a, b) => (a.path < b.path ? -1 : 1));
  }

  /**
   * Bytes `[begin, end)` of a file, piece by piece, exactly those or an error: the answer must be 206 with the very
   * range and length that were asked for. `read` may be called anew after a connection broke, and takes all pieces each
   * time.
   */
  range<T>(
    snapshot: HubSnapshot,
    file: HubFile,
    begin: number,
    end: number,
    read: (pieces: AsyncIterable<Uint8Array>) => Promise<T>,
    signal?: AbortSignal,
  ): Promise<T> {
    const url = this.fileUrl(snapshot, file);
    const known = this.etags.get(url);
    // A weak tag may not stand in If-Range (RFC 9110, 13.1.5).
    const same: Record<string, string> = known === undefined || known.startsWith("W/") ? {} : { "if-range": known };
    const take = async (reply: Reply): Promise<T> => {
      await this.refuse(reply, snapshot.address, file.path);
      await checkRange(reply, begin, end, file.byteLength, known);
      const etag = reply.header("etag");
      if (etag !== undefined) this.etags.set(url, etag);
      this.traffic.answers++;
      return read(exactly(reply.pieces(), end - begin, reply.url, this.traffic));
    };
    return this.http.get(url, { range: `bytes=${begin}-${end - 1}`, ...same }, take, signal);
  }

  private api({ kind, repository }: HubAddress): string {
    return `${this.http.endpoint}/api/${kind}s/${repository}`;
  }

  private fileUrl({ address, commit }: HubSnapshot, { path }: HubFile): string {
    const folder = address.kind === "dataset" ? "/datasets" : "";
    return `${this.http.endpoint}${folder}/${address.repository}/resolve/${commit}/${pathOf(path)}`;
  }

  /** Give refusals of the Hub their sentence and the next command. */
  private async refuse(reply: Reply, address: HubAddress, path?: string): Promise<void> {
    const { status } = reply;
    if (status === 200 || status === 206) return;
    await reply.drop();
    const name = formatHubAddress(address);
    const reason = reply.header("x-error-code") ?? "";
    const details = { status, reason, address: name };
    const hasToken = this.environment.token !== undefined;
    const page = `${this.http.endpoint}/${address.kind === "dataset" ? "datasets/" : ""}${address.repository}`;
    if (reason === "GatedRepo") {
      const how = hasToken ? "the account of your token has no access yet" : "and HF_TOKEN is not set";
      throw new PhysariumError(
        "HUB_GATED",
        `${name}: this repository is gated, ${how}; ask for access on ${page}, then run the command again with ` +
          "HF_TOKEN set",
        details,
      );
    }
    if (reason === "RevisionNotFound") {
      throw new PhysariumError(
        "HUB_NOT_FOUND",
        `${name}: the repository has no revision "${address.revision}"; give a branch, tag or commit that it has, ` +
          "or none",
        details,
      );
    }
    if (reason === "EntryNotFound" || (status === 404 && path !== undefined)) {
      const what = path ?? address.subfolder;
      throw new PhysariumError("HUB_NOT_FOUND", `${name}: there is no "${what}" in the repository`, details);
    }
    if (status === 401 || status === 404) {
      const hint = hasToken
        ? "or your token cannot see it; check the spelling and the token's rights"
        : "or it is private; check the spelling, or set HF_TOKEN";
      throw new PhysariumError("HUB_NOT_FOUND", `${name}: there is no such repository, ${hint}`, details);
    }
    if (status === 403) {
      throw new PhysariumError(
        "HUB_TOKEN_SCOPE",
        `${name}: the Hub refused (403); your token may lack the right to read this repository, make one that has it`,
        details,
      );
    }
    throw new PhysariumError("HUB_ANSWER", `${reply.url}: the answer was status ${status}, expected 200`, details);
  }
}

/** 206, exactly the range that was asked for, of a file of the expected length. Throws `HUB_RANGE`. */
async function checkRange(
  reply: Reply,
  begin: number,
  end: number,
  byteLength: number,
  etag: string | undefined,
): Promise<void> {
  const expected = `bytes ${begin}-${end - 1}/${byteLength}`;
  const range = reply.header("content-range");
  const length = reply.header("content-length");
  const tag = reply.header("etag");
  const isSame = etag === undefined || tag === undefined || tag === etag;
  const isExact = range === expected && (length === undefined || Number(length) === end - begin);
  if (reply.status === 206 && isExact && isSame) return;
  await reply.drop();
  if (reply.status === 206 && isExact) {
    throw new PhysariumError(
      "HUB_RANGE",
      `${reply.url}: the file is "${tag}" now and was "${etag}" before; it changed, or a proxy mixes two, run the ` +
        "command again",
      { expected: etag, found: tag },
    );
  }
  const found =
    reply.status === 206 ? `range "${range ?? "none"}", length ${length ?? "unknown"}` : `status ${reply.status}`;
  throw new PhysariumError(
    "HUB_RANGE",
    `${reply.url}: asked for ${expected}, found ${found}; the endpoint or a proxy before it does not serve ranges, ` +
      "try without it (HF_ENDPOINT, HTTPS_PROXY)",
    { expected, status: reply.status },
  );
}

/** All of `byteLength` bytes and not one more; a connection that ends early is a fault worth another try. */
async function* exactly(
  pieces: AsyncIterable<Uint8Array>,
  byteLength: number,
  url: string,
  traffic: { bytes: number },
): AsyncGenerator<Uint8Array> {
  let found = 0;
  for await (const piece of pieces) {
    found += piece.byteLength;
    traffic.bytes += piece.byteLength;
    if (found > byteLength) {
      throw new PhysariumError("HUB_RANGE", `${url}: more than the expected ${byteLength} bytes came`, { byteLength });
    }
    yield piece;
  }
  if (found < byteLength) throw new Error(`the connection ended after ${found} of ${byteLength} bytes`);
}

/** One entry of a tree: a file, or `undefined` for a folder. Throws `HUB_PATH`, `HUB_ANSWER`. */
function parseEntry(value: unknown, where: string): HubFile | undefined {
  const { type, path, size, oid, lfs } = (value ?? {}) as Record<string, unknown>;
  if (type === "directory") return undefined;
  const large = (lfs ?? undefined) as { oid?: unknown; size?: unknown } | undefined;
  const byteLength = large?.size ?? size;
  const hex = String(large === undefined ? oid : large.oid).replace(/^sha256:/, "");
  const kind = large === undefined ? "git-sha1" : "sha256";
  const isWhole =
    type === "file" &&
    typeof path === "string" &&
    Number.isSafeInteger(byteLength) &&
    (byteLength as number) >= 0 &&
    (kind === "sha256" ? /^[0-9a-f]{64}$/ : /^[0-9a-f]{40}$/).test(hex);
  if (!isWhole) throw new PhysariumError("HUB_ANSWER", `${where}: an entry of its list of files is malformed`, {});
  checkHubPath(path as string, where);
  return { path: path as string, byteLength: byteLength as number, hash: { kind, hex } };
}

/** The next page of a tree, from the `Link` header; it must be the endpoint's own. */
function nextPage(link: string | undefined, url: string, endpoint: string): string | undefined {
  const target = /<([^>]+)>\s*;\s*rel="next"/.exec(link ?? "")?.[1];
  if (target === undefined) return undefined;
  const next = new URL(target, url);
  if (next.origin === new URL(endpoint).origin) return next.href;
  // A mirror may hand the Hub's own addresses through: the page is the same at the mirror.
  return new URL(next.pathname + next.search, endpoint).href;
}

function pathOf(path: string): string {
  return path.split("/").map(encodeURIComponent).join("/");
}
