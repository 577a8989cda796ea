import { createHash } from "node:crypto";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

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
  | "path escape";

export interface FakeRepository {
  readonly files: ReadonlyMap<string, Uint8Array>;
  readonly commit: string;
  readonly branches?: Record<string, string>;
  readonly gated?: boolean;
  readonly token?: string;
}

/** Files of this size and over lie in large file storage, as on the Hub. */
const LARGE = 4096;

/**
 * A Hub in this process: the three endpoints, large files behind a redirect to another origin, and everything that may
 * go wrong.
 */
export class FakeHub {
  readonly repositories = new Map<string, FakeRepository>();
  /** Every request: where it went and with what token. */
  readonly requests: {
    url: string;
    authorization: string | undefined;
    range: string | undefined;
    origin: "hub" | "storage";
  }[] = [];
  private readonly hostile = new Map<HostileMode, number>();
  pageSize = 1000;
  private hub!: Server;
  private storage!: Server;

  static async start(): Promise<FakeHub> {
    const fake = new FakeHub();
    fake.hub = createServer((request, response) => fake.answer(request, response));
    fake.storage = createServer((request, response) => fake.store(request, response));
    for (const server of [fake.hub, fake.storage]) {
      await new Promise<void>((ready) => server.listen(0, "127.0.0.1", ready));
    }
    return fake;
  }

  get endpoint(): string {
    return `http://127.0.0.1:${(this.hub.address() as AddressInfo).port}`;
  }

  private get storageOrigin(): string {
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

  private strikes(mode: HostileMode): boolean {
    const left = this.hostile.get(mode) ?? 0;
    if (left === 0) return false;
    this.hostile.set(mode, left - 1);
    return true;
  }

  private note(request: IncomingMessage, origin: "hub" | "storage"): void {
    const { authorization, range } = request.headers;
    this.requests.push({ url: request.url ?? "", authorization, range, origin });
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
    const api = /^\/api\/models\/([^/]+\/[^/]+)\/(revision|tree)\/([^/]+)(?:\/(.*))?$/.exec(url.pathname);
    const resolve = /^\/([^/]+\/[^/]+)\/resolve\/([^/]+)\/(.+)$/.exec(url.pathname);
    const name = api?.[1] ?? resolve?.[1] ?? "";
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
    const revision = decodeURIComponent(api?.[3] ?? resolve?.[2] ?? "");
    const commit =
      revision === repository.commit ? revision : { main: repository.commit, ...repository.branches }[revision];
    if (commit === undefined) {
      response.writeHead(404, { "x-error-code": "RevisionNotFound" }).end();
      return;
    }
    if (api?.[2] === "revision") this.json(response, { id: name, sha: commit });
    else if (api?.[2] === "tree") this.tree(response, repository, url, decodeURIComponent(api[4] ?? ""));
    else this.file(request, response, repository, decodeURIComponent(resolve![3]));
  }

  private tree(response: ServerResponse, { files }: FakeRepository, url: URL, folder: string): void {
    const entries = [...files]
      .filter(([path]) => folder === "" || path.startsWith(`${folder}/`))
      .map(([path, bytes]) => ({
        type: "file",
        path,
        size: bytes.byteLength,
        oid: gitHash(bytes),
        ...(bytes.byteLength < LARGE ? {} : { lfs: { oid: sha256(bytes), size: bytes.byteLength } }),
      }));
    if (this.strikes("path escape")) entries[0] = { ...entries[0], path: "../../outside" };
    const page = Number(url.searchParams.get("page") ?? "0");
    const shown = entries.slice(page * this.pageSize, (page + 1) * this.pageSize);
    const isLast = (page + 1) * this.pageSize >= entries.length;
    url.searchParams.set("page", `${page + 1}`);
    this.json(response, shown, isLast ? {} : { link: `<${url.href}>; rel="next"` });
  }

  private file(request: IncomingMessage, response: ServerResponse, { files }: FakeRepository, path: string): void {
    const bytes = files.get(path);
    if (bytes === undefined) {
      response.writeHead(404, { "x-error-code": "EntryNotFound" }).end();
      return;
    }
    if (bytes.byteLength < LARGE) {
      this.bytes(request, response, bytes, gitHash(bytes));
      return;
    }
    const expired = this.strikes("expired address") ? "&expired=1" : "";
    response
      .writeHead(302, {
        location: `${this.storageOrigin}/blob?path=${encodeURIComponent(path)}&signature=secret${expired}`,
      })
      .end();
  }

  /** Storage behind signed addresses: it has files by path, of all repositories. */
  private store(request: IncomingMessage, response: ServerResponse): void {
    this.note(request, "storage");
    const url = new URL(request.url ?? "/", this.storageOrigin);
    if (url.searchParams.has("expired")) {
      response.writeHead(403).end();
      return;
    }
    const path = url.searchParams.get("path") ?? "";
    const bytes = [...this.repositories.values()]
      .map(({ files }) => files.get(path))
      .find((each) => each !== undefined);
    if (bytes === undefined) response.writeHead(404).end();
    else this.bytes(request, response, bytes, sha256(bytes));
  }

  private bytes(request: IncomingMessage, response: ServerResponse, whole: Uint8Array, etag: string): void {
    const range = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? "");
    if (range === null || this.strikes("ignore range")) {
      response.writeHead(200, { "content-length": whole.byteLength, etag: `"${etag}"` }).end(whole);
      return;
    }
    const [begin, end] = [Number(range[1]), Number(range[2]) + 1];
    const part = Uint8Array.from(whole.subarray(begin, end));
    if (this.strikes("flip a byte")) part[part.byteLength >> 1] ^= 1;
    const tag = this.strikes("wrong etag") ? `"${"0".repeat(40)}"` : `"${etag}"`;
    response.writeHead(206, {
      "content-length": part.byteLength,
      "content-range": `bytes ${begin}-${end - 1}/${whole.byteLength}`,
      etag: tag,
    });
    if (this.strikes("drop mid-range")) {
      response.write(part.subarray(0, part.byteLength >> 1), () => setTimeout(() => response.destroy(), 20));
      return;
    }
    if (this.strikes("slow drip")) {
      response.write(part.subarray(0, 1));
      return;
    }
    response.end(part);
  }

  private json(response: ServerResponse, value: unknown, headers: Record<string, string> = {}): void {
    response.writeHead(200, { "content-type": "application/json", ...headers }).end(JSON.stringify(value));
  }
}

export function sha256(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}

export function gitHash(bytes: Uint8Array): string {
  return createHash("sha1").update(`blob ${bytes.byteLength}\0`).update(bytes).digest("hex");
}
