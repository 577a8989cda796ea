import { setTimeout as sleep } from "node:timers/promises";
import { EnvHttpProxyAgent, fetch, type Response } from "undici";
import { PhysariumError, refuseStopped } from "../errors.js";
import { PHYSARIUM_VERSION } from "../version.js";
import type { HubEnvironment } from "./environment.js";

export type { Response };

/** What is sent. */
export interface Call {
  readonly method?: string;
  readonly headers: Record<string, string>;
  readonly body?: () => string | AsyncIterable<Uint8Array>;
}

export interface HttpOptions {
  readonly signal?: AbortSignal;
  /** Milliseconds without a byte until a read counts as stalled. */
  readonly stallMs?: number;
  /** Milliseconds before the second try; doubles from try to try. Tests make it short. */
  readonly firstDelayMs?: number;
  readonly tries?: number;
  /** Called before each wait. */
  readonly onRetry?: (line: string) => void;
}

const DEFAULTS = { stallMs: 30_000, firstDelayMs: 500, tries: 6 };
/** The longest wait that a server may ask for: longer ones are better told to the user. */
const MAX_WAIT_MS = 120_000;
const MAX_REDIRECTS = 5;
const WORTH_A_RETRY = new Set([408, 429, 500, 502, 503, 504]);

let proxies: EnvHttpProxyAgent | undefined;

/**
 * Requests to the Hub: proxies from the environment, redirects by hand so that the token stays with the endpoint's
 * origin, retries with growing pauses that honour `Retry-After` and `RateLimit`, a limit on silence.
 */
export class HubHttp {
  /** Where large files turned out to lie: signed addresses in storage, good for some minutes. */
  private readonly signed = new Map<string, string>();
  private readonly options: Required<Omit<HttpOptions, "signal" | "onRetry">> & HttpOptions;

  constructor(
    private readonly environment: HubEnvironment,
    options: HttpOptions = {},
  ) {
    this.options = { ...DEFAULTS, ...options };
  }

  get endpoint(): string {
    return this.environment.endpoint;
  }

  /**
   * GET `url` and hand its response to `read`, all of it once more where the connection or the server failed. `read`
   * must take the body whole, or throw. Throws `HUB_*`, `STOPPED`, and what `read` throws.
   */
  get<T>(
    url: string,
    headers: Record<string, string>,
    read: (reply: Reply) => Promise<T>,
    signal = this.options.signal,
  ): Promise<T> {
    return this.send(url, { headers }, read, signal);
  }

  /** The same for any method; a body is asked for anew for every try. */
  async send<T>(url: string, call: Call, read: (reply: Reply) => Promise<T>, signal = this.options.signal): Promise<T> {
    if (this.environment.offline) {
      throw new PhysariumError(
        "HUB_OFFLINE",
        `${url}: HF_HUB_OFFLINE is set and this is not in the cache; unset it, or fetch the model first`,
        { url: withoutQuery(url) },
      );
    }
    let lastFault = "";
    for (let round = 0; round < this.options.tries; round++) {
      const watch = new Watch(this.options.stallMs, signal);
      let wait = this.options.firstDelayMs * 2 ** round * (0.5 + Math.random());
      try {
        const response = await this.follow(url, call, watch);
        if (!WORTH_A_RETRY.has(response.status)) return await read(new Reply(response, withoutQuery(url), watch));
        lastFault = `status ${response.status}`;
        const asked = askedWait(response);
        await response.body?.cancel().catch(() => {});
        if (asked !== undefined && asked > MAX_WAIT_MS) {
          throw new PhysariumError(
            "HUB_RATE",
            `${withoutQuery(url)}: the Hub asks to wait ${Math.ceil(asked / 1000)} s; run the command again then, ` +
              "with a token for a higher limit",
            { waitSeconds: asked / 1000 },
          );
        }
        if (asked !== undefined) wait = asked + Math.random() * this.options.firstDelayMs;
      } catch (error) {
        if (error instanceof PhysariumError) {
          if (error.code !== "HUB_STALLED") throw error;
          lastFault = "a stall";
        } else {
          watch.refuseStopped();
          lastFault = watch.stalled ? "a stall" : causeOf(error);
        }
      } finally {
        watch.stop();
      }
      if (round + 1 === this.options.tries) break;
      this.options.onRetry?.(`${withoutQuery(url)}: ${lastFault}; trying again in ${(wait / 1000).toFixed(1)} s`);
      await pause(wait, signal);
    }
    throw this.givenUp(url, lastFault);
  }

