import { PhysariumError } from "../../errors.js";
import { BATCH_TOKENS } from "../plan/footprint.js";
import { type ChatWords, type EngineTokenizer, promptIds, roomBehind } from "./chat-prompt.js";
import type { Answered, Ask, BodySpec } from "./engine.js";
import { isWholeJson } from "./json-text.js";
import { measureDistributions, measureGreedy, measureSpeed } from "./llama-measures.js";
import {
  type Llama,
  type LlamaContext,
  type LlamaLibrary,
  type LlamaModel,
  type LlamaSequence,
  loadLlamaLibrary,
} from "./load-library.js";
import type { Driver, Speed } from "./protocol.js";
import { StopText } from "./stop-text.js";

let opened: Promise<{ library: LlamaLibrary; llama: Llama }> | undefined;

/** The library and its native part, once a process: one process has one body. Touches no model. */
export function openLibrary(spec: BodySpec): Promise<{ library: LlamaLibrary; llama: Llama }> {
  opened ??= openOnce(spec);
  return opened;
}

async function openOnce(spec: BodySpec): Promise<{ library: LlamaLibrary; llama: Llama }> {
  const library = await loadLlamaLibrary();
  const llama = await library.getLlama({
    build: "never",
    skipDownload: true,
    gpu: spec.gpuLayers === 0 ? false : "auto",
    maxThreads: spec.threads,
    logLevel: "error",
    logger: (_level: string, message: string) =>
      process.stderr.write(message.endsWith("\n") ? message : `${message}\n`),
  });
  return { library, llama };
}

/** node-llama-cpp in this process: the child of one body. */
export class LlamaDriver implements Driver {
  private readonly free: LlamaSequence[];
  private readonly waiting: ((sequence: LlamaSequence) => void)[] = [];
  private readonly words: ChatWords;
  private readonly tokenizer: EngineTokenizer;
  readonly loaded: Driver["loaded"];

  private constructor(
    private readonly library: LlamaLibrary,
    private readonly llama: Llama,
    private readonly model: LlamaModel,
    context: LlamaContext,
    private readonly spec: BodySpec,
  ) {
    this.free = Array.from({ length: spec.sequences }, () => context.getSequence());
    const { tokens, fileInfo } = model;
    this.words = {
      template: fileInfo.metadata.tokenizer?.chat_template,
      bos: tokens.bosString ?? "",
      eos: tokens.eosString ?? "",
    };
    this.tokenizer = {
      tokenize: (text, special) => model.tokenize(text, special),
      bos: tokens.shouldPrependBosToken ? (tokens.bos ?? undefined) : undefined,
    };
    this.loaded = {
      vramBytes: model.memoryUsage.vram + context.memoryUsage.vram,
      pids: [],
      engine: `node-llama-cpp, ${llama.gpu === false ? "CPU" : llama.gpu}`,
      hasChatTemplate: this.words.template !== undefined,
    };
  }

  static async load(spec: BodySpec): Promise<LlamaDriver> {
    const { library, llama } = await openLibrary(spec);
    // It would load without a word into RAM, which the farm counts elsewhere.
    if (spec.gpuLayers > 0 && llama.gpu === false) {
      const wanted = `${spec.gpuLayers} layers of ${spec.body} are to be on a GPU`;
      const words = `${wanted}, and node-llama-cpp finds none it can use`;
      throw new PhysariumError("USAGE_ENGINE", `${words}; install its CUDA or Vulkan build, or set gpu_layers to 0`);
    }
    // The farm has placed the body by what admission measured: the library's own estimate must not refuse it.
    const model = await llama.loadModel({
      modelPath: spec.file,
      gpuLayers: spec.gpuLayers,
      ignoreMemorySafetyChecks: true,
    });
    const context = await model.createContext({
      contextSize: spec.context,
      sequences: spec.sequences,
      batchSize: Math.min(BATCH_TOKENS, spec.context),
      threads: { ideal: spec.threads, min: spec.threads },
      flashAttention: "auto",
      ignoreMemorySafetyChecks: true,
      failedCreationRemedy: false,
    });
    return new LlamaDriver(library, llama, model, context, spec);
  }

  async ask(ask: Ask, onPiece: (text: string) => void, signal: AbortSignal): Promise<Answered> {
    const ids = await this.tokens(ask.prompt);
    const room = roomBehind(ids, this.spec.context);
    const sequence = await this.take(signal);
    try {
      return await this.write(sequence, ids, ask, Math.min(room, ask.maxTokens), onPiece, signal);
    } finally {
      this.giveBack(sequence);
    }
  }

