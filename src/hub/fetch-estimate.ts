import { freeBytes } from "../output/disk-space.js";
import { filesToFetch } from "./fetch-model.js";
import { HubCache } from "./hub-cache.js";
import type { HubSource } from "./hub-source.js";

/** What fetching a model would take, by what the Hub says of its files. */
export interface FetchEstimate {
  /** 40 hexadecimal digits. */
  readonly commit: string;
  readonly files: number;
  readonly bytesTotal: number;
  /** Those that lie in the cache already, proven when they came. */
  readonly bytesCached: number;
  readonly cacheFolder: string;
  /** On the cache's disk, where that exists. */
  readonly freeBytes: number;
  /** What the look itself took over the wire. */
  readonly bytesRead: number;
  readonly answers: number;
  /** Of that look, latency and all: small answers come slower than large ones, so it is a lower bound. */
  readonly bytesPerSecond: number;
}

/**
 * What is to come and where it would lie. Nothing is fetched.
 *
 * seconds  what the look over the wire took, for the rate
 */
export async function estimateFetch({ client, snapshot }: HubSource, seconds: number): Promise<FetchEstimate> {
  const cache = new HubCache(client.environment.cacheFolder);
  const files = filesToFetch(snapshot);
  let bytesTotal = 0;
  let bytesCached = 0;
  for (const file of files) {
    bytesTotal += file.byteLength;
    if (await cache.has(snapshot.address, file)) bytesCached += file.byteLength;
  }
  const { bytes, answers } = client.traffic;
  return {
    commit: snapshot.commit,
    files: files.length,
    bytesTotal,
    bytesCached,
    cacheFolder: cache.folder,
    freeBytes: await freeBytes(cache.folder),
    bytesRead: bytes,
    answers,
    bytesPerSecond: bytes / Math.max(seconds, 1e-3),
  };
}