  /** PUT a body of known length that comes in pieces; `pieces` gives it from its beginning, once for every try. */
  put<T>(
    url: string,
    headers: Record<string, string>,
    pieces: () => AsyncIterable<Uint8Array>,
    byteLength: number,
    read: (reply: Reply) => Promise<T>,
    signal = this.options.signal,
  ): Promise<T> {
    const call = { method: "PUT", headers: { ...headers, "content-length": String(byteLength) }, body: pieces };
    return this.send(url, call, read, signal);
  }

  private givenUp(url: string, fault: string): PhysariumError {
    const where = withoutQuery(url);
    const { tries } = this.options;
    if (fault === "a stall") {
      const seconds = this.options.stallMs / 1000;
      return new PhysariumError(
        "HUB_STALLED",
        `${where}: no byte came for ${seconds} s, ${tries} times; see the connection, then run the same command ` +
          "again: it goes on from what is here",
        { url: where },
      );
    }
    if (fault === "status 429") {
      return new PhysariumError(
        "HUB_RATE",
        `${where}: the Hub refused ${tries} tries as too many requests; wait some minutes, then run the same ` +
          "command again",
        { url: where },
      );
    }
    return new PhysariumError(
      "HUB_UNREACHABLE",
      `${where}: ${tries} tries failed, the last with ${fault}; see the connection, HF_ENDPOINT and the proxy, ` +
        "then run the same command again",
      { url: where },
    );
  }

  /**
   * Follow redirects, from where a file lay the last time; an expired signed address is asked for once more at its
   * origin.
   */
  private async follow(url: string, { headers, method = "GET", body }: Call, watch: Watch): Promise<Response> {
    let renewed = false;
    let next = this.signed.get(url) ?? url;
    for (let hops = 0; hops <= MAX_REDIRECTS; hops++) {
      const isHome = new URL(next).origin === new URL(this.endpoint).origin;
      const { token } = this.environment;
      const response = await fetch(next, {
        method,
        ...(body === undefined ? {} : { body: watched(body(), watch), duplex: "half" as const }),
        headers: {
          "user-agent": `physarium/${PHYSARIUM_VERSION}`,
          ...headers,
          ...(isHome && token !== undefined ? { authorization: `Bearer ${token}` } : {}),
        },
        redirect: "manual",
        signal: watch.signal,
        dispatcher: agent(),
      });
      watch.touch();
      const location = response.headers.get("location");
      if ([301, 302, 303, 307, 308].includes(response.status) && location !== null) {
        await response.body?.cancel().catch(() => {});
        next = new URL(location, next).href;
        continue;
      }
      if ([401, 403, 404, 410].includes(response.status) && !isHome && !renewed) {
        await response.body?.cancel().catch(() => {});
        this.signed.delete(url);
        renewed = true;
        next = url;
        hops = 0;
        continue;
      }
      if (!isHome && response.status === 206) this.signed.set(url, next);
      return response;
    }
    throw new PhysariumError("HUB_UNREACHABLE", `${withoutQuery(url)}: over ${MAX_REDIRECTS} redirects`, {
      url: withoutQuery(url),
    });
  }
}

/** A body that goes out is a sign of life for every piece that the wire took. */
function watched(body: string | AsyncIterable<Uint8Array>, watch: Watch): string | AsyncIterable<Uint8Array> {
  if (typeof body === "string") return body;
  return (async function* () {
    for await (const piece of body) {
      watch.touch();
      yield piece;
    }
  })();
}

