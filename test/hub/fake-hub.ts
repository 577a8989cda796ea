import { createHash } from "node:crypto";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { FakeUploads } from "./fake-uploads.js";

/** What can go wrong on the way. A mode strikes `times` times, then the server behaves. */
export type HostileMode =
  | "drop mid-range"
  | "flip a byte"
  | "ignore range"
  | "wrong etag"
  | "too many requests"
  | "expired address"
  | "slow drip"
  | "server error"
  | "path escape"
  | "branch moves"
  | "rejected part"
  | "parent moves"
  | "token refused"
  | "lost upload"
  | "other bytes afterwards";

export interface FakeRepository {
  files: ReadonlyMap<string, Uint8Array>;
  commit: string;
  readonly kind?: "model" | "dataset";
  readonly branches?: Record<string, string>;
  readonly gated?: boolean;
  /** Who reads must show it. */
  readonly token?: string;
  readonly private?: boolean;
  /** Earlier commits and their files. */
  history?: Map<string, ReadonlyMap<string, Uint8Array>>;
}

/** Files of this size and over lie in large file storage, as on the Hub. */
export const LARGE = 4096;

export interface FakeRequest {
  readonly method: string;
  readonly url: string;
  readonly authorization: string | undefined;
  readonly range: string | undefined;
  readonly origin: "hub" | "storage";
}

/**
 * A Hub in this process: the endpoints of reading and writing, large files behind a redirect to another origin, and
 * everything that may go wrong.
 */
export class FakeHub {
  /** Models by `org/name`, datasets by `datasets/org/name`. */
  readonly repositories = new Map<string, FakeRepository>();
  /** Every request: where it went and with what token. */
  readonly requests: FakeRequest[] = [];
  private readonly hostile = new Map<HostileMode, number>();
  /** Signed addresses of an earlier generation have expired. */
  generation = 0;
  /** Large files whose last byte is another, for as many answers that hold it. */
  readonly damaged = new Map<string, number>();
  pageSize = 1000;
  /** Bytes a second of all bodies of files together; 0 for no limit. */
  bytesPerSecond = 0;
  /** Who writes must show it; undefined refuses all writing. */
  writeToken: string | undefined = "hf_write";
  readonly uploads = new FakeUploads(this);
  private hub!: Server;
  private storage!: Server;
  /** When the wire is free again, in milliseconds of `performance.now()`. */
  private wireFreeMs = 0;

  static async start(port = 0): Promise<FakeHub> {
    const fake = new FakeHub();
    fake.hub = createServer((request, response) => fake.answer(request, response));
    fake.storage = createServer((request, response) => fake.store(request, response));
    await new Promise<void>((ready) => fake.hub.listen(port, "127.0.0.1", ready));
    await new Promise<void>((ready) => fake.storage.listen(0, "127.0.0.1", ready));
    return fake;
  }

  get endpoint(): string {
    return `http://127.0.0.1:${(this.hub.address() as AddressInfo).port}`;
  }

  get storageOrigin(): string {
    // Another host name, so another origin.
    return `http://localhost:${(this.storage.address() as AddressInfo).port}`;
  }

  turn(mode: HostileMode, times = 1): void {
    this.hostile.set(mode, times);
  }

  async stop(): Promise<void> {
    for (const server of [this.hub, this.storage]) {
      server.closeAllConnections();
      await new Promise<void>((closed) => server.close(() => closed()));
    }
  }

  strikes(mode: HostileMode): boolean {
    const left = this.hostile.get(mode) ?? 0;
    if (left === 0) return false;
    this.hostile.set(mode, left - 1);
    return true;
  }

  /** A commit on a branch: other files from now on, the old ones still there under their commit. */
  commit(name: string, files: ReadonlyMap<string, Uint8Array>): string {
    const repository = this.repositories.get(name)!;
    repository.history ??= new Map();
    repository.history.set(repository.commit, repository.files);
    repository.commit = createHash("sha1").update(`${repository.commit}${repository.history.size}`).digest("hex");
    repository.files = files;
    return repository.commit;
  }

  private note(request: IncomingMessage, origin: "hub" | "storage"): void {
    const { authorization, range } = request.headers;
    this.requests.push({ method: request.method ?? "", url: request.url ?? "", authorization, range, origin });
  }

