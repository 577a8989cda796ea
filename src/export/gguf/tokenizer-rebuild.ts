import { PhysariumError, refuseStopped } from "../../errors.js";
import { PRE_TOKENIZERS } from "./pre-tokenizers.js";
import { EMBEDDED_TOKENIZER, SPACE_MARK, TOKEN_TYPE } from "./tokenizer.js";
import type { GgufMetadata, GgufScalar } from "./types.js";
import { unigram } from "./unigram-rebuild.js";

export interface RebuiltTokenizer {
  /** The text of tokenizer.json; undefined where the file holds no tokenizer that one can say. */
  readonly tokenizerJson: string | undefined;
  readonly tokenizerConfig: Readonly<Record<string, unknown>>;
  readonly warnings: readonly string[];
}

/** Names of splits that are others' under a second name. source: llama.cpp src/llama-vocab.cpp */
const SPLIT_ALIASES: Readonly<Record<string, string>> = {
  "llama-v3": "llama-bpe",
  llama3: "llama-bpe",
  "deepseek-r1-qwen": "qwen2",
};

/**
 * tokenizer.json and tokenizer_config.json from a GGUF file's metadata.
 *
 * A tokenizer.json that the file carries whole is given back as it is; otherwise one is built from tokens, types and
 * merges, or for the SentencePiece kind from the scores, by which any two neighbours that make a token are a merge.
 *
 * Throws `DONOR_GGUF_LIMIT` for a vocabulary that no model has, `STOPPED`.
 */
export async function rebuildTokenizer(metadata: GgufMetadata, signal?: AbortSignal): Promise<RebuiltTokenizer> {
  const warnings: string[] = [];
  const model = text(metadata, "tokenizer.ggml.model");
  const tokens = list(metadata, "tokenizer.ggml.tokens").map(String);
  const types = list(metadata, "tokenizer.ggml.token_type").map(Number);
  const tokenizerConfig = describeConfig(metadata, tokens);
  const embedded = text(metadata, EMBEDDED_TOKENIZER);
  if (embedded !== undefined && embedded.length > MAX_EMBEDDED_CHARACTERS) {
    throw new PhysariumError(
      "DONOR_GGUF_LIMIT",
      `the tokenizer.json in its metadata has ${embedded.length} characters, more than the ` +
        `${MAX_EMBEDDED_CHARACTERS} that are read`,
    );
  }
  if (embedded !== undefined && isJsonObject(embedded)) {
    return { tokenizerJson: embedded, tokenizerConfig, warnings };
  }
  const parts = REBUILT[model ?? ""];
  if (parts === undefined || tokens.length === 0) {
    warnings.push(`the file's tokenizer (${model ?? "none"}) cannot be rebuilt: the folder has no tokenizer.json`);
    return { tokenizerJson: undefined, tokenizerConfig, warnings };
  }
  const shared = {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: addedTokens(tokens, types),
    post_processor: postProcessor(metadata, tokens),
  };
  const json = { ...shared, ...(await parts({ metadata, tokens, types, warnings, signal })) };
  return { tokenizerJson: JSON.stringify(json), tokenizerConfig, warnings };
}

interface TokenizerFile {
  readonly metadata: GgufMetadata;
  readonly tokens: readonly string[];
  readonly types: readonly number[];
  readonly warnings: string[];
  readonly signal: AbortSignal | undefined;
}

/** By `tokenizer.ggml.model`. source: llama.cpp src/llama-vocab.cpp */
const REBUILT: Readonly<Record<string, ((file: TokenizerFile) => object | Promise<object>) | undefined>> = {
  gpt2: byteLevel,
  llama: sentencePiece,
  t5: unigramParts,
};

function byteLevel({ metadata, tokens, types, warnings }: TokenizerFile) {
  const pre = text(metadata, "tokenizer.ggml.pre") ?? "default";
  const known = PRE_TOKENIZERS.find(({ name }) => name === (SPLIT_ALIASES[pre] ?? pre));
  if (known === undefined) {
    warnings.push(
      `the split "${pre}" is not known: the rebuilt tokenizer splits as GPT-2 does and may cut text differently`,
    );
  }
  const { pattern, digitsFirst } = known ?? PRE_TOKENIZERS[0];
  const steps: unknown[] = [];
  if (digitsFirst) steps.push({ type: "Digits", individual_digits: true });
  if (pattern !== undefined) {
    steps.push({ type: "Split", pattern: { Regex: pattern }, behavior: "Isolated", invert: false });
  }
  const bytes = { type: "ByteLevel", add_prefix_space: false, trim_offsets: false };
  steps.push({ ...bytes, use_regex: pattern === undefined });
  return {
    normalizer: pre === "qwen2" ? { type: "NFC" } : null,
    pre_tokenizer: { type: "Sequence", pretokenizers: steps },
    decoder: { ...bytes, use_regex: false },
    model: {
      ...BPE,
      ignore_merges: known?.name === "llama-bpe",
      vocab: vocabulary(tokens, types),
      merges: list(metadata, "tokenizer.ggml.merges").map(String),
    },
  };
}

