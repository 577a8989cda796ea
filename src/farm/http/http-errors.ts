import { isPhysariumError } from "../../errors.js";

/** An error as OpenAI's clients read it. */
export interface HttpError {
  readonly status: number;
  readonly headers: Record<string, string>;
  readonly body: {
    readonly error: { message: string; type: string; param: string | null; code: string; [more: string]: unknown };
  };
}

const STATUS: Readonly<Record<string, number>> = {
  FARM_UNKNOWN_MODEL: 404,
  FARM_WOULD_SWAP: 409,
  FARM_BUSY: 409,
  FARM_VERDICT: 422,
  FARM_QUEUE_FULL: 429,
  FARM_NO_ROOM: 503,
  FARM_NOT_ADMITTED: 503,
  FARM_UNAVAILABLE: 503,
  IO_ENGINE: 503,
  FARM_DEADLINE: 504,
  // Nobody reads it any more.
  STOPPED: 499,
};

export function httpError(error: unknown): HttpError {
  if (!isPhysariumError(error)) {
    process.stderr.write(`farm: ${(error as Error)?.stack ?? String(error)}\n`);
    return wrap(500, "a fault of the farm's own; its log says more", "server_error", "internal");
  }
  const { code, message, details } = error;
  const status = STATUS[code] ?? (code.startsWith("USAGE_") ? 400 : 500);
  const retry: Record<string, string> =
    typeof details.retryAfter === "number" ? { "retry-after": String(details.retryAfter) } : {};
  const { param, code: inner, verdict, attempts } = details as Record<string, unknown>;
  const found = wrap(
    status,
    message,
    status < 500 ? "invalid_request_error" : "server_error",
    String(inner ?? code),
    param,
  );
  if (verdict !== undefined) Object.assign(found.body.error, { verdict, attempts });
  return { ...found, headers: retry };
}

function wrap(status: number, message: string, type: string, code: string, param: unknown = null): HttpError {
  const shown = typeof param === "string" && param !== "" ? param : null;
  return { status, headers: {}, body: { error: { message, type, param: shown, code } } };
}
