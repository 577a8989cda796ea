import { type Donor, openDonor } from "../checkpoint/donor.js";
import { isPhysariumError, PhysariumError } from "../errors.js";
import { type HubAddress, parseHubAddress } from "../hub/address.js";
import { readHubEnvironment } from "../hub/environment.js";
import { estimateFetch, type FetchEstimate } from "../hub/fetch-estimate.js";
import { type FetchedModel, type FetchOptions, fetchFileAt, fetchModel } from "../hub/fetch-model.js";
import { HubClient } from "../hub/hub-client.js";
import { HubSource } from "../hub/hub-source.js";
import { createProgress, type ProgressStyle } from "./progress.js";
import { heardBy } from "./stop-signal.js";

// Imported where an address is given and nowhere else: the HTTP library takes memory of its own when it is loaded.

/** Fetch the model of an address into the cache, or find it there, with progress; Ctrl-C keeps what has come. */
export async function fetchWithProgress(text: string, style: ProgressStyle): Promise<FetchedModel> {
  return fetching(text, style, fetchModel);
}

/** The file of an address, in the cache; the same. */
export function fetchTextWithProgress(text: string, style: ProgressStyle): Promise<string> {
  return fetching(text, style, fetchFileAt);
}

async function fetching<T>(
  text: string,
  style: ProgressStyle,
  fetch: (address: HubAddress, options: FetchOptions) => Promise<T>,
): Promise<T> {
  const address = parseHubAddress(text);
  const progress = createProgress(`fetching ${text}`, style);
  try {
    return await heardBy((signal) => {
      const client = new HubClient(readHubEnvironment(), { signal, onRetry: (line) => progress.note(line) });
      const onProgress = (done: number, total: number, file: string) => progress.update(done, total, file);
      return fetch(address, { client, signal, onProgress });
    });
  } catch (error) {
    if (!isPhysariumError(error, "STOPPED")) throw error;
    const words = `${text}: stopped; what has come is kept in the cache, and the same command goes on from there`;
    throw new PhysariumError("STOPPED", words, {}, error);
  } finally {
    progress.stop();
  }
}

/** The donor of an address by its config, index and headers, and what fetching the rest would take. */
export async function lookOverTheWire(
  text: string,
  style: ProgressStyle,
): Promise<{ donor: Donor; fetch: FetchEstimate }> {
  const progress = createProgress(`reading headers of ${text}`, style);
  try {
    const client = new HubClient(readHubEnvironment(), { onRetry: (line) => progress.note(line) });
    const source = await HubSource.open(parseHubAddress(text), client);
    const started = performance.now();
    const donor = await openDonor(source);
    return { donor, fetch: await estimateFetch(source, (performance.now() - started) / 1000) };
  } finally {
    progress.stop();
  }
}

/** The donor of an address whose bytes are read where they lie; `signal` ends every read. */
export async function openOverTheWire(
  text: string,
  signal: AbortSignal,
  onRetry: (line: string) => void,
): Promise<Donor> {
  const client = new HubClient(readHubEnvironment(), { signal, onRetry });
  return openDonor(await HubSource.open(parseHubAddress(text), client));
}
