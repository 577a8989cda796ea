import type { ScoredSequence } from "./protocols.js";
import type { TextTokenizer } from "./tokenizer.js";

/** Bytes of text that the scored tokens stand for; `undefined` where a token of them stands for none alone. */
export function bytesPredicted(sequences: readonly ScoredSequence[], tokenizer: TextTokenizer): number | undefined {
  const lengths = new Map<number, number | undefined>();
  let bytes = 0;
  for (const { ids, scoreFrom } of sequences) {
    for (let at = scoreFrom; at < ids.length; at++) {
      if (!lengths.has(ids[at])) lengths.set(ids[at], tokenizer.byteLengthOf(ids[at]));
      const length = lengths.get(ids[at]);
      if (length === undefined) return undefined;
      bytes += length;
    }
  }
  return bytes;
}