  private async write(
    sequence: LlamaSequence,
    ids: readonly number[],
    ask: Ask,
    most: number,
    onPiece: (text: string) => void,
    signal: AbortSignal,
  ): Promise<Answered> {
    const grammar = await this.grammarOf(ask.grammar);
    const { fresh } = await reusePrefix(sequence, ids);
    const options = {
      temperature: ask.temperature,
      topP: ask.topP,
      topK: ask.topK,
      minP: ask.minP,
      seed: ask.seed,
      yieldEogToken: true,
      ...(grammar === undefined
        ? {}
        : { grammarEvaluationState: new this.library.LlamaGrammarEvaluationState({ model: this.model, grammar }) }),
    };
    const stop = new StopText(ask.stop);
    const decoder = new Detokenizer(this.model, ids);
    let text = "";
    let count = 0;
    let finish: Answered["finish"] = "length";
    const show = (piece: string): void => {
      const shown = stop.push(piece);
      text += shown;
      if (shown !== "") onPiece(shown);
    };
    for await (const token of sequence.evaluate(fresh, options)) {
      signal.throwIfAborted();
      if (this.model.isEogToken(token)) {
        finish = "stop";
        break;
      }
      count++;
      show(decoder.push(token));
      if (stop.met) {
        finish = "stop";
        break;
      }
      // The library's grammars let white space follow for as long as there is room.
      if (grammar !== undefined && text.endsWith("\n") && isWholeJson(text)) {
        finish = "stop";
        break;
      }
      if (count >= most) break;
    }
    show(decoder.end());
    const rest = stop.end();
    text += rest;
    if (rest !== "") onPiece(rest);
    return { text, promptTokens: ids.length, completionTokens: count, finish, constrained: grammar !== undefined };
  }

  tokens(prompt: Ask["prompt"]): Promise<number[]> {
    return promptIds(prompt, this.words, this.tokenizer);
  }

  async distributions(ids: readonly number[], from: number): Promise<{ values: Float32Array; places: number }> {
    return this.alone((sequence) => measureDistributions(sequence, ids, from));
  }

  async greedy(ids: readonly number[], count: number): Promise<{ ids: number[]; finite: boolean }> {
    return this.alone((sequence) => measureGreedy(sequence, this.model, ids, count));
  }

  async speed(threads: readonly number[]): Promise<Speed[]> {
    // A context's threads are fixed when it is made, so each count gets one of its own.
    const found: Speed[] = [];
    for (const count of threads) found.push(await measureSpeed(this.model, this.spec.context, count));
    return found;
  }

  async memory(): Promise<{ otherBytes: number; vramBytes: number }> {
    return { otherBytes: 0, vramBytes: this.loaded.vramBytes };
  }

  private async grammarOf(wanted: Ask["grammar"]): Promise<unknown> {
    if (wanted === undefined) return undefined;
    if (wanted === "json") return this.library.LlamaGrammar.getFor(this.llama, "json");
    try {
      return await this.llama.createGrammarForJsonSchema(wanted.schema);
    } catch {
      // The library's grammars know less of JSON schema than the verifier does; that one decides.
      return undefined;
    }
  }

  private async alone<T>(work: (sequence: LlamaSequence) => Promise<T>): Promise<T> {
    const sequence = await this.take(new AbortController().signal);
    try {
      await sequence.clearHistory();
      return await work(sequence);
    } finally {
      await sequence.clearHistory();
      this.giveBack(sequence);
    }
  }

  private async take(signal: AbortSignal): Promise<LlamaSequence> {
    signal.throwIfAborted();
    const free = this.free.pop();
    if (free !== undefined) return free;
    const sequence = await new Promise<LlamaSequence>((resolve) => this.waiting.push(resolve));
    if (signal.aborted) this.giveBack(sequence);
    signal.throwIfAborted();
    return sequence;
  }

  private giveBack(sequence: LlamaSequence): void {
    const next = this.waiting.shift();
    if (next === undefined) this.free.push(sequence);
    else next(sequence);
  }
}

/** Keep what the sequence holds of the same beginning; all but the last token may be kept. */
async function reusePrefix(sequence: LlamaSequence, ids: readonly number[]): Promise<{ fresh: readonly number[] }> {
  await sequence.adaptStateToTokens(ids.slice(0, -1), false);
  return { fresh: ids.slice(sequence.nextTokenIndex) };
}

/** Text of tokens as they come; what may be half a character is held back. */
class Detokenizer {
  private pending: number[] = [];
  private readonly before: number[];

  constructor(
    private readonly model: LlamaModel,
    prompt: readonly number[],
  ) {
    this.before = prompt.slice(-8);
  }

  push(token: number): string {
    this.pending.push(token);
    const text = this.model.detokenize(this.pending, false, this.before);
    // A character has at most four bytes: what is broken after so many tokens stays broken.
    if (text.endsWith("\ufffd") && this.pending.length < 4) return "";
    return this.flush(text);
  }

  end(): string {
    return this.pending.length === 0 ? "" : this.flush(this.model.detokenize(this.pending, false, this.before));
  }

  private flush(text: string): string {
    this.before.push(...this.pending);
    this.before.splice(0, this.before.length - 8);
    this.pending = [];
    return text;
  }
}
