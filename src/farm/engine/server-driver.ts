import { FileSource } from "../../checkpoint/file-layer.js";
import { isPhysariumError, PhysariumError } from "../../errors.js";
import { readGguf } from "../../export/gguf/reader.js";
import type { EngineChoice } from "../config/organ-farm.js";
import { type ChatWords, type EngineTokenizer, promptIds, roomBehind } from "./chat-prompt.js";
import type { Answered, Ask, BodySpec } from "./engine.js";
import { looksLikeJson, objectGrammar } from "./json-text.js";
import { residentBytes } from "./process-memory.js";
import type { Driver, Speed } from "./protocol.js";
import { type ServerEvent, type ServerPlace, serverEvents, serverJson } from "./server-client.js";
import { serverKey } from "./server-key.js";
import { awaitServer, ServerProcess } from "./server-process.js";

type ServerChoice = Extract<EngineChoice, { kind: "llama-server" }>;

interface Props {
  readonly chat_template?: string;
  readonly bos_token?: string;
  readonly eos_token?: string;
  readonly default_generation_settings?: { readonly n_ctx?: number };
}

interface Likely {
  readonly completion_probabilities?: readonly {
    readonly top_logprobs: readonly { readonly id: number; readonly logprob: number | null }[];
  }[];
}

/** llama.cpp's own server, started here or running elsewhere, by its HTTP interface. */
export class ServerDriver implements Driver {
  readonly loaded: Driver["loaded"];

  private constructor(
    private readonly place: ServerPlace,
    private readonly server: ServerProcess | undefined,
    private readonly spec: BodySpec,
    private readonly onServer: (pid: number) => void,
    private readonly words: ChatWords,
    private readonly tokenizer: EngineTokenizer,
    /** Tokens of one conversation: the farm's, or fewer where the server's slots have fewer. */
    private readonly context: number,
  ) {
    this.loaded = {
      vramBytes: 0,
      pids: server === undefined ? [] : [server.pid],
      engine: server === undefined ? `llama-server at ${place.address}` : "llama-server",
      hasChatTemplate: words.template !== undefined,
    };
  }

  /** `onServer` is told the server's pid as soon as there is one. */
  static async load(spec: BodySpec, onServer: (pid: number) => void): Promise<ServerDriver> {
    const { address: given, path, args } = spec.engine as ServerChoice;
    const key = serverKey(spec.engine as ServerChoice);
    let server: ServerProcess | undefined;
    if (given !== undefined) await awaitServer(given.replace(/\/$/, ""));
    else {
      server = await ServerProcess.start(path!, args, spec, key, onServer);
      server.onExit(() => process.exit(1));
    }
    const place = { address: server?.address ?? given!.replace(/\/$/, ""), key };
    const props = await serverJson<Props>(place, "/props");
    const cut = async (content: string, special: boolean, first = false): Promise<number[]> =>
      (await serverJson<{ tokens: number[] }>(place, "/tokenize", cutting(content, special, first))).tokens;
    const bos = props.bos_token ?? "";
    const words = { bos, eos: props.eos_token ?? "", template: await templateOf(spec.file, props, cut) };
    // What the server would put in front of a text; an EOS that it would put behind one is no part of a prompt.
    const [lead] = await cut("", false, true);
    const [bosId] = bos === "" ? [] : await cut(bos, true);
    const tokenizer = { tokenize: cut, bos: lead !== undefined && lead === bosId ? lead : undefined };
    const context = Math.min(spec.context, props.default_generation_settings?.n_ctx ?? spec.context);
    return new ServerDriver(place, server, spec, onServer, words, tokenizer, context);
  }

  async ask(ask: Ask, onPiece: (text: string) => void, signal: AbortSignal): Promise<Answered> {
    const prompt = await this.tokens(ask.prompt);
    const asked = {
      prompt,
      stream: true,
      cache_prompt: true,
      n_predict: Math.min(ask.maxTokens, roomBehind(prompt, this.context)),
      temperature: ask.temperature,
      top_p: ask.topP,
      top_k: ask.topK,
      min_p: ask.minP,
      seed: ask.seed,
      stop: ask.stop,
    };
    const { grammar } = ask;
    if (grammar === undefined) return this.write(asked, false, onPiece, signal);
    // An empty schema the server takes for none; its own grammars say the same.
    const held = grammar === "json" ? { grammar: objectGrammar } : { json_schema: grammar.schema };
    try {
      return await this.write({ ...asked, ...held }, true, onPiece, signal);
    } catch (error) {
      // The server's grammars know less of JSON schema than the verifier does; that one decides.
      if (!isPhysariumError(error, "USAGE_REQUEST")) throw error;
      return this.write(asked, false, onPiece, signal);
    }
  }

