/** What llama-server streams of an answer. */
export interface ServerEvent {
  readonly content: string;
  readonly stop: boolean;
  readonly stop_type?: string;
  readonly truncated?: boolean;
  readonly tokens_predicted?: number;
  readonly tokens_evaluated?: number;
}

/** The `data:` lines of an event stream, parsed. */
export async function* readServerEvents(body: ReadableStream<Uint8Array>): AsyncGenerator<ServerEvent> {
  const decoder = new TextDecoder();
  let rest = "";
  for await (const bytes of body as unknown as AsyncIterable<Uint8Array>) {
    rest += decoder.decode(bytes, { stream: true });
    const lines = rest.split("\n");
    rest = lines.pop()!;
    for (const line of lines) {
      if (!line.startsWith("data: ") || line === "data: [DONE]") continue;
      const event = JSON.parse(line.slice(6)) as Partial<ServerEvent>;
      yield { ...event, content: event.content ?? "", stop: event.stop === true };
    }
  }
}
