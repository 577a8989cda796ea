import { type ChildProcess, spawn } from "node:child_process";
import { createServer } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { PhysariumError } from "../../errors.js";
import type { EngineChoice } from "../config/organ-farm.js";
import { type ChatWords, promptText } from "./chat-prompt.js";
import type { Answered, Ask, BodySpec } from "./engine.js";
import { residentBytes } from "./process-memory.js";
import type { Driver, Speed } from "./protocol.js";
import { readServerEvents, type ServerEvent } from "./server-events.js";

type ServerChoice = Extract<EngineChoice, { kind: "llama-server" }>;

interface Props {
  readonly chat_template?: string;
  readonly bos_token?: string;
  readonly eos_token?: string;
}

/** llama.cpp's own server, started here or running elsewhere, by its HTTP interface. */
export class ServerDriver implements Driver {
  readonly loaded: Driver["loaded"];
  private readonly words: ChatWords;

  private constructor(
    private readonly address: string,
    private readonly server: ChildProcess | undefined,
    private readonly spec: BodySpec,
    props: Props,
  ) {
    this.words = {
      template: props.chat_template === "" ? undefined : props.chat_template,
      bos: props.bos_token ?? "",
      eos: props.eos_token ?? "",
    };
    this.loaded = {
      vramBytes: 0,
      pids: server?.pid === undefined ? [] : [server.pid],
      engine: server === undefined ? `llama-server at ${address}` : "llama-server",
      hasChatTemplate: this.words.template !== undefined,
    };
  }

  /** `onServer` is told the server's pid as soon as there is one. */
  static async load(spec: BodySpec, onServer: (pid: number) => void): Promise<ServerDriver> {
    const choice = spec.engine as ServerChoice;
    if (choice.address !== undefined) {
      const address = choice.address.replace(/\/$/, "");
      await healthy(address, () => undefined);
      return new ServerDriver(address, undefined, spec, await json<Props>(`${address}/props`));
    }
    const port = await freePort();
    const server = spawn(choice.path!, [...serverArguments(spec, port), ...choice.args], {
      stdio: ["ignore", "ignore", "inherit"],
    });
    if (server.pid !== undefined) onServer(server.pid);
    // Whatever way this process ends, the server does not outlive it.
    process.on("exit", () => server.kill("SIGKILL"));
    let ended: string | undefined;
    server.on("error", (error) => {
      ended = `${choice.path} cannot be started: ${error.message}`;
    });
    server.on("exit", (code, signal) => {
      ended ??= `${choice.path} ended (${signal ?? `exit ${code}`})`;
    });
    const address = `http://127.0.0.1:${port}`;
    await healthy(address, () => ended);
    server.on("exit", () => process.exit(1));
    return new ServerDriver(address, server, spec, await json<Props>(`${address}/props`));
  }

  async ask(ask: Ask, onPiece: (text: string) => void, signal: AbortSignal): Promise<Answered> {
    const prompt = await this.tokens(ask.prompt);
    const response = await fetch(`${this.address}/completion`, {
      method: "POST",
      signal,
      headers: { "content-type": "application/json" },
      body: JSON.stringify({
        prompt,
        stream: true,
        cache_prompt: true,
        n_predict: ask.maxTokens,
        temperature: ask.temperature,
        top_p: ask.topP,
        top_k: ask.topK,
        min_p: ask.minP,
        seed: ask.seed,
        stop: ask.stop,
        ...(ask.grammar === undefined ? {} : { json_schema: ask.grammar === "json" ? {} : ask.grammar.schema }),
      }),
    });
    if (!response.ok || response.body === null) throw await refusal(response);
    let text = "";
    let last: ServerEvent | undefined;
    for await (const event of readServerEvents(response.body)) {
      text += event.content;
      if (event.content !== "") onPiece(event.content);
      last = event;
      if (event.stop) break;
    }
    if (last?.stop !== true) throw new PhysariumError("IO_ENGINE", "llama-server ended its answer before it was whole");
    return {
      text,
      promptTokens: last.tokens_evaluated ?? prompt.length,
      completionTokens: last.tokens_predicted ?? 0,
      finish: last.stop_type === "limit" || last.truncated === true ? "length" : "stop",
      constrained: ask.grammar !== undefined,
    };
  }