function unigramParts({ metadata, tokens, types, warnings }: TokenizerFile) {
  const charsmap = list(metadata, "tokenizer.ggml.precompiled_charsmap").map(Number);
  return unigram({
    tokens,
    types,
    scores: list(metadata, "tokenizer.ggml.scores").map(Number),
    charsmap: Uint8Array.from(charsmap),
    prependsSpace: prependsSpace(metadata),
    dropsSpaces: flag(metadata, "tokenizer.ggml.remove_extra_whitespaces"),
    warnings,
  });
}

async function sentencePiece({ metadata, tokens, types, signal }: TokenizerFile) {
  const scores = list(metadata, "tokenizer.ggml.scores").map(Number);
  const normalizers: unknown[] = [{ type: "Replace", pattern: { String: " " }, content: SPACE_MARK }];
  const decoders: unknown[] = [
    { type: "Replace", pattern: { String: SPACE_MARK }, content: " " },
    { type: "ByteFallback" },
    { type: "Fuse" },
  ];
  if (prependsSpace(metadata)) {
    normalizers.unshift({ type: "Prepend", prepend: SPACE_MARK });
    decoders.push({ type: "Strip", content: " ", start: 1, stop: 0 });
  }
  const unknown = tokens[types.indexOf(TOKEN_TYPE.unknown)] ?? null;
  return {
    normalizer: { type: "Sequence", normalizers },
    pre_tokenizer: null,
    decoder: { type: "Sequence", decoders },
    model: {
      ...BPE,
      unk_token: unknown,
      fuse_unk: true,
      byte_fallback: true,
      vocab: vocabulary(tokens, types),
      merges: await mergesFromScores(tokens, types, scores, signal),
    },
  };
}

const BPE = {
  type: "BPE",
  dropout: null,
  unk_token: null,
  continuing_subword_prefix: "",
  end_of_word_suffix: "",
  fuse_unk: false,
  byte_fallback: false,
  ignore_merges: false,
} as const;

/** The largest real tokenizer.json has 40 MB. */
const MAX_EMBEDDED_CHARACTERS = 1 << 27;

/** Real tokens have some hundred characters at most (rows of spaces, dashes); looking for merges is quadratic in them. */
const MAX_TOKEN_LENGTH = 2048;
/** The largest real vocabulary (262,144 tokens) has 513,511. */
const MAX_MERGES = 1 << 21;
/** The largest real vocabulary takes 11 million. */
const MAX_CHARACTERS_COMPARED = 2 ** 29;
/** Tokens between two looks at the signal: a few milliseconds. */
const TOKENS_BETWEEN = 2048;

/**
 * Every way to make a token of two others, by falling score of the token; equal scores keep the order of the ids of
 * their parts. Within limits, because a hostile vocabulary makes the work and its result quadratic.
 */
async function mergesFromScores(
  tokens: readonly string[],
  types: readonly number[],
  scores: readonly number[],
  signal: AbortSignal | undefined,
): Promise<string[]> {
  const idOf = new Map<string, number>();
  tokens.forEach((token, id) => {
    if (types[id] === TOKEN_TYPE.normal) idOf.set(token, id);
  });
  const merges: { pair: string; score: number; left: number; right: number }[] = [];
  let seen = 0;
  let compared = 0;
  for (const [token, id] of idOf) {
    if (++seen % TOKENS_BETWEEN === 0) await new Promise(setImmediate);
    refuseStopped(signal);
    compared += token.length ** 2;
    if (token.length > MAX_TOKEN_LENGTH || compared > MAX_CHARACTERS_COMPARED || merges.length > MAX_MERGES) {
      throw new PhysariumError(
        "DONOR_GGUF_LIMIT",
        `the merges of its tokens are to be found from their scores, and token ${id} (${token.length} characters) is ` +
          "past what any known vocabulary takes; this is no SentencePiece vocabulary",
        { id },
      );
    }
    const characters = [...token];
    let left = "";
    for (let cut = 1; cut < characters.length; cut++) {
      left += characters[cut - 1];
      const right = token.slice(left.length);
      const leftId = idOf.get(left);
      const rightId = idOf.get(right);
      if (leftId === undefined || rightId === undefined) continue;
      merges.push({ pair: `${left} ${right}`, score: scores[id] ?? 0, left: leftId, right: rightId });
    }
  }
  merges.sort((a, b) => b.score - a.score || a.left - b.left || a.right - b.right);
  return merges.map(({ pair }) => pair);
}