  private answer(request: IncomingMessage, response: ServerResponse): void {
    this.note(request, "hub");
    if (this.strikes("too many requests")) {
      response.writeHead(429, { "retry-after": "0.05" }).end();
      return;
    }
    if (this.strikes("server error")) {
      response.writeHead(503).end();
      return;
    }
    const url = new URL(request.url ?? "/", this.endpoint);
    if (this.uploads.answer(request, response, url)) return;
    const api = /^\/api\/(models|datasets)\/([^/]+\/[^/]+)(?:\/(revision|tree|paths-info)\/([^/]+)(?:\/(.*))?)?$/.exec(
      url.pathname,
    );
    const resolve = /^\/(datasets\/)?([^/]+\/[^/]+)\/resolve\/([^/]+)\/(.+)$/.exec(url.pathname);
    const isDataset = api?.[1] === "datasets" || resolve?.[1] !== undefined;
    const name = `${isDataset ? "datasets/" : ""}${api?.[2] ?? resolve?.[2] ?? ""}`;
    const repository = this.repositories.get(name);
    const isAllowed =
      repository !== undefined &&
      (repository.token === undefined || request.headers.authorization === `Bearer ${repository.token}`);
    if (repository === undefined || (!isAllowed && !repository.gated)) {
      response.writeHead(401, { "x-error-code": "RepoNotFound" }).end();
      return;
    }
    if (!isAllowed) {
      response.writeHead(403, { "x-error-code": "GatedRepo" }).end();
      return;
    }
    const revision = decodeURIComponent(api?.[4] ?? resolve?.[3] ?? "main");
    const known = revision === repository.commit || repository.history?.has(revision);
    const commit = known ? revision : { main: repository.commit, ...repository.branches }[revision];
    if (commit === undefined) {
      response.writeHead(404, { "x-error-code": "RevisionNotFound" }).end();
      return;
    }
    const files = (commit === repository.commit ? undefined : repository.history?.get(commit)) ?? repository.files;
    if (resolve !== null) this.file(request, response, name, commit, files, decodeURIComponent(resolve[4]));
    else if (api?.[3] === "paths-info") void this.pathsInfo(request, response, files);
    else if (api?.[3] === "tree") this.tree(response, files, url, decodeURIComponent(api[5] ?? ""));
    else {
      const siblings = [...files.keys()].map((rfilename) => ({ rfilename }));
      this.json(response, { id: name.replace(/^datasets\//, ""), sha: commit, siblings, private: repository.private });
      if (this.strikes("branch moves")) {
        const moved = new Map([...files].map(([path, bytes]) => [path, Uint8Array.from(bytes, (byte) => byte ^ 1)]));
        this.commit(name, moved);
      }
    }
  }

  private async pathsInfo(
    request: IncomingMessage,
    response: ServerResponse,
    files: ReadonlyMap<string, Uint8Array>,
  ): Promise<void> {
    let body = "";
    for await (const piece of request) body += piece;
    const isJson = body.startsWith("{");
    const asked: string[] = isJson ? [JSON.parse(body).paths].flat() : new URLSearchParams(body).getAll("paths");
    this.json(
      response,
      asked.flatMap((path) => (files.has(path) ? [entryOf(path, files.get(path)!)] : [])),
    );
  }

  private tree(response: ServerResponse, files: ReadonlyMap<string, Uint8Array>, url: URL, folder: string): void {
    const entries = [...files]
      .filter(([path]) => folder === "" || path.startsWith(`${folder}/`))
      .map(([path, bytes]) => entryOf(path, bytes));
    if (this.strikes("path escape")) entries[0] = { ...entries[0], path: "../../outside" };
    const last = entries.length - 1;
    if (last >= 0 && this.strikes("other bytes afterwards")) {
      const { type, path } = entries[last];
      entries[last] = { type, path, size: 7, oid: "0".repeat(40) };
    }
    const page = Number(url.searchParams.get("page") ?? "0");
    const shown = entries.slice(page * this.pageSize, (page + 1) * this.pageSize);
    const isLast = (page + 1) * this.pageSize >= entries.length;
    url.searchParams.set("page", `${page + 1}`);
    this.json(response, shown, isLast ? {} : { link: `<${url.href}>; rel="next"` });
  }

  private file(
    request: IncomingMessage,
    response: ServerResponse,
    name: string,
    commit: string,
    files: ReadonlyMap<string, Uint8Array>,
    path: string,
  ): void {
    const bytes = files.get(path);
    if (bytes === undefined) {
      response.writeHead(404, { "x-error-code": "EntryNotFound" }).end();
      return;
    }
    const headers = { "x-repo-commit": commit };
    if (bytes.byteLength < LARGE) {
      this.bytes(request, response, bytes, gitHash(bytes), headers);
      return;
    }
    const expired = this.strikes("expired address") ? "&expired=1" : "";
    const query = `repository=${encodeURIComponent(name)}&commit=${commit}&path=${encodeURIComponent(path)}`;
    const location = `${this.storageOrigin}/blob?${query}&signature=secret&generation=${this.generation}${expired}`;
    const linked = { "x-linked-size": bytes.byteLength, "x-linked-etag": `"${sha256(bytes)}"` };
    response.writeHead(302, { ...headers, ...linked, location }).end();
  }

  /** Storage behind signed addresses. */
  private store(request: IncomingMessage, response: ServerResponse): void {
    this.note(request, "storage");
    const url = new URL(request.url ?? "/", this.storageOrigin);
    if (this.uploads.store(request, response, url)) return;
    if (url.searchParams.has("expired") || url.searchParams.get("generation") !== String(this.generation)) {
      response.writeHead(403).end();
      return;
    }
    const repository = this.repositories.get(url.searchParams.get("repository") ?? "");
    const commit = url.searchParams.get("commit") ?? "";
    const files = repository?.history?.get(commit) ?? repository?.files;
    const path = url.searchParams.get("path") ?? "";
    const bytes = files?.get(path);
    if (bytes === undefined) response.writeHead(404).end();
    else this.bytes(request, response, this.damage(path, bytes, request.headers.range), sha256(bytes));
  }

  private damage(path: string, bytes: Uint8Array, range: string | undefined): Uint8Array {
    const times = this.damaged.get(path) ?? 0;
    if (times === 0 || !range?.endsWith(`-${bytes.byteLength - 1}`)) return bytes;
    this.damaged.set(path, times - 1);
    const other = Uint8Array.from(bytes);
    other[other.byteLength - 1] ^= 1;
    return other;
  }

  private bytes(
    request: IncomingMessage,
    response: ServerResponse,
    whole: Uint8Array,
    etag: string,
    more: Record<string, string> = {},
  ): void {
    if (request.method === "HEAD") {
      response.writeHead(200, { "content-length": whole.byteLength, etag: `"${etag}"`, ...more }).end();
      return;
    }
    // An open end is what Python's client asks for when it goes on.
    const range = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? "");
    if (range === null || this.strikes("ignore range")) {
      response.writeHead(200, { "content-length": whole.byteLength, etag: `"${etag}"`, ...more }).end(whole);
      return;
    }
    const [begin, end] = [Number(range[1]), range[2] === "" ? whole.byteLength : Number(range[2]) + 1];
    let part = whole.subarray(begin, end);
    if (this.strikes("flip a byte")) {
      part = Uint8Array.from(part);
      part[part.byteLength >> 1] ^= 1;
    }
    const tag = this.strikes("wrong etag") ? `"${"0".repeat(40)}"` : `"${etag}"`;
    response.writeHead(206, {
      "content-length": part.byteLength,
      "content-range": `bytes ${begin}-${end - 1}/${whole.byteLength}`,
      etag: tag,
      ...more,
    });
    if (this.strikes("drop mid-range")) {
      response.write(part.subarray(0, part.byteLength >> 1), () => setTimeout(() => response.destroy(), 20));
      return;
    }
    if (this.strikes("slow drip")) {
      response.write(part.subarray(0, 1));
      return;
    }
    void this.send(response, part);
  }

  /** The body, as fast as the wire allows, which all answers share. */
  private async send(response: ServerResponse, part: Uint8Array): Promise<void> {
    if (this.bytesPerSecond === 0) {
      response.end(part);
      return;
    }
    const step = 1 << 20;
    const closed = new Promise((resolve) => response.once("close", resolve));
    for (let begin = 0; begin < part.byteLength; begin += step) {
      const piece = part.subarray(begin, begin + step);
      const now = performance.now();
      this.wireFreeMs = Math.max(this.wireFreeMs, now - 5) + (1000 * piece.byteLength) / this.bytesPerSecond;
      const wait = this.wireFreeMs - now;
      if (wait > 1) await new Promise((wake) => setTimeout(wake, wait));
      if (response.destroyed) return;
      if (!response.write(piece))
        await Promise.race([new Promise((drained) => response.once("drain", drained)), closed]);
    }
    response.end();
  }

  json(response: ServerResponse, value: unknown, headers: Record<string, string> = {}, status = 200): void {
    response.writeHead(status, { "content-type": "application/json", ...headers }).end(JSON.stringify(value));
  }
}

/** A file as a tree lists it. */
function entryOf(path: string, bytes: Uint8Array) {
  const { byteLength: size } = bytes;
  const lfs = size < LARGE ? {} : { lfs: { oid: sha256(bytes), size, pointerSize: 134 } };
  return { type: "file", path, size, oid: gitHash(bytes), ...lfs };
}

const hashes = new WeakMap<Uint8Array, { sha256?: string; git?: string }>();

function remembered(bytes: Uint8Array, kind: "sha256" | "git", compute: () => string): string {
  const known = hashes.get(bytes) ?? {};
  hashes.set(bytes, known);
  known[kind] ??= compute();
  return known[kind];
}

export function sha256(bytes: Uint8Array): string {
  return remembered(bytes, "sha256", () => createHash("sha256").update(bytes).digest("hex"));
}

export function gitHash(bytes: Uint8Array): string {
  return remembered(bytes, "git", () =>
    createHash("sha1").update(`blob ${bytes.byteLength}\0`).update(bytes).digest("hex"),
  );
}
