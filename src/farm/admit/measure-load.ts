import { cpus } from "node:os";
import type { ChildBody } from "../engine/child-engine.js";
import { greedyAsk } from "../engine/engine.js";
import { memoryOf } from "../engine/process-memory.js";
import type { Speed } from "../engine/protocol.js";
import type { LoadRecord } from "./admission.js";

/** Tokens that are written once a context is full. */
const LAST_TOKENS = 4;

/** Thread counts worth a measurement: powers of two, and the number of processors. */
export function threadCounts(): number[] {
  const most = cpus().length;
  const counts = new Set([most]);
  for (let count = 1; count < most; count *= 2) counts.add(count);
  return [...counts].sort((a, b) => a - b);
}

/** The fastest at writing, which is what takes the time; of two alike the smaller. */
export function bestThreads(speeds: readonly Speed[]): number {
  let best = speeds[0];
  for (const each of speeds) if (each.answer > 1.05 * best.answer) best = each;
  return best.threads;
}

/**
 * What a body takes when every conversation fills its context: the child's memory at its highest, as the kernel counts
 * it, with all sequences at work at once.
 */
export async function measureFullLoad(body: ChildBody, speeds: readonly Speed[]): Promise<LoadRecord> {
  const { context, sequences, threads } = body.spec;
  const { seconds, pids } = body.loaded;
  const word = "the ";
  const ask = async (): Promise<void> => {
    const text = await fullPrompt(body, word, context - LAST_TOKENS);
    await body.ask(greedyAsk({ text }, LAST_TOKENS), () => {}, new AbortController().signal);
  };
  await Promise.all(Array.from({ length: sequences }, ask));
  let peak = 0;
  for (const pid of [body.pid!, ...pids]) {
    const { peak: highest, resident } = await memoryOf(pid);
    peak += Math.max(highest, resident);
  }
  const { ramBytes, vramBytes } = await body.memory();
  return {
    peak_bytes: Math.max(peak, ramBytes),
    vram_bytes: vramBytes,
    load_seconds: seconds,
    tokens_per_second: speeds.map((each) => ({ ...each })),
    threads,
  };
}

/** A text of at most so many tokens, and nearly so many. */
async function fullPrompt(body: ChildBody, word: string, tokens: number): Promise<string> {
  let count = tokens;
  for (;;) {
    const text = word.repeat(Math.max(1, count));
    const ids = await body.call<number[]>({ what: "tokens", prompt: { text } });
    if (ids.length <= tokens || count <= 1) return text;
    count = Math.floor((count * tokens) / ids.length) - 1;
  }
}