/** Token text → id, without padding. As entries: a plain object would move names like "1" and drop "__proto__". */
function vocabulary(tokens: readonly string[], types: readonly number[]): Record<string, number> {
  const entries: [string, number][] = [];
  const seen = new Set<string>();
  tokens.forEach((token, id) => {
    if (types[id] === TOKEN_TYPE.unused || seen.has(token)) return;
    seen.add(token);
    entries.push([token, id]);
  });
  return Object.fromEntries(entries);
}

function addedTokens(tokens: readonly string[], types: readonly number[]): unknown[] {
  const special: readonly number[] = [TOKEN_TYPE.control, TOKEN_TYPE.unknown];
  const added: unknown[] = [];
  tokens.forEach((content, id) => {
    const isSpecial = special.includes(types[id]);
    if (!isSpecial && types[id] !== TOKEN_TYPE.userDefined) return;
    const plain = { single_word: false, lstrip: false, rstrip: false, normalized: false };
    added.push({ id, content, ...plain, special: isSpecial });
  });
  return added;
}

/** A template that puts the first token before a text, where the file says the engine does so. */
function postProcessor(metadata: GgufMetadata, tokens: readonly string[]): unknown {
  const bos = specialToken(metadata, tokens, "bos");
  if (!flag(metadata, "tokenizer.ggml.add_bos_token") || bos === undefined) return null;
  const first = (typeId: number) => ({ SpecialToken: { id: bos.content, type_id: typeId } });
  const sequence = (id: string, typeId: number) => ({ Sequence: { id, type_id: typeId } });
  return {
    type: "TemplateProcessing",
    single: [first(0), sequence("A", 0)],
    pair: [first(0), sequence("A", 0), first(1), sequence("B", 1)],
    special_tokens: { [bos.content]: { id: bos.content, ids: [bos.id], tokens: [bos.content] } },
  };
}

function describeConfig(metadata: GgufMetadata, tokens: readonly string[]): Record<string, unknown> {
  const config: Record<string, unknown> = { tokenizer_class: "PreTrainedTokenizerFast" };
  for (const [field, key] of Object.entries({ bos: "bos", eos: "eos", unk: "unknown", pad: "padding" })) {
    const token = specialToken(metadata, tokens, key);
    if (token !== undefined) config[`${field}_token`] = token.content;
  }
  config.add_bos_token = flag(metadata, "tokenizer.ggml.add_bos_token");
  config.add_eos_token = flag(metadata, "tokenizer.ggml.add_eos_token");
  config.clean_up_tokenization_spaces = false;
  const template = text(metadata, "tokenizer.chat_template");
  if (template !== undefined) config.chat_template = template;
  return config;
}

function specialToken(metadata: GgufMetadata, tokens: readonly string[], key: string) {
  const value = metadata.get(`tokenizer.ggml.${key}_token_id`);
  if (value === undefined || value.type === "array") return undefined;
  const id = Number(value.value);
  const content = tokens[id];
  return content === undefined ? undefined : { id, content };
}

function text(metadata: GgufMetadata, key: string): string | undefined {
  const value = metadata.get(key);
  return value?.type === "string" ? String(value.value) : undefined;
}

/** `add_space_prefix` is true where a file leaves it out. */
function prependsSpace(metadata: GgufMetadata): boolean {
  const value = metadata.get("tokenizer.ggml.add_space_prefix");
  return value?.type !== "bool" || value.value !== false;
}

function flag(metadata: GgufMetadata, key: string): boolean {
  const value = metadata.get(key);
  return value?.type === "bool" && value.value === true;
}

function list(metadata: GgufMetadata, key: string): readonly GgufScalar[] {
  const value = metadata.get(key);
  return value?.type === "array" ? value.values : [];
}

function isJsonObject(candidate: string): boolean {
  try {
    const value: unknown = JSON.parse(candidate);
    return typeof value === "object" && value !== null && !Array.isArray(value);
  } catch {
    return false;
  }
}
