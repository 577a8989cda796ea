import { openDonor } from "../checkpoint/donor.js";
import { LayerRunner } from "../probe/forward/layer-runner.js";
import { generateTokens, promptTokens, type SamplingOptions, StreamDecoder, stopTokens } from "../probe/generate.js";
import { type ChatMessage, renderChat } from "../probe/text/chat-template.js";
import { TextTokenizer } from "../probe/text/tokenizer.js";
import { openSource } from "../sources.js";
import { leaveRoom } from "./leave-room.js";
import { type EngineFlags, toEngineOptions } from "./probe-options.js";

export interface Spoken {
  readonly prompt: readonly number[];
  readonly ids: readonly number[];
  readonly text: string;
  readonly seconds: number;
}

/** A model that is asked to go on with texts, one after the other. */
export class Speaker {
  private constructor(
    private readonly source: Awaited<ReturnType<typeof openSource>>,
    private readonly tokenizer: TextTokenizer,
    private readonly runner: LayerRunner,
    private readonly stopIds: ReadonlySet<number>,
  ) {}

  /** What is wrong with the weights is said before what is wrong with the tokenizer. Throws `DONOR_*`, `USAGE_*`. */
  static async open(path: string, engine: EngineFlags, maxTokens: number): Promise<Speaker> {
    const source = await openSource(path);
    await openDonor(source);
    await leaveRoom([source]);
    const tokenizer = await TextTokenizer.open(source);
    try {
      const runner = await LayerRunner.open(source, {
        ...toEngineOptions(engine),
        workload: { runs: maxTokens, tokens: 0 },
      });
      return new Speaker(source, tokenizer, runner, await stopTokens(source, tokenizer));
    } catch (error) {
      tokenizer.close();
      throw error;
    }
  }

  /** The tokens of a plain text, behind what the tokenizer puts in front; `bos` false leaves that out. */
  plain(text: string, bos = true): Promise<number[]> {
    return bos ? promptTokens(this.tokenizer, text) : this.tokenizer.encode(text);
  }

  /** The tokens of a conversation in the model's own template. Throws `DONOR_CHAT_TEMPLATE`. */
  async conversation(messages: readonly ChatMessage[]): Promise<number[]> {
    return this.tokenizer.encode(await renderChat(this.source, this.tokenizer, messages));
  }

  /** Go on behind `prompt`, giving `show` the text piece by piece. */
  async speak(
    prompt: readonly number[],
    sampling: SamplingOptions & { readonly maxTokens: number; readonly signal?: AbortSignal },
    show: (piece: string) => void,
  ): Promise<Spoken> {
    const ids: number[] = [];
    const decoder = await StreamDecoder.after(prompt, this.tokenizer);
    let text = "";
    const say = (piece: string): void => {
      text += piece;
      show(piece);
    };
    const started = performance.now();
    for await (const { id } of generateTokens(this.runner, prompt, { ...sampling, stopIds: this.stopIds })) {
      ids.push(id);
      say(await decoder.push(id));
      if (sampling.signal?.aborted) break;
    }
    say(await decoder.end());
    return { prompt, ids, text, seconds: (performance.now() - started) / 1000 };
  }

  async close(): Promise<void> {
    await this.runner.close();
    this.tokenizer.close();
    await this.source.close();
  }
}