  async tokens(prompt: Ask["prompt"]): Promise<number[]> {
    const { text, special, hasBos } = promptText(prompt, this.words);
    const body = { content: text, add_special: !hasBos, parse_special: special };
    return (await json<{ tokens: number[] }>(`${this.address}/tokenize`, body)).tokens;
  }

  /** By the server's own list of likely tokens: all of the vocabulary, one place a request. */
  async distributions(ids: readonly number[], from: number): Promise<{ values: Float32Array; places: number }> {
    const rows: Map<number, number>[] = [];
    for (let at = from; at < ids.length; at++) {
      const { completion_probabilities: [first] = [] } = await json<{
        completion_probabilities?: { top_logprobs: { id: number; logprob: number }[] }[];
      }>(`${this.address}/completion`, {
        prompt: ids.slice(0, at),
        n_predict: 1,
        n_probs: MOST_TOKENS,
        temperature: 0,
        cache_prompt: true,
        post_sampling_probs: false,
      });
      rows.push(new Map((first?.top_logprobs ?? []).map(({ id, logprob }) => [id, logprob])));
    }
    const vocabulary = Math.max(...rows.map((row) => Math.max(...row.keys()) + 1));
    const values = new Float32Array(rows.length * vocabulary).fill(Number.NEGATIVE_INFINITY);
    rows.forEach((row, at) => {
      for (const [id, logprob] of row) values[at * vocabulary + id] = logprob;
    });
    return { values, places: rows.length };
  }

  async greedy(ids: readonly number[], count: number): Promise<{ ids: number[]; finite: boolean }> {
    const { tokens = [] } = await json<{ tokens?: number[] }>(`${this.address}/completion`, {
      prompt: ids,
      n_predict: count,
      temperature: 0,
      return_tokens: true,
      cache_prompt: false,
    });
    return { ids: tokens, finite: true };
  }

  async speed(_threads: readonly number[]): Promise<Speed[]> {
    // A server's threads are fixed when it starts.
    const { timings } = await json<{ timings?: { prompt_per_second: number; predicted_per_second: number } }>(
      `${this.address}/completion`,
      { prompt: "The ".repeat(16), n_predict: 16, temperature: 0, cache_prompt: false },
    );
    const { prompt_per_second: prompt = 0, predicted_per_second: answer = 0 } = timings ?? {};
    return [{ threads: this.spec.threads, prompt, answer }];
  }

  async memory(): Promise<{ otherBytes: number; vramBytes: number }> {
    return { otherBytes: this.server?.pid === undefined ? 0 : await residentBytes(this.server.pid), vramBytes: 0 };
  }
}

/** More than any vocabulary has. */
const MOST_TOKENS = 1_000_000;

function serverArguments(spec: BodySpec, port: number): string[] {
  const { file, context, sequences, threads, gpuLayers } = spec;
  const numbers = { port, "ctx-size": context * sequences, parallel: sequences, threads, "gpu-layers": gpuLayers };
  const named = Object.entries(numbers).flatMap(([name, value]) => [`--${name}`, String(value)]);
  return ["--model", file, "--host", "127.0.0.1", ...named];
}

/** Wait until the server says that its model is there. A large one takes minutes from a slow disk. */
async function healthy(address: string, ended: () => string | undefined): Promise<void> {
  const until = Date.now() + 600_000;
  for (let wait = 20; Date.now() < until; wait = Math.min(500, wait * 2)) {
    const reason = ended();
    if (reason !== undefined) throw new PhysariumError("USAGE_ENGINE", reason);
    const response = await fetch(`${address}/health`).catch(() => undefined);
    if (response?.ok) return;
    await sleep(wait);
  }
  throw new PhysariumError("USAGE_ENGINE", `${address}: no llama-server answers there`);
}

async function json<T>(address: string, body?: unknown): Promise<T> {
  const response = await fetch(address, {
    ...(body === undefined ? {} : { method: "POST", body: JSON.stringify(body) }),
    headers: { "content-type": "application/json" },
  });
  if (!response.ok) throw await refusal(response);
  return (await response.json()) as T;
}

async function refusal(response: Response): Promise<PhysariumError> {
  const words = (await response.text().catch(() => "")).slice(0, 500);
  return new PhysariumError("IO_ENGINE", `llama-server answered ${response.status}: ${words}`);
}

function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once("error", reject);
    server.listen(0, "127.0.0.1", () => {
      const { port } = server.address() as { port: number };
      server.close(() => resolve(port));
    });
  });
}
