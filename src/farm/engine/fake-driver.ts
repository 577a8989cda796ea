import { setTimeout as sleep } from "node:timers/promises";
import type { Answered, Ask, BodySpec, FakeEngine } from "./engine.js";
import type { Driver, Speed } from "./protocol.js";
import { StopText } from "./stop-text.js";

/** A model that repeats its prompt, word by word: for tests of everything around a model. */
export class FakeDriver implements Driver {
  readonly loaded: Driver["loaded"];
  /** Held so that the process really has the size that it was given. */
  protected readonly ballast: Buffer;

  private constructor(private readonly engine: FakeEngine) {
    this.ballast = Buffer.alloc(engine.bytes ?? 0, 1);
    this.loaded = { vramBytes: 0, pids: [], engine: "fake", hasChatTemplate: false };
  }

  static async load(spec: BodySpec): Promise<FakeDriver> {
    const engine = spec.engine as FakeEngine;
    await sleep(engine.loadMs ?? 0);
    return new FakeDriver(engine);
  }

  async ask(ask: Ask, onPiece: (text: string) => void, signal: AbortSignal): Promise<Answered> {
    const prompt = "text" in ask.prompt ? ask.prompt.text : ask.prompt.turns.map(({ content }) => content).join("\n");
    if (this.engine.crashOn !== undefined && prompt.includes(this.engine.crashOn)) process.kill(process.pid, "SIGKILL");
    const words = prompt.match(/\s*\S+/g) ?? [];
    const stop = new StopText(ask.stop);
    let text = "";
    let count = 0;
    for (const word of words.slice(0, ask.maxTokens)) {
      await sleep(this.engine.tokenMs ?? 0, undefined, { signal });
      count++;
      const shown = stop.push(word);
      text += shown;
      if (shown !== "") onPiece(shown);
      if (stop.met) break;
    }
    const rest = stop.end();
    if (rest !== "") onPiece(rest);
    const finish = stop.met || words.length <= ask.maxTokens ? "stop" : "length";
    return { text: text + rest, promptTokens: words.length, completionTokens: count, finish, constrained: false };
  }

  async tokens(prompt: Ask["prompt"]): Promise<number[]> {
    const text = "text" in prompt ? prompt.text : prompt.turns.map(({ content }) => content).join("\n");
    return [...new TextEncoder().encode(text)];
  }

  async distributions(ids: readonly number[], from: number): Promise<{ values: Float32Array; places: number }> {
    const places = ids.length - from;
    return { values: new Float32Array(places * 256).fill(-Math.log(256)), places };
  }

  async greedy(ids: readonly number[], count: number): Promise<{ ids: number[]; finite: boolean }> {
    return { ids: Array.from({ length: count }, (_, at) => ids[at % ids.length]), finite: true };
  }

  async speed(threads: readonly number[]): Promise<Speed[]> {
    return threads.map((count) => ({ threads: count, prompt: 1000, answer: 100 }));
  }

  async memory(): Promise<{ otherBytes: number; vramBytes: number }> {
    return { otherBytes: 0, vramBytes: 0 };
  }
}
