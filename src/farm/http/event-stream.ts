import type { FarmService } from "../serve/farm-service.js";

/** A comment now and then, so that proxies do not take the connection for dead. */
const COMMENT_EVERY_MS = 15_000;
/** What a reader that does not read may leave in memory. */
const MAX_BEHIND = 1_000;

/** `GET /farm/events`: what happens, as it happens. */
export function eventStream(service: FarmService, signal: AbortSignal): Response {
  const encoder = new TextEncoder();
  let end = (): void => {};
  const body = new ReadableStream<Uint8Array>(
    {
      start(controller) {
        const send = (text: string): void => {
          // Somebody who stopped reading is let go rather than kept for.
          if ((controller.desiredSize ?? 0) < -MAX_BEHIND) end();
          else controller.enqueue(encoder.encode(text));
        };
        const stop = service.listen((happening) =>
          send(`event: ${happening.event}\ndata: ${JSON.stringify(happening)}\n\n`),
        );
        const timer = setInterval(() => send(": still here\n\n"), COMMENT_EVERY_MS);
        end = () => {
          end = () => {};
          stop();
          clearInterval(timer);
          try {
            controller.close();
          } catch {
            // Closed by the reader already.
          }
        };
        signal.addEventListener("abort", () => end(), { once: true });
        send(": the farm's events\n\n");
      },
      cancel: () => end(),
    },
    { highWaterMark: 16 },
  );
  return new Response(body, {
    headers: { "content-type": "text/event-stream; charset=utf-8", "cache-control": "no-store" },
  });
}
