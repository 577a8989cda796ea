import type { Tokenizer } from "@huggingface/tokenizers";
import { UnigramModel } from "./unigram.js";

/**
 * Where the JavaScript library gives other tokens than the Rust library, the reference, what it does is replaced; every
 * rule here is the Rust library's.
 * source: huggingface/tokenizers 0.23, `pre_tokenizers/`, `normalizers/utils.rs`, `tokenizer/added_vocabulary.rs`,
 * `models/`
 */
export function mend(tokenizer: Tokenizer, json: Json): void {
  const parts = tokenizer as unknown as Parts;
  mendNormalizer(parts.normalizer, asJson(json.normalizer));
  mendPreTokenizer(parts.pre_tokenizer, asJson(json.pre_tokenizer));
  mendModel(parts.model, asJson(json.model));
  mendAddedTokens(parts);
}

type Json = Readonly<Record<string, unknown>>;

/** The library's objects, as far as they are touched here; its types leave these fields private. */
interface Parts {
  readonly normalizer: { normalizers?: Parts["normalizer"][]; normalize(text: string): string } | null;
  readonly pre_tokenizer: PreTokenizer | null;
  readonly model: {
    fuse_unk: boolean;
    unk_token_id?: number;
    tokens_to_ids: Map<string, number>;
    encode(words: string[]): string[];
  };
  readonly added_tokens_map: ReadonlyMap<string, { readonly single_word: boolean }>;
  readonly splitter_unnormalized: Splitter;
  readonly splitter_normalized: Splitter;
}

interface PreTokenizer {
  readonly tokenizers?: (PreTokenizer | null)[];
  pattern?: RegExp | null;
  pre_tokenize_text(text: string, options?: { section_index?: number }): string[];
}

interface Splitter {
  readonly trie: TrieNode;
  split(text: string): string[];
}

interface TrieNode {
  readonly end?: string;
  readonly [character: string]: TrieNode | string | undefined;
}

function asJson(value: unknown): Json {
  return (value ?? {}) as Json;
}

function mendNormalizer(normalizer: Parts["normalizer"], config: Json): void {
  if (normalizer === null) return;
  const { type, normalizers } = config;
  if (type === "Sequence" && Array.isArray(normalizers)) {
    for (const [at, part] of (normalizer.normalizers ?? []).entries()) mendNormalizer(part, asJson(normalizers[at]));
  }
  if (type === "BertNormalizer" && config.lowercase === true) {
    const normalize = normalizer.normalize.bind(normalizer);
    normalizer.normalize = (text) => normalize(text.replaceAll("Σ", "σ"));
  }
  // Character by character: a capital sigma at the end of a word is no other one than elsewhere.
  if (type === "Strip") {
    normalizer.normalize = (text) => {
      const left = config.strip_left === true ? text.replace(/^\p{White_Space}+/u, "") : text;
      return config.strip_right === true ? left.replace(/(?<!\p{White_Space})\p{White_Space}+$/u, "") : left;
    };
  }
  if (type === "Lowercase") normalizer.normalize = (text) => text.replaceAll("Σ", "σ").toLowerCase();
}

function mendPreTokenizer(part: PreTokenizer | null, config: Json): void {
  if (part === null) return;
  const { type, pretokenizers } = config;
  if (type === "Sequence" && Array.isArray(pretokenizers)) {
    for (const [at, inner] of (part.tokenizers ?? []).entries()) mendPreTokenizer(inner, asJson(pretokenizers[at]));
  } else if (type === "Split" && part.pattern != null) {
    const { pattern } = part;
    const isNothing = asJson(config.pattern).String === "";
    part.pre_tokenize_text = (text) =>
      isNothing ? [text] : splitAt(text, pattern, String(config.behavior), config.invert === true);
  } else if (type === "Punctuation") {
    part.pre_tokenize_text = (text) => splitAt(text, PUNCTUATION, String(config.behavior ?? "Isolated"));
  } else if (type === "Digits") {
    const behavior = config.individual_digits === true ? "Isolated" : "Contiguous";
    part.pre_tokenize_text = (text) => splitAt(text, /\p{N}/gu, behavior);
  } else if (type === "Metaspace") part.pre_tokenize_text = metaspace(config);
  else if (type === "ByteLevel") part.pattern = BYTE_LEVEL;
  else if (type === "Whitespace") part.pre_tokenize_text = (text) => text.match(WORDS_AND_SIGNS) ?? [];
  else if (type === "WhitespaceSplit") part.pre_tokenize_text = (text) => text.match(NO_WHITE_SPACE) ?? [];
  else if (type === "BertPreTokenizer") {
    part.pre_tokenize_text = (text) =>
      (text.match(NO_WHITE_SPACE) ?? []).flatMap((word) => splitAt(word, PUNCTUATION, "Isolated"));
  }
}

/**
 * What JavaScript calls white space and word characters differs: a byte order mark is none, letters beyond ASCII are
 * some.
 */
