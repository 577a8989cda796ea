import type { IncomingMessage, ServerResponse } from "node:http";
import { type FakeHub, LARGE, sha256 } from "./fake-hub.js";

/** Above this an upload comes in parts of this size. The Hub's own limit is gigabytes. */
const PART_BYTES = 256 << 10;

interface Commit {
  readonly summary: string;
  readonly parentCommit: string | undefined;
  readonly isPullRequest: boolean;
  readonly paths: readonly string[];
}

/** The half of the fake Hub that takes: repositories, LFS batches, parts, commits. */
export class FakeUploads {
  /** Objects in storage by sha256; an object counts once it was verified. */
  readonly objects = new Map<string, Uint8Array>();
  readonly verified = new Set<string>();
  readonly commits: Commit[] = [];
  private readonly parts = new Map<string, Map<number, Uint8Array>>();

  constructor(private readonly hub: FakeHub) {}

  /** Answers what belongs to writing; false leaves the request to the reading half. */
  answer(request: IncomingMessage, response: ServerResponse, url: URL): boolean {
    // A question by POST: mirrors ask it of every file.
    if (request.method !== "POST" || url.pathname.includes("/paths-info/")) return false;
    void bodyOf(request).then((body) => {
      if (url.pathname.startsWith("/complete/")) return this.complete(response, url, body);
      const { authorization } = request.headers;
      if (this.hub.strikes("token refused") || this.hub.writeToken === undefined) {
        return this.hub.json(response, { error: "Invalid credentials" }, {}, 401);
      }
      if (authorization !== `Bearer ${this.hub.writeToken}`) {
        const status = authorization === undefined ? 401 : 403;
        return this.hub.json(response, { error: "You don't have the rights" }, {}, status);
      }
      this.write(response, url, body);
    });
    return true;
  }

  private write(response: ServerResponse, url: URL, body: Buffer): unknown {
    const { hub } = this;
    const json = () => JSON.parse(body.toString("utf8"));
    if (url.pathname === "/api/repos/create") {
      const { name, organization, private: isPrivate } = json();
      const id = `${organization}/${name}`;
      if (hub.repositories.has(id)) return hub.json(response, { error: "exists" }, {}, 409);
      hub.repositories.set(id, { files: new Map(), commit: "1".repeat(40), private: isPrivate });
      return hub.json(response, { url: `${hub.endpoint}/${id}` });
    }
    if (url.pathname.startsWith("/verify/")) {
      const { oid } = json();
      if (!this.objects.has(oid)) return hub.json(response, { error: "no such object" }, {}, 404);
      this.verified.add(oid);
      return hub.json(response, {});
    }
    const batch = /^\/([^/]+\/[^/]+)\.git\/info\/lfs\/objects\/batch$/.exec(url.pathname);
    if (batch !== null) {
      this.batch(response, json());
      return undefined;
    }
    const api = /^\/api\/models\/([^/]+\/[^/]+)\/(preupload|commit)\/([^/]+)$/.exec(url.pathname);
    const repository = hub.repositories.get(api?.[1] ?? "");
    if (api === null || repository === undefined) return hub.json(response, { error: "not found" }, {}, 404);
    if (api[2] === "preupload") {
      const files = (json().files as { path: string; size: number }[]).map(({ path, size }) => ({
        path,
        uploadMode: size < LARGE ? "regular" : "lfs",
        shouldIgnore: false,
      }));
      return hub.json(response, { files });
    }
    return this.commit(response, api[1], url.searchParams.has("create_pr"), body.toString("utf8"));
  }

  private batch(response: ServerResponse, { objects, transfers }: LfsBatch): void {
    const { hub } = this;
    const answers = objects.map(({ oid, size }) => {
      if (this.verified.has(oid)) return { oid, size };
      const verify = { href: `${hub.endpoint}/verify/${oid}`, header: {} };
      if (size <= PART_BYTES || !transfers.includes("multipart")) {
        return {
          oid,
          size,
          actions: { upload: { href: `${hub.storageOrigin}/upload/${oid}?signature=secret` }, verify },
        };
      }
      const header: Record<string, string> = { chunk_size: `${PART_BYTES}` };
      for (let part = 1; (part - 1) * PART_BYTES < size; part++) {
        header[String(part).padStart(5, "0")] = `${hub.storageOrigin}/upload/${oid}?part=${part}&signature=secret`;
      }
      return { oid, size, actions: { upload: { href: `${hub.endpoint}/complete/${oid}`, header }, verify } };
    });
    hub.json(response, { transfer: "multipart", objects: answers });
  }

