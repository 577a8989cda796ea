import { PhysariumError } from "../../errors.js";

/** What llama-server says of one stretch of an answer; the last one says how it ended. */
export interface ServerEvent {
  readonly content: string;
  readonly stop: boolean;
  readonly stop_type?: string;
  readonly truncated?: boolean;
  readonly tokens_predicted?: number;
  readonly tokens_evaluated?: number;
}

interface ServerError {
  readonly message?: string;
  readonly type?: string;
}

/** Where a server listens, and the key that it demands. */
export interface ServerPlace {
  /** `http://127.0.0.1:8080`, without a slash at its end. */
  readonly address: string;
  readonly key: string | undefined;
}

/**
 * Ask the server for JSON. Throws `USAGE_PROMPT` for what is longer than its context, `USAGE_REQUEST` for what it does
 * not take, `IO_ENGINE` for everything else.
 */
export async function serverJson<T>(place: ServerPlace, path: string, body?: unknown): Promise<T> {
  const response = await send(place, path, body);
  return (await response.json()) as T;
}

/** The events of a streamed answer, as they come. Aborting ends the answer on the server, too. */
export async function* serverEvents(
  place: ServerPlace,
  path: string,
  body: unknown,
  signal: AbortSignal,
): AsyncGenerator<ServerEvent> {
  const response = await send(place, path, body, signal);
  const decoder = new TextDecoder();
  let rest = "";
  for await (const bytes of response.body as unknown as AsyncIterable<Uint8Array>) {
    rest += decoder.decode(bytes, { stream: true });
    const lines = rest.split("\n");
    rest = lines.pop()!;
    for (const line of lines) {
      // What else there may be: the empty line behind each event, comments that keep the connection open.
      const data = /^(?:data|error): ?(.*)$/.exec(line)?.[1];
      if (data === undefined || data === "[DONE]") continue;
      const event = JSON.parse(data) as Partial<ServerEvent> & { error?: ServerError };
      if (event.error !== undefined) throw refusalOf(200, event.error);
      yield { ...event, content: event.content ?? "", stop: event.stop === true };
    }
  }
}

async function send(
  { address, key }: ServerPlace,
  path: string,
  body: unknown,
  signal?: AbortSignal,
): Promise<Response> {
  const response = await fetch(`${address}${path}`, {
    ...(body === undefined ? {} : { method: "POST", body: JSON.stringify(body) }),
    ...(signal === undefined ? {} : { signal }),
    headers: { "content-type": "application/json", ...(key === undefined ? {} : { authorization: `Bearer ${key}` }) },
  }).catch((error: Error) => {
    if (signal?.aborted) throw error;
    const { message } = (error.cause as Error | undefined) ?? error;
    throw new PhysariumError("IO_ENGINE", `llama-server at ${address}${path} does not answer: ${message}`, {}, error);
  });
  if (response.ok) return response;
  const words = await response.text().catch(() => "");
  let said: ServerError = { message: words.slice(0, 500) };
  try {
    said = (JSON.parse(words) as { error: ServerError }).error ?? said;
  } catch {
    // A proxy's page, or nothing at all: its beginning is shown.
  }
  throw refusalOf(response.status, said);
}

function refusalOf(status: number, { message, type }: ServerError): PhysariumError {
  if (status === 401 || status === 403) {
    const words = "llama-server does not take the farm's key, or demands one; engine.api_key_env names its variable";
    return new PhysariumError("USAGE_ENGINE", `${words} (it answered ${status})`, { status });
  }
  const code = type === "exceed_context_size_error" ? "USAGE_PROMPT" : status === 400 ? "USAGE_REQUEST" : "IO_ENGINE";
  return new PhysariumError(code, `llama-server answered ${status}: ${message ?? "nothing"}`, { status });
}
