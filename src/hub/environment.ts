import { readFileSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { PhysariumError } from "../errors.js";

/** What the environment says of the Hub, in the variables that Python's client reads, too. */
export interface HubEnvironment {
  /** Origin of the Hub or of a mirror, without a slash at its end. */
  readonly endpoint: string;
  /** Goes to the endpoint's origin and nowhere else; never into a message, a log or a file. */
  readonly token: string | undefined;
  /** Root of the cache that clients share. */
  readonly cacheFolder: string;
  readonly offline: boolean;
}

type Variables = Readonly<Record<string, string | undefined>>;

/**
 * Read HF_ENDPOINT, HF_TOKEN, HF_TOKEN_PATH, HF_HOME, HF_HUB_CACHE, HF_HUB_OFFLINE.
 * source: environment variables of huggingface_hub. Throws `USAGE_ENVIRONMENT` for an endpoint that is no address.
 */
export function readHubEnvironment(env: Variables = process.env): HubEnvironment {
  const home = given(env.HF_HOME) ?? join(given(env.XDG_CACHE_HOME) ?? join(homedir(), ".cache"), "huggingface");
  const endpoint = (given(env.HF_ENDPOINT) ?? "https://huggingface.co").replace(/\/+$/, "");
  if (!URL.canParse(endpoint) || !/^https?:$/.test(new URL(endpoint).protocol)) {
    throw new PhysariumError(
      "USAGE_ENVIRONMENT",
      `HF_ENDPOINT is "${endpoint}", expected an address that begins with https:// or http://`,
      { endpoint },
    );
  }
  return {
    endpoint,
    token: given(env.HF_TOKEN) ?? readToken(given(env.HF_TOKEN_PATH) ?? join(home, "token")),
    cacheFolder: given(env.HF_HUB_CACHE) ?? join(home, "hub"),
    offline: isOffline(env),
  };
}

/** HF_HUB_OFFLINE: nothing may be asked of the Hub. */
export function isOffline(env: Variables = process.env): boolean {
  return /^(1|true|yes|on)$/i.test(env.HF_HUB_OFFLINE ?? "");
}

function given(value: string | undefined): string | undefined {
  return value === undefined || value.trim() === "" ? undefined : value.trim();
}

function readToken(path: string): string | undefined {
  try {
    return given(readFileSync(path, "utf8"));
  } catch {
    // Most people have none, and public models need none.
    return undefined;
  }
}