  private complete(response: ServerResponse, url: URL, body: Buffer): unknown {
    const oid = url.pathname.split("/").at(-1)!;
    const { parts } = JSON.parse(body.toString("utf8")) as { parts: { partNumber: number; etag: string }[] };
    const held = this.parts.get(oid) ?? new Map<number, Uint8Array>();
    const isRight = parts.every(({ partNumber, etag }) => {
      const part = held.get(partNumber);
      return part !== undefined && etag === `"${sha256(part)}"`;
    });
    if (!isRight) return this.hub.json(response, { error: "bad part" }, {}, 400);
    const whole = Buffer.concat(parts.map(({ partNumber }) => held.get(partNumber)!));
    if (sha256(whole) !== oid) return this.hub.json(response, { error: "bad hash" }, {}, 400);
    this.objects.set(oid, whole);
    return this.hub.json(response, {});
  }

  /** Bodies that go to storage: an object whole, or a part of one. */
  store(request: IncomingMessage, response: ServerResponse, url: URL): boolean {
    if (request.method !== "PUT") return false;
    void bodyOf(request).then((body) => {
      const oid = url.pathname.split("/").at(-1)!;
      const part = url.searchParams.get("part");
      if (part !== null && this.hub.strikes("rejected part")) return response.writeHead(400).end();
      if (part !== null) {
        const held = this.parts.get(oid) ?? new Map<number, Uint8Array>();
        held.set(Number(part), body);
        this.parts.set(oid, held);
      } else if (sha256(body) !== oid) return response.writeHead(400).end();
      else if (!this.hub.strikes("lost upload")) this.objects.set(oid, body);
      response.writeHead(200, { etag: `"${sha256(body)}"` }).end();
    });
    return true;
  }

  private commit(response: ServerResponse, name: string, isPullRequest: boolean, text: string): unknown {
    const { hub } = this;
    const repository = hub.repositories.get(name)!;
    if (hub.strikes("parent moves")) hub.commit(name, new Map([...repository.files, ["other.txt", Buffer.from("x")]]));
    const lines = text
      .trimEnd()
      .split("\n")
      .map((line) => JSON.parse(line) as { key: string; value: Record<string, string> });
    const header = lines.find(({ key }) => key === "header")!.value;
    if (header.parentCommit !== undefined && header.parentCommit !== repository.commit) {
      return hub.json(response, { error: "The parent commit is not the head" }, {}, 412);
    }
    const files = new Map(repository.files);
    for (const { key, value } of lines) {
      if (key === "file") files.set(value.path, Buffer.from(value.content, "base64"));
      if (key === "lfsFile") {
        if (!this.verified.has(value.oid)) return hub.json(response, { error: `${value.oid} is not there` }, {}, 422);
        files.set(value.path, this.objects.get(value.oid)!);
      }
    }
    const paths = lines.filter(({ key }) => key !== "header").map(({ value }) => value.path);
    this.commits.push({ summary: header.summary, parentCommit: header.parentCommit, isPullRequest, paths });
    if (isPullRequest) {
      const commitOid = "2".repeat(40);
      repository.history ??= new Map();
      repository.history.set(commitOid, files);
      const pullRequestUrl = `${hub.endpoint}/${name}/discussions/1`;
      return hub.json(response, { success: true, commitOid, commitUrl: pullRequestUrl, pullRequestUrl });
    }
    const commitOid = hub.commit(name, files);
    return hub.json(response, { success: true, commitOid, commitUrl: `${hub.endpoint}/${name}/commit/${commitOid}` });
  }
}

interface LfsBatch {
  readonly objects: readonly { readonly oid: string; readonly size: number }[];
  readonly transfers: readonly string[];
}

async function bodyOf(request: IncomingMessage): Promise<Buffer> {
  const pieces: Buffer[] = [];
  for await (const piece of request) pieces.push(piece as Buffer);
  return Buffer.concat(pieces);
}