const NO_WHITE_SPACE = /\P{White_Space}+/gu;
const BYTE_LEVEL =
  /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\p{White_Space}\p{L}\p{N}]+|\p{White_Space}+(?!\P{White_Space})|\p{White_Space}+/gu;
const WORDS_AND_SIGNS =
  /[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]+|[^\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}\p{White_Space}]+/gu;

const PUNCTUATION = /[!-/:-@[-`{-~\p{P}]/gu;

/** Cut a text at what a pattern finds; the behaviour says where the found goes. */
function splitAt(text: string, pattern: RegExp, behavior: string, invert = false): string[] {
  const parts: { text: string; found: boolean }[] = [];
  let end = 0;
  for (const { 0: match, index } of text.matchAll(pattern)) {
    if (index > end) parts.push({ text: text.slice(end, index), found: invert });
    if (match !== "") parts.push({ text: match, found: !invert });
    end = index + match.length;
  }
  if (end < text.length) parts.push({ text: text.slice(end), found: invert });
  switch (behavior.replaceAll("_", "").toLowerCase()) {
    case "removed":
      return parts.filter(({ found }) => !found).map((part) => part.text);
    case "mergedwithprevious":
      return joined(parts, (before, part) => part.found && !before.found);
    case "mergedwithnext":
      return joined(parts, (before, part) => before.found && !part.found);
    case "contiguous":
      return joined(parts, (before, part) => before.found === part.found);
    default:
      return parts.map((part) => part.text);
  }
}

function joined<Part extends { text: string }>(parts: readonly Part[], belongs: (before: Part, part: Part) => boolean) {
  const texts: string[] = [];
  parts.forEach((part, at) => {
    if (at > 0 && belongs(parts[at - 1], part)) texts[texts.length - 1] += part.text;
    else texts.push(part.text);
  });
  return texts;
}

function metaspace(config: Json): PreTokenizer["pre_tokenize_text"] {
  const replacement = typeof config.replacement === "string" ? config.replacement : "▁";
  const scheme = config.add_prefix_space === false ? "never" : String(config.prepend_scheme ?? "always").toLowerCase();
  const found = new RegExp(replacement.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"), "gu");
  return (text, { section_index } = {}) => {
    const spaced = text.replaceAll(" ", replacement);
    const wants = scheme === "always" || (scheme === "first" && section_index === 0);
    const whole = wants && !spaced.startsWith(replacement) ? replacement + spaced : spaced;
    return config.split === false ? [whole] : splitAt(whole, found, "MergedWithNext");
  };
}

function mendModel(model: Parts["model"], config: Json): void {
  if (config.type === "Unigram" || (config.type === undefined && Array.isArray(config.vocab))) {
    const unigram = new UnigramModel(config);
    model.encode = (words) => words.flatMap((word) => unigram.encode(word));
    // It fused what it does not know within each word; words stay apart.
    model.fuse_unk = false;
  } else if (model.fuse_unk) {
    const encode = model.encode.bind(model);
    const isUnknown = (token: string | undefined) =>
      token !== undefined && (model.tokens_to_ids.get(token) ?? model.unk_token_id) === model.unk_token_id;
    model.encode = (words) =>
      words.flatMap((word) => {
        const tokens = encode([word]);
        return tokens.filter((token, at) => !(isUnknown(token) && isUnknown(tokens[at - 1])));
      });
    model.fuse_unk = false;
  }
}

/** A token that is a word of its own is none inside of another word. */
function mendAddedTokens({ added_tokens_map: tokens, splitter_normalized, splitter_unnormalized }: Parts): void {
  if (![...tokens.values()].some((token) => token.single_word)) return;
  for (const splitter of [splitter_normalized, splitter_unnormalized]) {
    splitter.split = (text) => splitAtTokens(text, splitter.trie, (token) => tokens.get(token)?.single_word === true);
  }
}

const WORD_BEFORE = /[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]$/u;
const WORD_AFTER = /^[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]/u;

function splitAtTokens(text: string, trie: TrieNode, isSingleWord: (token: string) => boolean): string[] {
  const parts: string[] = [];
  let start = 0;
  for (let at = 0; at < text.length; ) {
    let token: string | undefined;
    let node: TrieNode | undefined = trie;
    for (let end = at; end < text.length && node !== undefined; end++) {
      node = node[text[end]] as TrieNode | undefined;
      token = node?.end ?? token;
    }
    if (token === undefined) {
      at++;
      continue;
    }
    const end = at + token.length;
    const inWord = WORD_BEFORE.test(text.slice(Math.max(0, at - 2), at)) || WORD_AFTER.test(text.slice(end, end + 2));
    if (!(isSingleWord(token) && inWord)) {
      if (at > start) parts.push(text.slice(start, at));
      parts.push(token);
      start = end;
    }
    at = end;
  }
  if (start < text.length) parts.push(text.slice(start));
  return parts;
}
