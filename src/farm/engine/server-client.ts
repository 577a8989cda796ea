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

/**
 * Ask the server for JSON. Throws `USAGE_PROMPT` for what is longer than its context, `USAGE_REQUEST` for what it does
 * not take, `IO_ENGINE` for everything else.
 */
export async function serverJson<T>(address: string, body?: unknown): Promise<T> {
  const response = await send(address, body);
  return (await response.json()) as T;
}

/** The events of a streamed answer, as they come. Aborting ends the answer on the server, too. */
export async function* serverEvents(address: string, body: unknown, signal: AbortSignal): AsyncGenerator<ServerEvent> {
  const response = await send(address, body, signal);
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

async function send(address: string, body: unknown, signal?: AbortSignal): Promise<Response> {
  const response = await fetch(address, {
    ...(body === undefined ? {} : { method: "POST", body: JSON.stringify(body) }),
    ...(signal === undefined ? {} : { signal }),
    headers: { "content-type": "application/json" },
  }).catch((error: Error) => {
    if (signal?.aborted) throw error;
    const { message } = (error.cause as Error | undefined) ?? error;
    throw new PhysariumError("IO_ENGINE", `llama-server at ${address} does not answer: ${message}`, {}, error);
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
  const code = type === "exceed_context_size_error" ? "USAGE_PROMPT" : status === 400 ? "USAGE_REQUEST" : "IO_ENGINE";
  return new PhysariumError(code, `llama-server answered ${status}: ${message ?? "nothing"}`, { status });
}
