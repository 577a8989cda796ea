import { createHash, timingSafeEqual } from "node:crypto";
import type { MiddlewareHandler } from "hono";

export interface GuardOptions {
  readonly apiKey: string | undefined;
  /** Names under which the farm is reached; others in the Host header are a page elsewhere that got our address. */
  readonly hosts: ReadonlySet<string> | undefined;
  /** Pages that may ask from a browser. */
  readonly corsOrigin: string | undefined;
}

/** Open to everybody: that the farm lives, and the page, which holds nothing. */
const OPEN = new Set(["/healthz", "/", "/page.js", "/style.css"]);

/**
 * Who may ask. A browser on this machine runs pages of strangers: a request with another page's Origin, another name in
 * Host, or a body that is not JSON (which needs no leave of ours to be sent) is refused.
 */
export function guard({ apiKey, hosts, corsOrigin }: GuardOptions): MiddlewareHandler {
  return async (context, next) => {
    const { req } = context;
    const host = (req.header("host") ?? "").replace(/:\d+$/, "").toLowerCase();
    if (hosts !== undefined && !hosts.has(host))
      return deny(403, "forbidden_host", `this farm is not called ${host || "nothing"}`);
    const origin = req.header("origin");
    if (origin !== undefined && origin !== corsOrigin && origin !== new URL(req.url).origin) {
      return deny(403, "forbidden_origin", "pages of other origins may not ask this farm; --cors allows one");
    }
    if (req.method === "POST" && !/^application\/json\b/i.test(req.header("content-type") ?? "")) {
      return deny(415, "unsupported_media_type", "the body must be application/json");
    }
    if (apiKey !== undefined && req.method !== "OPTIONS" && !OPEN.has(req.path)) {
      const given = /^Bearer (.+)$/.exec(req.header("authorization") ?? "")?.[1] ?? "";
      if (!isSame(given, apiKey)) return deny(401, "invalid_api_key", "the API key is missing or wrong");
    }
    await next();
    context.res.headers.set("x-content-type-options", "nosniff");
  };
}

/** Takes the same time wherever two texts differ, and however long they are. */
function isSame(given: string, expected: string): boolean {
  const digest = (text: string): Buffer => createHash("sha256").update(text).digest();
  return timingSafeEqual(digest(given), digest(expected));
}

function deny(status: number, code: string, message: string): Response {
  const body = JSON.stringify({ error: { message, type: "invalid_request_error", param: null, code } });
  const headers = { "content-type": "application/json", ...(status === 401 ? { "www-authenticate": "Bearer" } : {}) };
  return new Response(body, { status, headers });
}