/** A response whose body is read under the watch for stalls. */
export class Reply {
  constructor(
    private readonly response: Response,
    /** Without its query: signed addresses hold secrets there. */
    readonly url: string,
    private readonly watch: Watch,
  ) {}

  get status(): number {
    return this.response.status;
  }

  header(name: string): string | undefined {
    return this.response.headers.get(name) ?? undefined;
  }

  /** The body piece by piece. Throws `HUB_STALLED`. */
  async *pieces(): AsyncGenerator<Uint8Array> {
    const { body } = this.response;
    if (body === null) return;
    for await (const piece of body) {
      this.watch.touch();
      yield piece as Uint8Array;
    }
  }

  /** The body whole; over `maxByteLength` it is refused. */
  async bytes(maxByteLength: number): Promise<Uint8Array> {
    const pieces: Uint8Array[] = [];
    let byteLength = 0;
    for await (const piece of this.pieces()) {
      byteLength += piece.byteLength;
      if (byteLength > maxByteLength) {
        throw new PhysariumError("HUB_ANSWER", `${this.url}: the answer has over ${maxByteLength} bytes`, {});
      }
      pieces.push(piece);
    }
    return Buffer.concat(pieces);
  }

  async json(): Promise<unknown> {
    const text = new TextDecoder().decode(await this.bytes(64 << 20));
    try {
      return JSON.parse(text);
    } catch (error) {
      throw new PhysariumError(
        "HUB_ANSWER",
        `${this.url}: the answer is no JSON (it begins with "${text.slice(0, 40)}"); is HF_ENDPOINT right?`,
        {},
        error,
      );
    }
  }

  /** Let go of a body that nobody reads. */
  async drop(): Promise<void> {
    await this.response.body?.cancel().catch(() => {});
  }
}

/** Ends a request that was stopped, or from which nothing has come for too long. */
class Watch {
  private readonly controller = new AbortController();
  private timer: NodeJS.Timeout | undefined;
  stalled = false;
  private readonly onStop = () => this.controller.abort();

  constructor(
    private readonly stallMs: number,
    private readonly outer: AbortSignal | undefined,
  ) {
    outer?.addEventListener("abort", this.onStop);
    this.refuseStopped();
    this.touch();
  }

  get signal(): AbortSignal {
    return this.controller.signal;
  }

  touch(): void {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      this.stalled = true;
      this.controller.abort();
    }, this.stallMs);
  }

  refuseStopped(): void {
    refuseStopped(this.outer);
  }

  stop(): void {
    clearTimeout(this.timer);
    this.outer?.removeEventListener("abort", this.onStop);
  }
}

/**
 * Milliseconds that a server asks for: `Retry-After` in seconds or as a date, or the reset of `RateLimit`
 * (r=0;t=seconds).
 */
function askedWait(response: Response): number | undefined {
  const after = response.headers.get("retry-after");
  if (after !== null) {
    const seconds = Number(after);
    if (Number.isFinite(seconds)) return Math.max(0, seconds * 1000);
    const date = Date.parse(after);
    if (Number.isFinite(date)) return Math.max(0, date - Date.now());
  }
  const reset = /(?:^|[;,\s])t=(\d+)/.exec(response.headers.get("ratelimit") ?? "")?.[1];
  return reset === undefined || response.status !== 429 ? undefined : Number(reset) * 1000;
}

function agent(): EnvHttpProxyAgent {
  proxies ??= new EnvHttpProxyAgent();
  return proxies;
}

/** A signed address carries its secret in the query. */
export function withoutQuery(url: string): string {
  return url.replace(/[?#].*$/s, "");
}

function causeOf(error: unknown): string {
  const { cause, message } = error as Error & { cause?: NodeJS.ErrnoException };
  return cause?.code ?? cause?.message ?? message;
}

async function pause(milliseconds: number, signal: AbortSignal | undefined): Promise<void> {
  // Also where it was stopped before the wait began: a server may have asked for two minutes.
  await sleep(milliseconds, undefined, { signal }).catch(() => {});
  refuseStopped(signal);
}
