import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { Tokenizer } from "tokenizers";
import { describe, expect, it } from "vitest";
import { GPT2_PATTERN, namePreTokenizer, PRE_TOKENIZERS } from "../../dist/export/gguf/pre-tokenizers.js";
import { describeTokenizer, EMBEDDED_TOKENIZER, TOKEN_TYPE } from "../../dist/export/gguf/tokenizer.js";
import { rebuildTokenizer } from "../../dist/export/gguf/tokenizer-rebuild.js";
import type { GgufScalar, GgufValue } from "../../dist/export/gguf/types.js";
import { aSecond } from "../soon.js";
import { byteTokenizer } from "./random-donor.js";

const repository = new URL("../..", import.meta.url).pathname;
const shared = join(repository, "..", "shared");
const read = (folder: string, file: string): string => readFileSync(join(folder, file), "utf8");

const PROSE =
  "Once upon a time, there was a little girl named Lily. She didn't know 1234 things, but she'd counted 56!\n\n" +
  'The "park" was   far -- very far;\tso they walked (slowly). ROMEO: What light?\r\n  Indented text, and an end.   ';
const UNICODE = "Zażółć gęślą jaźń — naïve café, 東京 2026年, Ελληνικά, emoji 🐝🧪, ½ and ²";

/** The donor's own tokenizer and one rebuilt from metadata alone must give the same ids. */
async function expectSameIds(folder: string, vocabSize: number, texts: readonly string[]): Promise<void> {
  const files = {
    tokenizerJson: read(folder, "tokenizer.json"),
    tokenizerConfig: read(folder, "tokenizer_config.json"),
  };
  const metadata = new Map(describeTokenizer(files, vocabSize).metadata);
  metadata.delete(EMBEDDED_TOKENIZER);
  const rebuilt = await rebuildTokenizer(metadata);
  const own = Tokenizer.fromString(files.tokenizerJson);
  const other = Tokenizer.fromString(rebuilt.tokenizerJson ?? "");
  for (const text of texts) {
    const ids = (await own.encode(text)).getIds();
    expect((await other.encode(text)).getIds()).toEqual(ids);
    if (ids.length > 0) expect(await other.decode(ids, false)).toBe(await own.decode(ids, false));
  }
}

describe("tokenizers rebuilt from metadata give the ids of the donor's", () => {
  it("loam: byte-level, its own split, ASCII text", async () => {
    await expectSameIds(join(repository, "examples/donors/loam"), 2048, [
      PROSE,
      "<|endoftext|>",
      "a<|endoftext|>b",
      "",
    ]);
  });

  const stories = join(shared, "donors/stories260K");
  it.runIf(existsSync(stories))("stories260K: SentencePiece kind, whole stories", async () => {
    const text = read(join(shared, "text"), "tinystories_dev.txt").slice(0, 60_000);
    await expectSameIds(stories, 512, [PROSE, UNICODE, ...text.split("<|endoftext|>")]);
  });

  const qwen = join(shared, "tokenizers/qwen2.5");
  it.runIf(existsSync(qwen))("Qwen2.5: 151,643 tokens, 22 added ones, Unicode", async () => {
    await expectSameIds(qwen, 152_064, [PROSE, UNICODE, "<|im_start|>user\nHi<|im_end|>", "x<|fim_prefix|>y"]);
  });

  if (!existsSync(shared)) console.log(`skipped: stories260K and Qwen2.5, ${shared} is not there`);
});

