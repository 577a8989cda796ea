import { existsSync, mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { type ProtocolOptions, prepareText } from "../../dist/probe/text/protocols.js";
import { openTextFile } from "../../dist/probe/text/text-file.js";
import { tokensOf } from "../../dist/probe/text/token-stream.js";
import { TextTokenizer } from "../../dist/probe/text/tokenizer.js";
import { temporaryFolder as folderOfThisFile } from "../temporary.js";
import { LOAM, sharedDonor } from "./engine-present.js";

/** All folders stand in one that is removed afterwards: a hook that a running test adds does not run. */
const BASE = folderOfThisFile();

function temporaryFolder(): string {
  return mkdtempSync(join(BASE, "t-"));
}

const STORIES = readFileSync("examples/texts/loam-stories.txt", "utf8");

async function* inPieces(text: string, length: number): AsyncGenerator<string> {
  for (let at = 0; at < text.length; at += length) yield text.slice(at, at + length);
}

function prepare(text: string, options: ProtocolOptions = {}, folder = LOAM) {
  return TextTokenizer.with(folder, {}, (tokenizer) => prepareText(text, tokenizer, 512, { window: 16, ...options }));
}

/** A tokenizer that puts `<s>` in front of a text, spells letters, and counts a space in front of the first word. */
function folderWithBos(config: object): string {
  const folder = temporaryFolder();
  const vocab = Object.fromEntries(["<s>", "▁", ..."abcdefghijklmnopqrstuvwxyz\n"].map((token, id) => [token, id]));
  writeFileSync(
    join(folder, "tokenizer.json"),
    JSON.stringify({
      version: "1.0",
      added_tokens: [{ id: 0, content: "<s>", special: true, normalized: false }],
      normalizer: {
        type: "Sequence",
        normalizers: [
          { type: "Prepend", prepend: "▁" },
          { type: "Replace", pattern: { String: " " }, content: "▁" },
        ],
      },
      pre_tokenizer: null,
      post_processor: {
        type: "TemplateProcessing",
        single: [{ SpecialToken: { id: "<s>", type_id: 0 } }, { Sequence: { id: "A", type_id: 0 } }],
        pair: [],
        special_tokens: {},
      },
      decoder: null,
      model: { type: "BPE", vocab, merges: [] },
    }),
  );
  writeFileSync(join(folder, "tokenizer_config.json"), JSON.stringify({ bos_token: "<s>", ...config }));
  return folder;
}

describe("texts of any size", () => {
  const folders = { loam: LOAM, stories260K: sharedDonor("stories260K"), letters: undefined as string | undefined };
  for (const name of ["loam", "stories260K", "letters"] as const) {
    test.skipIf(name === "stories260K" && folders[name] === undefined)(
      `${name}: parts give the tokens of the whole`,
      async () => {
        const folder = folders[name] ?? folderWithBos({});
        const text = name === "letters" ? "the cat sat\non a mat\n".repeat(1500) : STORIES;
        await TextTokenizer.with(folder, {}, async (tokenizer) => {
          const whole = await tokenizer.encode(text);
          for (const wanted of [300, 1000, 2500]) {
            const ids: number[] = [];
            for await (const part of tokensOf(inPieces(text, 777), tokenizer, wanted)) {
              for (const id of part) ids.push(id);
            }
            expect(ids).toEqual(whole.slice(0, wanted));
          }
          const twice: number[] = [];
          for await (const part of tokensOf(inPieces(text.repeat(12), 50_000), tokenizer)) {
            for (const id of part) twice.push(id);
          }
          expect(twice).toEqual(await tokenizer.encode(text.repeat(12)));
        });
      },
    );
  }

  const qwen = "../shared/tokenizers/qwen2.5";
  test.skipIf(!existsSync(qwen))(
    "the first byte that is no UTF-8 is named, megabytes into a file, at a piece's edge",
    async () => {
      const path = join(temporaryFolder(), "text.txt");
      for (const at of [(1 << 20) - 1, 1 << 20, 2_500_000]) {
        const bytes = Buffer.alloc(3_000_000, "naïve ");
        const start = bytes.subarray(0, at).lastIndexOf(" ") + 1;
        bytes.fill(" ", start, at);
        bytes.set([0xf0, 0x9f, 0x41], at);
        writeFileSync(path, bytes);
        await expect(openTextFile(path)).rejects.toMatchObject({
          code: "USAGE_TEXT_ENCODING",
          details: { byteOffset: at },
        });
      }
    },
  );
});

describe("newlines", () => {
  const unix = STORIES.slice(0, 4000);
  const dos = unix.replaceAll("\n", "\r\n");
  const mac = unix.replaceAll("\n", "\r");

  test("are read as the reference reads them, and it is said", async () => {
    const { sequences, record } = await prepare(unix);
    expect(record.newlines).toBeUndefined();
    for (const text of [dos, mac]) {
      const other = await prepare(text);
      expect(other.sequences).toEqual(sequences);
      expect(other.record.newlines).toBe("universal");
    }
    const kept = await prepare(dos, { newlines: "keep" });
    expect(kept.sequences).not.toEqual(sequences);
    expect(kept.record.newlines).toBe("keep");
  });

  test("a line end cut in two is one", async () => {
    const tokenizer = await TextTokenizer.open(LOAM);
    const expected = await prepareText(unix, tokenizer, 512, { window: 16 });
    for (const length of [1, 7]) {
      const { sequences } = await prepareText(inPieces(dos, length), tokenizer, 512, { window: 16 });
      expect(sequences).toEqual(expected.sequences);
    }
    tokenizer.close();
  });
});

describe("BOS", () => {
  const text = "abcdefghijklmnopqrstuvwxyz".repeat(4);

  test("follows the tokenizer: its post-processor, or what its configuration says of add_bos_token", async () => {
    const begins = async (config: object, options: ProtocolOptions = {}) => {
      const { sequences, record, hints } = await prepare(text, options, folderWithBos(config));
      return [record.bos, sequences.filter(({ ids }) => ids[0] === 0).length, hints?.length];
    };
    expect(await begins({})).toEqual(["<s>", 1, 1]);
    expect(await begins({ add_bos_token: true })).toEqual(["<s>", 1, 1]);
    expect(await begins({ add_bos_token: false })).toEqual([null, 0, 0]);
    expect(await begins({}, { bos: false })).toEqual([null, 0, 0]);
    expect(await begins({ add_bos_token: false }, { bos: true })).toEqual(["<s>", 1, 0]);
    expect(await begins({}, { limit: 1 })).toEqual(["<s>", 1, 0]);
  });

  test("each: in every window, in front of the same stream", async () => {
    const folder = folderWithBos({});
    const stream = await TextTokenizer.with(folder, {}, (tokenizer) => tokenizer.encode(text));
    const { sequences, record } = await prepare(text, { bos: "each" }, folder);
    expect(record).toMatchObject({ bos: "<s>", bos_each: true, tokens: 15 * sequences.length });
    expect(sequences.every(({ ids }) => ids.length === 16 && ids[0] === 0)).toBe(true);
    const seen = sequences.flatMap(({ ids }) => ids.slice(1));
    expect(seen).toEqual(stream.slice(0, seen.length));
    const strided = await prepare(text, { bos: "each", stride: 5 }, folder);
    const counted = strided.sequences.flatMap(({ ids, scoreFrom }) => ids.slice(scoreFrom));
    expect(counted).toEqual(stream);
  });
});

describe("tokens as the Rust library gives them", () => {
  const vocab = ["<unk>", "▁", "a", "b", "▁a", "ab"];
  const bytes = Array.from({ length: 256 }, (_, byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`);
  const idsOf = (changes: object, texts: readonly string[]) => {
    const folder = temporaryFolder();
    const json = {
      version: "1.0",
      added_tokens: [],
      normalizer: null,
      pre_tokenizer: null,
      post_processor: null,
      decoder: null,
    };
    writeFileSync(join(folder, "tokenizer.json"), JSON.stringify({ ...json, ...changes }));
    return TextTokenizer.with(folder, {}, (tokenizer) => Promise.all(texts.map((text) => tokenizer.encode(text))));
  };
  const letters = {
    type: "BPE",
    vocab: { a: 0, b: 1, " ": 2, "a ": 3, " b": 4, f: 5 },
    merges: [
      ["a", " "],
      [" ", "b"],
    ],
  };
  const split = (behavior: string) => ({ type: "Split", pattern: { String: " " }, behavior, invert: false });

  test("Unigram spells in bytes what it has no token for, and knows no unknown then", async () => {
    const model = { type: "Unigram", unk_id: 0, byte_fallback: true, vocab: [...vocab, ...bytes].map((t) => [t, -1]) };
    expect(await idsOf({ model }, ["é", "ab\n", ""])).toEqual([[6 + 0xc3, 6 + 0xa9], [5, 6 + 10], []]);
    const without = { ...model, byte_fallback: false };
    expect(await idsOf({ model: without }, ["aééb"])).toEqual([[2, 0, 3]]);
  });

  test("Split puts what it found where its behaviour says", async () => {
    const ids = async (behavior: string) =>
      (await idsOf({ model: letters, pre_tokenizer: split(behavior) }, ["a b"]))[0];
    expect(await ids("MergedWithNext")).toEqual([0, 4]);
    expect(await ids("MergedWithPrevious")).toEqual([3, 1]);
    expect(await ids("Isolated")).toEqual([0, 2, 1]);
    expect(await ids("Removed")).toEqual([0, 1]);
  });

  test("an added token that is a word of its own is none inside of a word", async () => {
    const added = { id: 6, content: "ab", single_word: true, special: false, normalized: false };
    expect(await idsOf({ model: letters, added_tokens: [added] }, ["ab", "fab", "ab b"])).toEqual([
      [6],
      [5, 0, 1],
      [6, 4],
    ]);
  });

  test("lower case is made character by character", async () => {
    const model = { type: "BPE", vocab: { ο: 0, σ: 1, ς: 2 }, merges: [] };
    expect(await idsOf({ model, normalizer: { type: "Lowercase" } }, ["ΟΣ"])).toEqual([[0, 1]]);
  });
});
