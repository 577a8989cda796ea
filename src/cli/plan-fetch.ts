import { printable } from "../errors.js";
import type { FetchEstimate } from "../hub/fetch-estimate.js";
import type { Plan } from "../surgery/plan.js";
import { duration } from "./progress.js";

/** What a plan says of a model that is still on the Hub. */
export function fetchLines(fetch: FetchEstimate, { bytesToWrite }: Plan): string[] {
  const n = (value: number) => value.toLocaleString("en-US");
  const toFetch = fetch.bytesTotal - fetch.bytesCached;
  return [
    `fetch     ${n(toFetch)} bytes of ${n(fetch.bytesTotal)} in ${n(fetch.files)} files, at commit ${fetch.commit}` +
      (fetch.bytesCached === 0 ? "" : `; ${n(fetch.bytesCached)} lie in the cache`),
    `disk      ${n(toFetch)} bytes in the cache (${printable(fetch.cacheFolder)}, ${n(fetch.freeBytes)} free) and ` +
      `${n(bytesToWrite)} for the output; with surgery --stream those of the output alone`,
    `wire      ${n(fetch.bytesRead)} bytes in ${n(fetch.answers)} answers were read, config, index and headers: ` +
      "nothing downloaded",
  ];
}

export function fetchTime({ bytesPerSecond, bytesRead }: FetchEstimate, seconds: number): string {
  const rate = `${(bytesPerSecond / 1e6).toFixed(2)} MB/s over those ${bytesRead.toLocaleString("en-US")} bytes`;
  return `time      about ${duration(seconds)} to fetch at the measured rate, ${rate}; large reads are often faster`;
}

export function fetchJson(fetch: FetchEstimate | undefined) {
  if (fetch === undefined) return {};
  return {
    hub: {
      commit: fetch.commit,
      files: fetch.files,
      bytes_total: fetch.bytesTotal,
      bytes_cached: fetch.bytesCached,
      bytes_to_fetch: fetch.bytesTotal - fetch.bytesCached,
      cache: fetch.cacheFolder,
      cache_free_bytes: fetch.freeBytes,
      bytes_read: fetch.bytesRead,
      answers: fetch.answers,
      bytes_per_second: fetch.bytesPerSecond,
      nothing_downloaded: true,
    },
  };
}
