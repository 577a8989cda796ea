import { BATCH_TOKENS } from "../plan/footprint.js";
import type { LlamaModel, LlamaSequence } from "./load-library.js";
import type { Speed } from "./protocol.js";

/** Places asked for at once: the library makes a map of the vocabulary for each. */
const PLACES_AT_ONCE = 16;

/**
 * ln p of every token behind each place from `from` − 1 on, exactly: logits less the logarithm of their sum, in f64.
 *
 * returns  (ids.length − from, vocabulary); row i predicts `ids[from + i]`
 */
export async function measureDistributions(
  sequence: LlamaSequence,
  ids: readonly number[],
  from: number,
): Promise<{ values: Float32Array; places: number }> {
  const places = ids.length - from;
  let values = new Float32Array(0);
  let vocabulary = 0;
  if (from > 1) await sequence.evaluateWithoutGeneratingNewTokens(ids.slice(0, from - 1));
  for (let begin = from - 1; begin < ids.length - 1; begin += PLACES_AT_ONCE) {
    const part = ids.slice(begin, Math.min(begin + PLACES_AT_ONCE, ids.length - 1));
    const steps = await sequence.controlledEvaluate(part.map((id) => [id, { generateNext: { logits: true } }]));
    steps.forEach((step, at) => {
      const logits = step?.next.logits;
      if (logits === undefined) throw new Error("the engine gave no logits");
      if (vocabulary === 0) {
        vocabulary = logits.size;
        values = new Float32Array(places * vocabulary);
      }
      const row = values.subarray((begin - from + 1 + at) * vocabulary, (begin - from + 2 + at) * vocabulary);
      let most = Number.NEGATIVE_INFINITY;
      for (const logit of logits.values()) if (logit > most) most = logit;
      let sum = 0;
      for (const logit of logits.values()) sum += Math.exp(logit - most);
      const shift = most + Math.log(sum);
      for (const [token, logit] of logits) row[token] = logit - shift;
    });
  }
  return { values, places };
}

/** The most likely tokens behind a prompt, and whether every logit on the way was a number. */
export async function measureGreedy(
  sequence: LlamaSequence,
  model: LlamaModel,
  ids: readonly number[],
  count: number,
): Promise<{ ids: number[]; finite: boolean }> {
  const found: number[] = [];
  let finite = true;
  let next: readonly number[] = ids;
  while (found.length < count) {
    const steps = await sequence.controlledEvaluate(
      next.map((id, at) =>
        at + 1 < next.length
          ? id
          : [
              id,
              {
                generateNext: {
                  token: true,
                  logits: { filter: { tokens: [], includeTop: 1 } },
                  totalLogitWeight: true,
                  options: { temperature: 0 },
                },
              },
            ],
      ),
    );
    const step = steps[next.length - 1]?.next;
    const [top] = [...(step?.logits?.entries() ?? [])];
    finite &&= top !== undefined && Number.isFinite(top[1]) && Number.isFinite(step?.totalLogitWeight ?? Number.NaN);
    const token = step?.token;
    if (token === undefined || token === null || !finite || model.isEogToken(token)) break;
    found.push(token);
    next = [token];
  }
  return { ids: found, finite };
}

const SPEED_PROMPT = 64;
const SPEED_ANSWER = 16;

/** Tokens a second with so many threads, in a context of its own. */
export async function measureSpeed(model: LlamaModel, contextSize: number, threads: number): Promise<Speed> {
  const context = await model.createContext({
    contextSize,
    sequences: 1,
    batchSize: Math.min(BATCH_TOKENS, contextSize),
    threads: { ideal: threads, min: threads },
    ignoreMemorySafetyChecks: true,
    failedCreationRemedy: false,
  });
  try {
    const sequence = context.getSequence();
    const [first] = model.tokenize("The", false);
    const length = Math.max(1, Math.min(SPEED_PROMPT, Math.floor(contextSize / 2)));
    const prompt = new Array<number>(length).fill(first);
    await sequence.evaluateWithoutGeneratingNewTokens(prompt.slice(0, 1));
    await sequence.clearHistory();
    let started = performance.now();
    await sequence.evaluateWithoutGeneratingNewTokens(prompt);
    const promptSeconds = (performance.now() - started) / 1000;
    const answers = Math.max(1, Math.min(SPEED_ANSWER, contextSize - length - 2));
    started = performance.now();
    let count = 0;
    for await (const _ of sequence.evaluate([first], { temperature: 0, yieldEogToken: true }))
      if (++count >= answers) break;
    return { threads, prompt: length / promptSeconds, answer: count / ((performance.now() - started) / 1000) };
  } finally {
    await context.dispose();
  }
}
