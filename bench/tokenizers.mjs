// Are our tokens those of the Rust library? Reads cases made by hand with its Python binding, a line of JSON each:
// {"json": text of tokenizer.json, "texts": [...], "ids": [ids of each text, or the library's error as text]}
// usage: node bench/tokenizers.mjs <cases.jsonl>
import { createReadStream } from "node:fs";
import { createInterface } from "node:readline";
import { Vocabulary } from "../dist/probe/text/vocabulary.js";

const counts = { tokenizers: 0, texts: 0, tokens: 0, differing: 0, refused: 0 };
for await (const line of createInterface({ input: createReadStream(process.argv[2]) })) {
  const { json, texts, ids } = JSON.parse(line);
  counts.tokenizers++;
  const vocabulary = await Vocabulary.load(json, {}).catch((error) => error);
  for (const [at, text] of texts.entries()) {
    counts.texts++;
    const ours = await (vocabulary.encode?.(text) ?? Promise.reject(vocabulary)).catch((error) => error);
    if (ours instanceof Error) {
      counts.refused++;
      if (typeof ids[at] !== "string") console.log(`refused: ${JSON.stringify(text)}: ${ours.message}`);
      continue;
    }
    counts.tokens += ours.length;
    if (JSON.stringify([...ours]) === JSON.stringify(ids[at])) continue;
    counts.differing++;
    console.log(`differs: ${JSON.stringify(text)}`);
  }
}
console.log(JSON.stringify(counts));