describe("metadata", () => {
  const config = JSON.stringify({ bos_token: { content: "<s>" }, eos_token: "</s>", chat_template: "{{ x }}" });
  const spm = (extra: Record<string, unknown> = {}) =>
    JSON.stringify({
      added_tokens: [
        { id: 0, content: "<unk>", special: true },
        { id: 1, content: "<s>", special: true },
        { id: 2, content: "</s>", special: true },
      ],
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
      },
      model: {
        type: "BPE",
        unk_token: "<unk>",
        byte_fallback: true,
        vocab: { "<unk>": 0, "<s>": 1, "</s>": 2, "<0x0A>": 3, a: 4, b: 5, ab: 6, "▁": 7, "▁ab": 8 },
        merges: ["a b", ["▁", "ab"]],
      },
      ...extra,
    });
  const valuesOf = (metadata: ReadonlyMap<string, GgufValue>, key: string) => {
    const value = metadata.get(key);
    return value?.type === "array" ? value.values : value?.value;
  };

  it("SentencePiece kind: scores are minus the ranks, types and flags follow", () => {
    const { metadata, warnings } = describeTokenizer({ tokenizerJson: spm(), tokenizerConfig: config }, 10);
    expect(valuesOf(metadata, "tokenizer.ggml.model")).toBe("llama");
    expect(valuesOf(metadata, "tokenizer.ggml.tokens")).toEqual([
      "<unk>",
      "<s>",
      "</s>",
      "<0x0A>",
      "a",
      "b",
      "ab",
      "▁",
      "▁ab",
      "[PAD9]",
    ]);
    expect(valuesOf(metadata, "tokenizer.ggml.token_type")).toEqual([2, 3, 3, 6, 1, 1, 1, 1, 1, TOKEN_TYPE.unused]);
    expect(valuesOf(metadata, "tokenizer.ggml.scores")).toEqual([0, 0, 0, 0, -2, -2, -0, -2, -1, 0]);
    expect(valuesOf(metadata, "tokenizer.ggml.add_bos_token")).toBe(true);
    expect(valuesOf(metadata, "tokenizer.ggml.add_space_prefix")).toBe(true);
    expect(valuesOf(metadata, "tokenizer.ggml.bos_token_id")).toBe(1);
    expect(valuesOf(metadata, "tokenizer.ggml.eos_token_id")).toBe(2);
    expect(valuesOf(metadata, "tokenizer.ggml.unknown_token_id")).toBe(0);
    expect(valuesOf(metadata, "tokenizer.chat_template")).toBe("{{ x }}");
    expect(warnings).toEqual([]);
  });

  it("a chat template of its own file wins; of several named ones the default is taken", () => {
    const named = JSON.stringify({
      chat_template: [
        { name: "tool_use", template: "T" },
        { name: "default", template: "D" },
      ],
    });
    const files = { tokenizerJson: spm(), tokenizerConfig: named };
    expect(valuesOf(describeTokenizer(files, 9).metadata, "tokenizer.chat_template")).toBe("D");
    const { metadata } = describeTokenizer({ ...files, chatTemplate: "J" }, 9);
    expect(valuesOf(metadata, "tokenizer.chat_template")).toBe("J");
  });

  it("tokens beyond the embedding, other models and broken JSON are refused", () => {
    const code = (json: string, size = 9): string => {
      try {
        describeTokenizer({ tokenizerJson: json }, size);
        return "accepted";
      } catch (error) {
        return (error as { code: string }).code;
      }
    };
    expect(code(spm())).toBe("accepted");
    expect(code(spm(), 8)).toBe("DONOR_TOKENIZER");
    expect(code(spm({ model: { type: "WordPiece", vocab: {} } }))).toBe("DONOR_TOKENIZER");
    expect(code("{")).toBe("DONOR_TOKENIZER");
    expect(code("[]")).toBe("DONOR_TOKENIZER");
  });

  it("without tokenizer.json the file says that it has none", () => {
    const { metadata, warnings } = describeTokenizer({}, 9);
    expect(valuesOf(metadata, "tokenizer.ggml.model")).toBe("none");
    expect(warnings).toHaveLength(1);
  });
});

describe("a hostile SentencePiece vocabulary", () => {
  const vocabularyOf = (tokens: readonly string[]) => {
    const array = <T extends "string" | "i32" | "f32">(of: T, values: readonly GgufScalar[]) => ({
      type: "array" as const,
      of,
      values,
    });
    return new Map<string, GgufValue>([
      ["tokenizer.ggml.model", { type: "string", value: "llama" }],
      ["tokenizer.ggml.tokens", array("string", tokens)],
      [
        "tokenizer.ggml.token_type",
        array(
          "i32",
          tokens.map(() => 1),
        ),
      ],
      [
        "tokenizer.ggml.scores",
        array(
          "f32",
          tokens.map(() => 0),
        ),
      ],
    ]);
  };
  /** All words of two letters up to a length: any of them is made of two others wherever it is cut. */
  const everyWord = (longest: number) =>
    Array.from({ length: longest }, (_, n) =>
      Array.from({ length: 2 ** (n + 1) }, (_, word) => word.toString(2).padStart(n + 1, "0")),
    ).flat();
  const runs = (count: number, length: number) =>
    Array.from({ length: count }, (_, n) => "ab".repeat(length).slice(0, length) + n);

  it.each([
    ["one token of a megabyte", ["a".repeat(2 ** 20)]],
    ["more long tokens than any vocabulary has", runs(500, 2000)],
    ["more merges than any vocabulary has", everyWord(18)],
  ])("%s is refused soon", async (_, tokens) => {
    const started = performance.now();
    await expect(rebuildTokenizer(vocabularyOf(tokens))).rejects.toMatchObject({ code: "DONOR_GGUF_LIMIT" });
    expect((performance.now() - started) / 1000).toBeLessThan(10 * aSecond());
  });

  it("is left in the middle when a signal comes", async () => {
    const tokens = Array.from({ length: 500_000 }, (_, n) => `${n}`);
    const stop = new AbortController();
    const rebuilding = rebuildTokenizer(vocabularyOf(tokens), stop.signal);
    setTimeout(() => stop.abort(), 5);
    await expect(rebuilding).rejects.toMatchObject({ code: "STOPPED" });
  });
});

