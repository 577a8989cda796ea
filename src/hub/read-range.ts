import { PhysariumError } from "../errors.js";
import type { HubClient, HubFile, HubSnapshot } from "./hub-client.js";

/** A connection that brought less before it broke brought nothing: a server may drip for ever. */
const LITTLE_BYTES = 64 << 10;
const BARREN_TRIES = 5;

/**
 * Bytes `[begin, end)` of a file, in order and each once: a connection that breaks is taken up where it broke, as long
 * as each brings something. Throws `HUB_*`, `STOPPED`, and what `take` throws.
 */
export async function readRange(
  client: HubClient,
  snapshot: HubSnapshot,
  file: HubFile,
  { begin, end }: { readonly begin: number; readonly end: number },
  take: (piece: Uint8Array) => void | Promise<void>,
  signal?: AbortSignal,
): Promise<void> {
  let at = begin;
  for (let barren = 0; at < end; ) {
    const before = at;
    try {
      const read = async (pieces: AsyncIterable<Uint8Array>): Promise<void> => {
        if (at !== before) throw new Broken();
        for await (const piece of pieces) {
          await take(piece);
          at += piece.byteLength;
        }
      };
      await client.range(snapshot, file, at, end, read, signal);
    } catch (error) {
      if (!(error instanceof Broken)) throw error;
    }
    barren = at - before < LITTLE_BYTES && at < end ? barren + 1 : 0;
    if (barren > BARREN_TRIES)
      throw new PhysariumError("HUB_STALLED", `${file.path}: nothing more came; run the command again`, {});
  }
}

/** A second try must ask for what is left, not for the first one's range. */
class Broken extends PhysariumError {
  constructor() {
    super("HUB_BROKEN", "the connection broke; the rest is asked for anew");
  }
}
