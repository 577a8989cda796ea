import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Tokenizer } from "tokenizers";
import { describe, expect, it } from "vitest";
import { exportGguf } from "../../dist/export/gguf/export.js";
import { describeTokenizer, EMBEDDED_TOKENIZER } from "../../dist/export/gguf/tokenizer.js";
import { rebuildTokenizer } from "../../dist/export/gguf/tokenizer-rebuild.js";
import { hasShared, SHARED } from "../shared.js";
import { temporaryFolder } from "../temporary.js";
import { openLlama, openModel } from "./llama-cpp.js";
import { generator, smallConfig, writeDonor } from "./random-donor.js";

const folder = temporaryFolder();
const llama = await openLlama();
const TEXT =
  "Once upon a time there was a little mould.  It lived in a wood, and the oats were far away; so it grew 1234.";

/** Letters, and pieces of the text with scores by chance, as SentencePiece's Unigram kind has them. */
function unigramTokenizer(change: object = {}): string {
  const random = generator(7);
  const pieces = new Set(["▁", ..."abcdefghijklmnopqrstuvwxyzOI0123456789.,;"]);
  const marked = TEXT.replaceAll(/ +/g, "▁");
  while (pieces.size < 180) {
    const at = Math.floor(random() * (marked.length - 6));
    // As SentencePiece trains them: no piece goes on into the next word.
    const piece = marked.slice(at, at + 2 + Math.floor(random() * 4));
    if (!piece.slice(1).includes("▁")) pieces.add(piece);
  }
  const special = ["<unk>", "<s>", "</s>"];
  const scored = [...pieces].map((piece) => [piece, -2 - 8 * random() - ([...piece].length === 1 ? 4 : 0)]);
  return JSON.stringify({
    version: "1.0",
    added_tokens: special.map((content, id) => ({
      ...{ id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special: true },
    })),
    normalizer: {
      type: "Sequence",
      normalizers: [
        { type: "Strip", strip_left: false, strip_right: true },
        { type: "Replace", pattern: { Regex: " {2,}" }, content: " " },
      ],
    },
    pre_tokenizer: { type: "Metaspace", replacement: "▁", prepend_scheme: "always", split: true },
    post_processor: null,
    decoder: { type: "Metaspace", replacement: "▁", prepend_scheme: "always", split: true },
    model: {
      type: "Unigram",
      unk_id: 0,
      vocab: [...special.map((content) => [content, 0]), ...scored],
      byte_fallback: false,
    },
    ...change,
  });
}

const idsOf = async (tokenizerJson: string, text: string): Promise<number[]> =>
  (await Tokenizer.fromString(tokenizerJson).encode(text)).getIds();

describe("a Unigram tokenizer in GGUF", () => {
  const json = unigramTokenizer();

  it("is t5 to llama.cpp, with scores; rebuilt from the metadata it gives the same ids", async () => {
    const { metadata, warnings } = describeTokenizer({ tokenizerJson: json }, 256);
    expect(metadata.get("tokenizer.ggml.model")).toEqual({ type: "string", value: "t5" });
    expect(warnings).toEqual([]);
    const bare = new Map([...metadata].filter(([key]) => key !== EMBEDDED_TOKENIZER));
    const rebuilt = (await rebuildTokenizer(bare)).tokenizerJson!;
    for (const text of [TEXT, "a  wood ", "x\ty é"])
      expect(await idsOf(rebuilt, text)).toEqual(await idsOf(json, text));
  });

  it.runIf(llama !== undefined)("llama.cpp gives the ids of the reference", async () => {
    const donor = writeDonor(join(folder, "donor"), { config: smallConfig("llama"), tokenizer: true });
    writeFileSync(join(donor, "tokenizer.json"), json);
    writeFileSync(join(donor, "tokenizer_config.json"), JSON.stringify({ eos_token: "</s>", bos_token: null }));
    const path = join(folder, "unigram.gguf");
    await exportGguf(donor, path, { type: "F32" });
    const model = await openModel(llama!, path, 64);
    for (const text of [TEXT, "the wood", "a  wood  ", "an unknown é here"]) {
      expect(model.tokenize(text), text).toEqual(await idsOf(json, text));
    }
    await model.close();
  });

  it("says what llama.cpp does otherwise, and refuses what it does not have", () => {
    const said = (change: object): string =>
      describeTokenizer({ tokenizerJson: unigramTokenizer(change) }, 256).warnings.join();
    const steps = (...normalizers: object[]) => ({ normalizer: { type: "Sequence", normalizers } });
    expect(said(steps({ type: "NFKC" }))).toMatch(/does not normalize by NFKC/);
    expect(said(steps({ type: "Replace", pattern: { Regex: " {2,}" }, content: " " }))).toMatch(
      /drops spaces at the end/,
    );
    expect(() => said(steps({ type: "Lowercase" }))).toThrow(/normalizer "Lowercase"/);
    const { model } = JSON.parse(json);
    expect(said({ model: { ...model, byte_fallback: true } })).toMatch(/becomes the unknown token/);
    expect(() => said({ model: { ...model, vocab: { a: 1 } } })).toThrow(/no list of tokens with their scores/);
  });

  it.runIf(llama !== undefined && hasShared)("a trained one: llama.cpp gives the ids of the reference", async () => {
    const donor = join(SHARED, "inputs/unigram_byte_fallback");
    const path = join(folder, "trained.gguf");
    await exportGguf(donor, path, { type: "F32" });
    const model = await openModel(llama!, path, 64);
    const own = readFileSync(join(donor, "tokenizer.json"), "utf8");
    const text = readFileSync(join(SHARED, "inputs/text.txt"), "utf8").slice(0, 3000);
    const plain = [...text]
      .filter((character) => character.charCodeAt(0) < 127)
      .join("")
      .trimEnd();
    for (const line of plain.split("\n")) expect(model.tokenize(line), line).toEqual(await idsOf(own, line.trimEnd()));
    await model.close();
  });
});