describe("splits", () => {
  it("every known split is named by what it is", () => {
    for (const { name, pattern, digitsFirst } of PRE_TOKENIZERS) {
      const pretokenizers = [
        ...(digitsFirst ? [{ type: "Digits", individual_digits: true }] : []),
        ...(pattern === undefined ? [] : [{ type: "Split", pattern: { Regex: pattern } }]),
        { type: "ByteLevel", use_regex: pattern === undefined },
      ];
      expect(namePreTokenizer({ type: "Sequence", pretokenizers })).toEqual({ name, difference: undefined });
    }
  });

  it("an unknown one falls back to gpt-2 and says so", () => {
    const other = {
      type: "Sequence",
      pretokenizers: [
        { type: "Split", pattern: { Regex: "\\w+" } },
        { type: "ByteLevel", use_regex: false },
      ],
    };
    expect(namePreTokenizer(other).difference).toMatch(/may cut text differently/);
    // A Split followed by ByteLevel's own split cuts twice: no name stands for that.
    const twice = {
      type: "Sequence",
      pretokenizers: [
        { type: "Split", pattern: { Regex: GPT2_PATTERN } },
        { type: "ByteLevel", use_regex: true },
      ],
    };
    expect(namePreTokenizer(twice).difference).toBeDefined();
    expect(namePreTokenizer(byteTokenizer().pre_tokenizer)).toEqual({ name: "gpt-2", difference: undefined });
  });
});

describe("a Unigram vocabulary (t5) is rebuilt", () => {
  const { normal, unknown, control, byte } = TOKEN_TYPE;
  const bytes = Array.from({ length: 256 }, (_, at) => `<0x${at.toString(16).toUpperCase().padStart(2, "0")}>`);
  const strings = (values: string[]): GgufValue => ({ type: "array", of: "string", values });
  const metadataOf = (withBytes: boolean, extra: [string, GgufValue][] = []) => {
    const tokens = ["<unk>", "</s>", "▁", "▁a", "b", "ab", "▁ab", ...(withBytes ? bytes : [])];
    const types = [unknown, control, ...Array(5).fill(normal), ...(withBytes ? Array(256).fill(byte) : [])];
    const scores = [0, 0, -3, -2, -2.5, -2.5, -1, ...(withBytes ? Array(256).fill(-20) : [])];
    return new Map<string, GgufValue>([
      ["tokenizer.ggml.model", { type: "string", value: "t5" }],
      ["tokenizer.ggml.tokens", strings(tokens)],
      ["tokenizer.ggml.token_type", { type: "array", of: "i32", values: types }],
      ["tokenizer.ggml.scores", { type: "array", of: "f32", values: scores }],
      ...extra,
    ]);
  };
  const idsOf = async (metadata: Map<string, GgufValue>, text: string) => {
    const { tokenizerJson, warnings } = await rebuildTokenizer(metadata);
    expect(warnings).toEqual([]);
    return (await Tokenizer.fromString(tokenizerJson ?? "").encode(text)).getIds();
  };

  it("by the best sum of scores, with and without bytes", async () => {
    expect(await idsOf(metadataOf(false), "ab a é</s>")).toEqual([6, 3, 2, 0, 1]);
    expect(await idsOf(metadataOf(true), "é")).toEqual([2, 7 + 0xc3, 7 + 0xa9]);
  });

  it("as the file says of spaces", async () => {
    const flag = (key: string, value: boolean): [string, GgufValue] => [
      `tokenizer.ggml.${key}`,
      { type: "bool", value },
    ];
    expect(await idsOf(metadataOf(false, [flag("add_space_prefix", false)]), "ab")).toEqual([5]);
    expect(await idsOf(metadataOf(false), "ab  ab ")).toEqual([6, 2, 6, 2]);
    expect(await idsOf(metadataOf(false, [flag("remove_extra_whitespaces", true)]), "ab  ab ")).toEqual([6, 6]);
  });
});