  private async write(
    asked: { readonly prompt: readonly number[] } & object,
    hasGrammar: boolean,
    onPiece: (text: string) => void,
    signal: AbortSignal,
  ): Promise<Answered> {
    let text = "";
    let last: ServerEvent | undefined;
    for await (const event of serverEvents(this.place, "/completion", asked, signal)) {
      text += event.content;
      if (event.content !== "") onPiece(event.content);
      last = event;
      if (event.stop) break;
    }
    if (last?.stop !== true) throw new PhysariumError("IO_ENGINE", "llama-server ended its answer before it was whole");
    const finish = last.stop_type === "limit" || last.truncated === true ? "length" : "stop";
    // The token that ends an answer is counted by the server, and shown by nobody.
    const hidden = last.stop_type === "eos" ? 1 : 0;
    return {
      text,
      promptTokens: asked.prompt.length,
      completionTokens: Math.max(0, (last.tokens_predicted ?? 0) - hidden),
      finish,
      // A server may let a schema go without a word where its grammars cannot hold it: the answer shows.
      constrained: hasGrammar && looksLikeJson(text, finish === "stop"),
    };
  }

  tokens(prompt: Ask["prompt"]): Promise<number[]> {
    return promptIds(prompt, this.words, this.tokenizer);
  }

  /** By the server's own list of likely tokens: all of the vocabulary, one place a request. */
  async distributions(ids: readonly number[], from: number): Promise<{ values: Float32Array; places: number }> {
    let values = new Float32Array(0);
    let vocabulary = 0;
    for (let at = from; at < ids.length; at++) {
      const { completion_probabilities: [first] = [] } = await serverJson<Likely>(this.place, "/completion", {
        prompt: ids.slice(0, at),
        n_predict: 1,
        n_probs: MOST_TOKENS,
        temperature: 0,
        cache_prompt: true,
        post_sampling_probs: false,
      });
      const likely = first?.top_logprobs ?? [];
      if (vocabulary === 0) {
        for (const { id } of likely) vocabulary = Math.max(vocabulary, id + 1);
        values = new Float32Array((ids.length - from) * vocabulary).fill(Number.NaN);
      }
      for (const { id, logprob } of likely) {
        // JSON has no NaN: the server writes null. Of a probability too small for its floats it writes the least float.
        const known = logprob === null ? Number.NaN : Math.max(logprob, LEAST_LOGPROB);
        if (id < vocabulary) values[(at - from) * vocabulary + id] = known;
      }
    }
    return { values, places: ids.length - from };
  }

  async greedy(ids: readonly number[], count: number): Promise<{ ids: number[]; finite: boolean }> {
    const { tokens = [] } = await serverJson<{ tokens?: number[] }>(this.place, "/completion", {
      prompt: ids,
      n_predict: count,
      temperature: 0,
      return_tokens: true,
      cache_prompt: false,
    });
    // Its logits are not to be seen here; a NaN among them is found by the distributions.
    return { ids: tokens, finite: true };
  }

  /** A server's threads are fixed when it starts: each count gets one of its own, where servers are started here. */
  async speed(threads: readonly number[]): Promise<Speed[]> {
    const { path, args } = this.spec.engine as ServerChoice;
    if (path === undefined) return [await speedOf(this.place, this.spec.threads)];
    const found: Speed[] = [];
    for (const count of threads) {
      const server = await ServerProcess.start(
        path,
        args,
        { ...this.spec, threads: count },
        this.place.key,
        this.onServer,
      );
      try {
        found.push(await speedOf({ ...this.place, address: server.address }, count));
      } finally {
        await server.stop();
      }
    }
    return found;
  }

  async memory(): Promise<{ otherBytes: number; vramBytes: number }> {
    return { otherBytes: this.server === undefined ? 0 : await residentBytes(this.server.pid), vramBytes: 0 };
  }
}

/** More than any vocabulary has. */
const MOST_TOKENS = 1_000_000;
/** ln of the least number above 0 that a 32-bit float holds. */
const LEAST_LOGPROB = Math.log(2 ** -149);

/** What the server is asked to cut; `first`: with what the model wants around a text. */
function cutting(content: string, special: boolean, first: boolean): object {
  return { content, add_special: first, parse_special: special };
}

/**
 * The model's own chat template. A server has a stand-in, ChatML, where the model has none, and does not say so: the
 * file says it; of a server elsewhere, its tokens do.
 */
async function templateOf(
  file: string,
  props: Props,
  cut: (text: string, special: boolean) => Promise<number[]>,
): Promise<string | undefined> {
  if (file !== "") {
    const source = await FileSource.open(file);
    try {
      const own = (await readGguf(source, file)).metadata.get("tokenizer.chat_template");
      return own?.type === "string" ? String(own.value) : undefined;
    } finally {
      await source.close();
    }
  }
  const { chat_template: template = "" } = props;
  if (template === "") return undefined;
  const isChatml = template.includes("<|im_start|>");
  return isChatml && (await cut("<|im_start|>", true)).length > 1 ? undefined : template;
}

async function speedOf(place: ServerPlace, threads: number): Promise<Speed> {
  const { timings } = await serverJson<{
    timings?: { prompt_per_second: number | null; predicted_per_second: number | null };
  }>(place, "/completion", { prompt: "The ".repeat(16), n_predict: 16, temperature: 0, cache_prompt: false });
  return { threads, prompt: timings?.prompt_per_second ?? 0, answer: timings?.predicted_per_second ?? 0 };
}
