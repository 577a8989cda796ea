import { isPhysariumError, PhysariumError } from "../../errors.js";
import type { HubHttp, Reply } from "../http.js";

/** A file on its way into large file storage, read in pieces as often as it takes. */
export interface LfsObject {
  readonly path: string;
  /** sha256, hexadecimal. */
  readonly oid: string;
  readonly byteLength: number;
  /** Bytes `[begin, end)`. */
  read(begin: number, end: number): Promise<Uint8Array>;
}

interface Action {
  readonly href: string;
  readonly header?: Readonly<Record<string, string>>;
}

interface BatchAnswer {
  readonly objects?: readonly {
    readonly oid: string;
    readonly error?: { readonly code?: number; readonly message?: string };
    readonly actions?: { readonly upload?: Action; readonly verify?: Action };
  }[];
}

const LFS_JSON = "application/vnd.git-lfs+json";
/** Pieces of a body: small enough for memory, large enough for a wire. */
const PIECE_BYTES = 8 << 20;
/** Parts under way at once. */
const PARTS_AT_ONCE = 2;

/**
 * Upload one object: ask the batch endpoint, send it whole or in the parts it asks for, let it be verified. An object
 * that storage has already is not sent. Returns the bytes that went over the wire.
 * source: git-lfs "Batch API", and the Hub's `multipart` transfer, whose parts stand in the action's header
 *
 * Throws `HUB_*`, `STOPPED`.
 */
export async function uploadObject(
  http: HubHttp,
  repository: string,
  object: LfsObject,
  onBytes: (bytes: number) => void,
): Promise<number> {
  let told = 0;
  const tell = (bytes: number): void => {
    told += bytes;
    onBytes(bytes);
  };
  try {
    return await attemptUpload(http, repository, object, tell);
  } catch (error) {
    if (!isPhysariumError(error, "HUB_UPLOAD")) throw error;
    // A signed address may have expired, a part may have been damaged: new addresses, once.
    onBytes(-told);
    return attemptUpload(http, repository, object, onBytes);
  }
}

async function attemptUpload(
  http: HubHttp,
  repository: string,
  object: LfsObject,
  onBytes: (bytes: number) => void,
): Promise<number> {
  const { oid, byteLength: size, path } = object;
  const request = {
    operation: "upload",
    transfers: ["basic", "multipart"],
    hash_algo: "sha256",
    objects: [{ oid, size }],
  };
  const url = `${http.endpoint}/${repository}.git/info/lfs/objects/batch`;
  const headers = { accept: LFS_JSON, "content-type": LFS_JSON };
  const answer = (await http.send(url, { method: "POST", headers, body: () => JSON.stringify(request) }, jsonOf)) as
    | BatchAnswer
    | undefined;
  const found = answer?.objects?.find((each) => each.oid === oid);
  if (found === undefined) throw refused(path, "the answer to the batch does not name it");
  if (found.error !== undefined) throw refused(path, `${found.error.message ?? "no reason"} (${found.error.code})`);
  const { upload, verify } = found.actions ?? {};
  if (upload === undefined) {
    onBytes(size);
    return 0;
  }
  if (upload.header?.chunk_size !== undefined) await sendParts(http, object, upload, onBytes);
  else await sendWhole(http, object, upload, onBytes);
  if (verify !== undefined) {
    const body = () => JSON.stringify({ oid, size });
    const call = { method: "POST", headers: { ...headers, ...verify.header }, body };
    await http.send(verify.href, call, async (reply) => {
      if (reply.status >= 300) throw refused(path, `it is not whole in storage (status ${reply.status})`);
      await reply.drop();
    });
  }
  return size;
}

async function sendWhole(http: HubHttp, object: LfsObject, { href, header }: Action, onBytes: (n: number) => void) {
  async function* pieces(): AsyncGenerator<Uint8Array> {
    for (let begin = 0; begin < object.byteLength; begin += PIECE_BYTES) {
      yield await object.read(begin, Math.min(begin + PIECE_BYTES, object.byteLength));
    }
  }
  await http.put(href, { ...header }, pieces, object.byteLength, (reply) => accepted(reply, object.path));
  onBytes(object.byteLength);
}

async function sendParts(http: HubHttp, object: LfsObject, { href, header }: Action, onBytes: (n: number) => void) {
  const partBytes = Number(header?.chunk_size);
  const urls = Object.entries(header ?? {})
    .filter(([key]) => /^\d+$/.test(key))
    .sort(([a], [b]) => Number(a) - Number(b))
    .map(([, url]) => url);
  if (!(partBytes > 0) || urls.length !== Math.ceil(object.byteLength / partBytes)) {
    throw refused(object.path, `${urls.length} parts of ${header?.chunk_size} bytes are asked for, and do not fit it`);
  }
  const etags: string[] = new Array(urls.length);
  let next = 0;
  const lane = async (): Promise<void> => {
    for (let part = next++; part < urls.length; part = next++) {
      const begin = part * partBytes;
      const end = Math.min(begin + partBytes, object.byteLength);
      async function* pieces(): AsyncGenerator<Uint8Array> {
        for (let at = begin; at < end; at += PIECE_BYTES) yield await object.read(at, Math.min(at + PIECE_BYTES, end));
      }
      const etag = await http.put(urls[part], {}, pieces, end - begin, (reply) => accepted(reply, object.path));
      if (etag === undefined) throw refused(object.path, `storage gave no etag of part ${part + 1}`);
      etags[part] = etag;
      onBytes(end - begin);
    }
  };
  const failed = (await Promise.allSettled(Array.from({ length: PARTS_AT_ONCE }, lane))).find(
    (each) => each.status === "rejected",
  );
  if (failed !== undefined) throw failed.reason;
  const parts = etags.map((etag, at) => ({ partNumber: at + 1, etag }));
  const body = () => JSON.stringify({ oid: object.oid, parts });
  const call = { method: "POST", headers: { accept: LFS_JSON, "content-type": LFS_JSON }, body };
  await http.send(href, call, async (reply) => {
    if (reply.status >= 300) throw refused(object.path, `its parts were not taken together (status ${reply.status})`);
    await reply.drop();
  });
}

async function accepted(reply: Reply, path: string): Promise<string | undefined> {
  const etag = reply.header("etag");
  await reply.drop();
  if (reply.status < 300) return etag;
  throw refused(path, `storage refused it (status ${reply.status})`);
}

/** The answer of an endpoint that takes writes. Throws `HUB_TOKEN_SCOPE` where the token may not write. */
export async function jsonOf(reply: Reply): Promise<unknown> {
  if (reply.status < 300) return reply.json();
  const { status } = reply;
  const said = await reply.bytes(64 << 10).catch(() => new Uint8Array());
  if (status === 401 || status === 403) {
    throw new PhysariumError(
      "HUB_TOKEN_SCOPE",
      `${reply.url}: the Hub refused to write (${status}); set HF_TOKEN to a token with the right to write there, ` +
        "then run the same command again: what is up stays up",
      { status },
    );
  }
  const text = new TextDecoder().decode(said).slice(0, 200);
  throw new PhysariumError("HUB_ANSWER", `${reply.url}: the answer was status ${status}: ${text}`, { status });
}

function refused(path: string, fault: string): PhysariumError {
  return new PhysariumError(
    "HUB_UPLOAD",
    `${path}: the upload failed: ${fault}; run the same command again: what is up stays up`,
    { path },
  );
}
