import { randomUUID } from "node:crypto";
import type { Context } from "hono";
import { PhysariumError } from "../../errors.js";
import { answer, type Provenance, type Reply } from "../serve/answer.js";
import type { FarmService } from "../serve/farm-service.js";
import { httpError } from "./http-errors.js";
import { type Parsed, parseRequest } from "./parameters.js";

type Kind = "chat" | "completion";

/** `POST /v1/chat/completions` and `/v1/completions`. */
export async function complete(service: FarmService, context: Context, kind: Kind): Promise<Response> {
  const raw = await context.req.text();
  let json: unknown;
  try {
    json = JSON.parse(raw);
  } catch (error) {
    throw new PhysariumError("USAGE_PARAMETER", `the body is no JSON: ${(error as Error).message}`);
  }
  const parsed = parseRequest(json, kind);
  const { signal } = context.req.raw;
  const deadline = Number(context.req.header("x-physarium-deadline-ms") ?? Number.NaN);
  const question = {
    ...parsed,
    noSwap: context.req.header("x-physarium-no-swap") !== undefined,
    deadlineMs: deadline > 0 ? deadline : undefined,
  };
  const shape = new Shape(kind, parsed);
  if (parsed.stream) return stream(service, question, shape, signal);
  const reply = await answer(service, { ...question, signal });
  return new Response(JSON.stringify(shape.whole(reply)), {
    headers: { "content-type": "application/json", ...provenanceHeaders(reply.provenance), ...verdictHeader(reply) },
  });
}

async function stream(
  service: FarmService,
  question: Parsed & { noSwap: boolean; deadlineMs: number | undefined },
  shape: Shape,
  signal: AbortSignal,
): Promise<Response> {
  const leave = new AbortController();
  signal.addEventListener("abort", () => leave.abort(), { once: true });
  const encoder = new TextEncoder();
  let controller!: ReadableStreamDefaultController<Uint8Array>;
  const body = new ReadableStream<Uint8Array>({
    start: (given) => {
      controller = given;
    },
    // The client left: its answer is called off, and no other.
    cancel: () => leave.abort(),
  });
  const send = (value: unknown): void => {
    if (leave.signal.aborted) return;
    controller.enqueue(encoder.encode(`data: ${typeof value === "string" ? value : JSON.stringify(value)}\n\n`));
  };
  let onBegun!: (provenance: Provenance) => void;
  const begun = new Promise<Provenance>((resolve) => {
    onBegun = resolve;
  });
  const done = answer(service, {
    ...question,
    signal: leave.signal,
    onStart: onBegun,
    onPiece: (text) => send(shape.piece(text)),
  });
  const ended = done.then(
    (reply) => {
      for (const chunk of shape.last(reply)) send(chunk);
      send("[DONE]");
    },
    (error) => send(httpError(error).body),
  );
  // What is refused before anything was said is an answer of its own, with its own status.
  const provenance = await Promise.race([begun, done.then((reply) => reply.provenance)]);
  send(shape.first());
  void ended.finally(() => {
    if (!leave.signal.aborted) controller.close();
  });
  return new Response(body, {
    headers: {
      "content-type": "text/event-stream; charset=utf-8",
      "cache-control": "no-store",
      "x-accel-buffering": "no",
      ...provenanceHeaders(provenance),
    },
  });
}

/** The forms that OpenAI's clients expect. */
class Shape {
  private readonly id: string;
  private readonly created = Math.floor(Date.now() / 1000);

  constructor(
    private readonly kind: Kind,
    private readonly parsed: Parsed,
  ) {
    this.id = `${kind === "chat" ? "chatcmpl" : "cmpl"}-${randomUUID()}`;
  }

  whole(reply: Reply) {
    const { text, finish } = reply.served;
    const choice = this.kind === "chat" ? { message: { role: "assistant", content: text, refusal: null } } : { text };
    return {
      ...this.head(this.kind === "chat" ? "chat.completion" : "text_completion"),
      choices: [{ index: 0, ...choice, logprobs: null, finish_reason: finish }],
      usage: usageOf(reply),
      physarium: this.facts(reply),
    };
  }

  first() {
    return this.chunk(this.kind === "chat" ? { delta: { role: "assistant", content: "" } } : { text: "" }, null);
  }

  piece(text: string) {
    return this.chunk(this.kind === "chat" ? { delta: { content: text } } : { text }, null);
  }

  *last(reply: Reply) {
    const empty = this.kind === "chat" ? { delta: {} } : { text: "" };
    yield { ...this.chunk(empty, reply.served.finish), physarium: this.facts(reply) };
    if (this.parsed.includeUsage) yield { ...this.chunkHead(), choices: [], usage: usageOf(reply) };
  }

  private chunk(content: object, finish: string | null) {
    return { ...this.chunkHead(), choices: [{ index: 0, ...content, logprobs: null, finish_reason: finish }] };
  }

  private chunkHead() {
    return this.head(this.kind === "chat" ? "chat.completion.chunk" : "text_completion");
  }

  private head(object: string) {
    return { id: this.id, object, created: this.created, model: this.parsed.model };
  }

  /** Where the answer is from and what was found of it. */
  private facts({ provenance, served, seed, attempts, verdict }: Reply) {
    return {
      ...provenance,
      verdict,
      attempts,
      seed,
      constrained: served.constrained,
      waited_seconds: served.waitedSeconds,
      seconds: served.seconds,
      ...(this.parsed.noEffect.length === 0 ? {} : { no_effect: this.parsed.noEffect }),
    };
  }
}

function usageOf({ served: { promptTokens, completionTokens } }: Reply) {
  return {
    prompt_tokens: promptTokens,
    completion_tokens: completionTokens,
    total_tokens: promptTokens + completionTokens,
  };
}

function provenanceHeaders({ organ, body, form, tier, ledger_sha256 }: Provenance): Record<string, string> {
  return {
    "x-physarium-organ": organ,
    "x-physarium-body": body,
    "x-physarium-form": form,
    "x-physarium-tier": tier,
    "x-physarium-ledger": ledger_sha256 ?? "none",
  };
}

function verdictHeader({ verdict }: Reply): Record<string, string> {
  return { "x-physarium-verdict": verdict === null ? "none" : verdict.passed ? "passed" : "failed" };
}
