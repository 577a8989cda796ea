// llama.cpp through node-llama-cpp, as an engine nobody here wrote. It is no dependency of this package (90 MB):
// install it beside it with
//
//   npm i --prefix .llama-engine --ignore-scripts --omit=optional node-llama-cpp@3.22.1
// @node-llama-cpp/linux-x64@3.22.1
//
// (another platform: its own @node-llama-cpp/… package). LLAMA_ENGINE names another folder that holds node_modules.
import { existsSync } from "node:fs";
import { join, resolve } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));

/** The engine, or undefined where it is not installed. */
export async function openLlama() {
  const folder = resolve(process.env.LLAMA_ENGINE ?? join(root, ".llama-engine"));
  const entry = join(folder, "node_modules/node-llama-cpp/dist/index.js");
  if (!existsSync(entry)) return undefined;
  const { getLlama } = await import(pathToFileURL(entry).href);
  return getLlama({ build: "never", skipDownload: true, gpu: false, maxThreads: 1, logLevel: "error" });
}

/**
 * Open a GGUF file. One thread: on a busy machine llama.cpp's threads wait for each other in busy loops and take
 * minutes for what one does in a second. Keys and values are kept in F32, so that only the weights' type makes a
 * difference.
 */
export async function openModel(llama, path, contextSize) {
  const model = await llama.loadModel({ modelPath: path, checkTensors: true, useMmap: false });
  const context = await model.createContext({
    contextSize,
    sequences: 1,
    batchSize: contextSize,
    threads: 1,
    flashAttention: false,
    experimentalKvCacheKeyType: "F32",
    experimentalKvCacheValueType: "F32",
  });
  const sequence = context.getSequence();
  return {
    model,
    /** Text → ids, nothing added. */
    tokenize: (text) => model.tokenize(text, false),
    /** Negative log-likelihood (nats) of each token but the first. */
    async nll(ids) {
      await sequence.clearHistory();
      const input = ids.map((token, at) => {
        if (at + 1 === ids.length) return token;
        // `includeMax` gives wrong numbers in this version; the top logit and the total weight are right.
        const logits = { filter: { tokens: [ids[at + 1]], includeTop: 1 } };
        return [token, { generateNext: { logits, totalLogitWeight: true } }];
      });
      const steps = await sequence.controlledEvaluate(input);
      return ids.slice(1).map((token, at) => {
        const { logits, totalLogitWeight } = steps[at].next;
        const top = Math.max(...logits.values());
        return -(logits.get(token) - top - Math.log(totalLogitWeight));
      });
    },
    /** The most likely continuation, `count` tokens at most. */
    async greedy(ids, count) {
      await sequence.clearHistory();
      const found = [];
      for await (const token of sequence.evaluate(ids, { temperature: 0, yieldEogToken: true })) {
        found.push(token);
        if (found.length === count) break;
      }
      return found;
    },
    async close() {
      await context.dispose();
      await model.dispose();
    },
  };
}
