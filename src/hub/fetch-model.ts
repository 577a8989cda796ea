import { mkdir, readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { isPhysariumError, PhysariumError, refuseStopped } from "../errors.js";
import { freeBytes } from "../output/disk-space.js";
import { type Lock, takeLock } from "../output/lock.js";
import { formatHubAddress, type HubAddress } from "./address.js";
import { HubCache } from "./hub-cache.js";
import { HubClient, type HubFile, type HubSnapshot } from "./hub-client.js";
import { readRange } from "./read-range.js";

export interface FetchOptions {
  readonly client?: HubClient;
  readonly signal?: AbortSignal;
  readonly onProgress?: (bytesDone: number, bytesTotal: number, file: string) => void;
}

export interface FetchedModel {
  /** The model folder in the cache: links to proven blobs. */
  readonly folder: string;
  readonly commit: string;
  readonly files: number;
  readonly bytesTotal: number;
  /** What had to come over the wire in this run. */
  readonly bytesFetched: number;
}

const FILES_AT_ONCE = 4;
const LOCK_WAIT_MS = 250;

/** Weights in other formats, and folders that hold them: a model in safetensors form needs none of it. */
const OTHER_WEIGHTS =
  /\.(bin|pth?|ckpt|gguf|ggml|h5|msgpack|onnx|onnx_data|npz|tflite|mlmodel|ot)$|^(onnx|original|openvino)\//i;

const CONSOLIDATED = /(^|\/)consolidated[^/]*\.safetensors$/i;

/**
 * Fetch a model into the cache: every file checked against the hash that the Hub states, what is there already left
 * alone, what is half there gone on with.
 * Throws `HUB_*`, `IO_*`, `USAGE_DISK_SPACE`, `STOPPED`.
 */
export async function fetchModel(address: HubAddress, options: FetchOptions = {}): Promise<FetchedModel> {
  const { client = new HubClient() } = options;
  const cache = new HubCache(client.environment.cacheFolder);
  if (client.environment.offline) return offlineModel(address, cache);
  const snapshot = await client.snapshot(address);
  return fetchFiles(client, cache, snapshot, filesToFetch(snapshot), options);
}

/**
 * Fetch the one file that an address names behind its repository, a text of a dataset for one; returns where it lies in
 * the cache. Throws `USAGE_HUB_ADDRESS` where it names none, and what `fetchModel` throws.
 */
export async function fetchFileAt(address: HubAddress, options: FetchOptions = {}): Promise<string> {
  const { client = new HubClient() } = options;
  const cache = new HubCache(client.environment.cacheFolder);
  const path = address.subfolder;
  const name = formatHubAddress(address);
  if (path === "") {
    throw new PhysariumError("USAGE_HUB_ADDRESS", `${name}: name a file of it, as ${name}/train.txt`, {
      address: name,
    });
  }
  const placeOf = (commit: string) => join(cache.snapshotFolder(address, commit), ...path.split("/"));
  if (client.environment.offline) {
    const commit = await cache.knownCommit(address);
    const isThere = commit !== undefined && (await stat(placeOf(commit)).catch(() => undefined)) !== undefined;
    if (isThere) return placeOf(commit);
    throw new PhysariumError("HUB_OFFLINE", `${name}: HF_HUB_OFFLINE is set and the cache does not hold it`, { path });
  }
  const folder = path.split("/").slice(0, -1).join("/");
  const snapshot = await client.snapshot({ ...address, subfolder: folder });
  const file = snapshot.files.find((each) => each.path === path);
  if (file === undefined) throw new PhysariumError("HUB_NOT_FOUND", `${name}: there is no such file`, { path });
  await fetchFiles(client, cache, snapshot, [file], options);
  return placeOf(snapshot.commit);
}

async function fetchFiles(
  client: HubClient,
  cache: HubCache,
  snapshot: HubSnapshot,
  files: readonly HubFile[],
  { signal, onProgress = () => {} }: FetchOptions,
): Promise<FetchedModel> {
  const { address } = snapshot;
  const missing: HubFile[] = [];
  for (const file of files) if (!(await cache.has(address, file))) missing.push(file);
  const bytesTotal = files.reduce((sum, file) => sum + file.byteLength, 0);
  const bytesMissing = missing.reduce((sum, file) => sum + file.byteLength, 0);
  await mkdir(cache.folder, { recursive: true });
  const free = await freeBytes(cache.folder);
  if (free < bytesMissing) {
    throw new PhysariumError(
      "USAGE_DISK_SPACE",
      `${cache.folder}: ${bytesMissing} bytes are to come, the disk has ${free} free; free some space, or set ` +
        "HF_HUB_CACHE to another disk",
      { bytesMissing, free },
    );
  }
  let done = bytesTotal - bytesMissing;
  onProgress(done, bytesTotal, "");
  const queue = [...missing];
  // One file that cannot be had ends the others: nobody waits for gigabytes to hear of it.
  const failure = new AbortController();
  const either = AbortSignal.any([failure.signal, ...(signal === undefined ? [] : [signal])]);
  const take = async (): Promise<void> => {
    for (let file = queue.shift(); file !== undefined; file = queue.shift()) {
      const { path } = file;
      try {
        await fetchFile(client, cache, snapshot, file, either, (bytes) => {
          done += bytes;
          onProgress(done, bytesTotal, path);
        });
      } catch (error) {
        failure.abort(error);
        throw error;
      }
    }
  };
  await Promise.allSettled(Array.from({ length: FILES_AT_ONCE }, take));
  // The reason of the first is what happened; the others were stopped by it.
  if (failure.signal.aborted) throw failure.signal.reason;
  for (const file of files) await cache.link(snapshot, file);
  await cache.remember(snapshot);
  return {
    folder: join(cache.snapshotFolder(address, snapshot.commit), ...address.subfolder.split("/")),
    commit: snapshot.commit,
    files: files.length,
    bytesTotal,
    bytesFetched: bytesMissing,
  };
}

/** The files of a snapshot that a model in safetensors form is made of. Throws `HUB_NOT_FOUND` where there are none. */
export function filesToFetch({ address, files }: HubSnapshot): HubFile[] {
  const needed = files.filter(({ path }) => !OTHER_WEIGHTS.test(path));
  // The same weights once more, in their maker's own layout.
  const isWhole = needed.some(({ path }) => /(^|\/)model\.safetensors(\.index\.json)?$/.test(path));
  const wanted = needed.filter(({ path }) => !isWhole || !CONSOLIDATED.test(path));
  if (wanted.length > 0) return wanted;
  throw new PhysariumError("HUB_NOT_FOUND", `${formatHubAddress(address)}: there is no file of a model here`, {});
}

/** One file; a second process that wants it waits for the first. A wrong hash is thrown away and fetched once more. */
async function fetchFile(
  client: HubClient,
  cache: HubCache,
  snapshot: HubSnapshot,
  file: HubFile,
  signal: AbortSignal,
  onBytes: (bytes: number) => void,
): Promise<void> {
  const { address } = snapshot;
  const locks = join(cache.folder, ".locks", cache.repositoryFolder(address).split(/[\\/]/).at(-1)!);
  await mkdir(locks, { recursive: true });
  const lock = await waitForLock(join(locks, `${file.hash.hex}.physarium`), signal);
  try {
    if (await cache.has(address, file)) return onBytes(file.byteLength);
    const blob = await cache.openIncomplete(address, file);
    try {
      onBytes(blob.byteLength);
      for (let round = 0; ; round++) {
        const rest = { begin: blob.byteLength, end: file.byteLength };
        const take = async (piece: Uint8Array): Promise<void> => {
          await blob.append(piece);
          onBytes(piece.byteLength);
        };
        await readRange(client, snapshot, file, rest, take, signal);
        if (blob.isProven()) break;
        if (round === 1) {
          throw new PhysariumError(
            "HUB_HASH",
            `${formatHubAddress(address)}: "${file.path}" came twice with another hash than the Hub states; a ` +
              "proxy or mirror may alter it, nothing of it was kept",
            { path: file.path, expected: file.hash.hex },
          );
        }
        onBytes(-blob.byteLength);
        await blob.restart();
      }
      await blob.commit();
    } catch (error) {
      if (error instanceof PhysariumError && error.code === "HUB_HASH") await blob.restart();
      throw error;
    } finally {
      await blob.close();
    }
  } finally {
    await lock.release();
  }
}

/** Python's client locks by a file of the same folder whose mere presence says nothing: ours has a name of its own. */
async function waitForLock(path: string, signal: AbortSignal): Promise<Lock> {
  for (;;) {
    refuseStopped(signal);
    try {
      return await takeLock(path);
    } catch (error) {
      if (!isPhysariumError(error, "USAGE_LOCKED")) throw error;
      await new Promise((wake) => setTimeout(wake, LOCK_WAIT_MS));
    }
  }
}

/** What the cache holds of a model where nothing may be asked. */
async function offlineModel(address: HubAddress, cache: HubCache): Promise<FetchedModel> {
  const commit = await cache.knownCommit(address);
  const folder = commit === undefined ? undefined : join(cache.snapshotFolder(address, commit), address.subfolder);
  const sizes = folder === undefined ? [] : await sizesIn(folder);
  if (commit === undefined || folder === undefined || sizes.length === 0) {
    throw new PhysariumError(
      "HUB_OFFLINE",
      `${formatHubAddress(address)}: HF_HUB_OFFLINE is set and the cache (${cache.folder}) does not hold it; unset ` +
        "it and run physarium fetch",
      { cache: cache.folder },
    );
  }
  const bytesTotal = sizes.reduce((sum, size) => sum + size, 0);
  return { folder, commit, files: sizes.length, bytesTotal, bytesFetched: 0 };
}

/** Lengths of the files that a snapshot's links lead to; a link to nothing is for whoever opens the model to name. */
async function sizesIn(folder: string): Promise<number[]> {
  const names = await readdir(folder).catch(() => []);
  const found = await Promise.all(names.map((name) => stat(join(folder, name)).catch(() => undefined)));
  return found.map((each) => each?.size ?? 0);
}
