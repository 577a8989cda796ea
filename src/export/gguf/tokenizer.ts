import { PhysariumError } from "../../errors.js";
import { namePreTokenizer } from "./pre-tokenizers.js";
import type { GgufScalar, GgufValue, ScalarType } from "./types.js";
import { type DescribedUnigram, describeUnigram, type UnigramJson } from "./unigram-describe.js";

/** The side files of a model folder that describe its tokenizer, as text; absent ones undefined. */
export interface TokenizerFiles {
  readonly tokenizerJson?: string | undefined;
  readonly tokenizerConfig?: string | undefined;
  /** chat_template.jinja, which newer folders have instead of the field in tokenizer_config.json. */
  readonly chatTemplate?: string | undefined;
}

export interface TokenizerDescription {
  readonly metadata: ReadonlyMap<string, GgufValue>;
  /** What the engine will do otherwise than the donor's tokenizer. */
  readonly warnings: readonly string[];
}

/** `tokenizer.ggml.token_type`. source: llama.cpp `enum llama_token_type` */
export const TOKEN_TYPE = { normal: 1, unknown: 2, control: 3, userDefined: 4, unused: 5, byte: 6 } as const;

/** The key under which a GGUF may carry the whole tokenizer.json. source: ggml-org/ggml docs/gguf.md "Hugging Face" */
export const EMBEDDED_TOKENIZER = "tokenizer.huggingface.json";

interface AddedToken {
  readonly id: number;
  readonly content: string;
  readonly special?: boolean;
}

interface TokenizerJson {
  readonly model?: {
    readonly type?: string;
    readonly vocab?: Readonly<Record<string, number>>;
    readonly merges?: readonly (string | readonly [string, string])[];
    readonly byte_fallback?: boolean;
    readonly unk_token?: string | null;
  };
  readonly added_tokens?: readonly AddedToken[];
  readonly normalizer?: unknown;
  readonly pre_tokenizer?: unknown;
  readonly post_processor?: unknown;
}

/** The word-boundary mark of SentencePiece. */
export const SPACE_MARK = "▁";

/**
 * Tokenizer metadata in llama.cpp's keys, from tokenizer.json and tokenizer_config.json.
 *
 * Byte-pair vocabularies of byte-level kind become `gpt2`, those of SentencePiece kind (`▁`, byte fallback) become
 * `llama`, whose scores are minus the rank of the first merge that makes a token. A folder without tokenizer.json
 * becomes `none`: token ids only. SentencePiece's Unigram kind becomes `t5`.
 * Throws `DONOR_TOKENIZER` for other kinds. source: llama.cpp gguf-py/gguf/vocab.py, src/llama-vocab.cpp
 */
export function describeTokenizer(files: TokenizerFiles, vocabSize: number): TokenizerDescription {
  const metadata = new Map<string, GgufValue>();
  const warnings: string[] = [];
  const set = (key: string, type: ScalarType, value: GgufScalar): void => {
    metadata.set(key, { type, value });
  };
  if (files.tokenizerJson === undefined) {
    set("tokenizer.ggml.model", "string", "none");
    warnings.push("the folder has no tokenizer.json: the file holds no tokenizer and runs on token ids only");
    return { metadata, warnings };
  }
  const json = parseJson<TokenizerJson>(files.tokenizerJson, "tokenizer.json");
  const config = parseJson<Record<string, unknown>>(files.tokenizerConfig ?? "{}", "tokenizer_config.json");
  const { model } = json;
  const unigram = model?.type === "Unigram" ? describeUnigram(json as UnigramJson) : undefined;
  if (model === undefined || (unigram === undefined && (model.type !== "BPE" || typeof model.vocab !== "object"))) {
    throw new PhysariumError(
      "DONOR_TOKENIZER",
      `tokenizer.json: its model is ${JSON.stringify(model?.type)}, only BPE (byte-level or SentencePiece kind) and ` +
        "Unigram can be exported",
      { type: model?.type },
    );
  }
  const isSentencePiece = unigram !== undefined || (model.byte_fallback === true && usesSpaceMark(json));
  const { tokens, types } = listTokens(json, vocabSize, isSentencePiece, unigram);
  const merges = (model.merges ?? []).map((merge) => (typeof merge === "string" ? merge : merge.join(" ")));

  set("tokenizer.ggml.model", "string", unigram !== undefined ? "t5" : isSentencePiece ? "llama" : "gpt2");
  if (isSentencePiece) {
    set("tokenizer.ggml.pre", "string", "default");
  } else {
    const split = namePreTokenizer(json.pre_tokenizer);
    set("tokenizer.ggml.pre", "string", split.name);
    if (split.difference !== undefined) warnings.push(split.difference);
  }
  metadata.set("tokenizer.ggml.tokens", { type: "array", of: "string", values: tokens });
  if (unigram !== undefined) {
    const lowest = unigram.vocab.reduce((least, [, score]) => Math.min(least, score), 0);
    const scores = tokens.map((_, id) => unigram.vocab[id]?.[1] ?? lowest);
    metadata.set("tokenizer.ggml.scores", { type: "array", of: "f32", values: scores });
    for (const [key, value] of unigram.metadata) metadata.set(key, value);
    warnings.push(...unigram.warnings);
  } else if (isSentencePiece) {
    const { scores, unreachable } = scoresFromMerges(tokens, types, merges);
    metadata.set("tokenizer.ggml.scores", { type: "array", of: "f32", values: scores });
    if (unreachable > 0) {
      warnings.push(`${unreachable} tokens that no merge makes get the lowest score; the engine may still form them`);
    }
  }
  metadata.set("tokenizer.ggml.token_type", { type: "array", of: "i32", values: types });
  if (!isSentencePiece) metadata.set("tokenizer.ggml.merges", { type: "array", of: "string", values: merges });

  const idOf = new Map(tokens.map((token, id) => [token, id]));
  const specials = { bos: "bos", eos: "eos", unk: "unknown", pad: "padding" } as const;
  for (const [field, key] of Object.entries(specials)) {
    const content =
      contentOf(config[`${field}_token`]) ?? (field === "unk" ? (model.unk_token ?? undefined) : undefined);
    const named = content === undefined ? undefined : idOf.get(content);
    const id = named ?? (field === "unk" ? unigram?.unknownId : undefined);
    if (id !== undefined) set(`tokenizer.ggml.${key}_token_id`, "u32", id);
  }
  const bos = contentOf(config.bos_token);
  set(
    "tokenizer.ggml.add_bos_token",
    "bool",
    typeof config.add_bos_token === "boolean" ? config.add_bos_token : startsWithToken(json.post_processor, bos),
  );
  set("tokenizer.ggml.add_eos_token", "bool", config.add_eos_token === true);
  if (isSentencePiece) set("tokenizer.ggml.add_space_prefix", "bool", prependsSpace(json));
  const template = files.chatTemplate ?? chatTemplateOf(config.chat_template);
  if (template !== undefined) set("tokenizer.chat_template", "string", template);
  set(EMBEDDED_TOKENIZER, "string", files.tokenizerJson);
  return { metadata, warnings };
}

export function parseJson<T>(text: string, file: string): T {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new PhysariumError(
      "DONOR_TOKENIZER",
      `${file}: not valid JSON (${(error as Error).message})`,
      { file },
      error,
    );
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw new PhysariumError("DONOR_TOKENIZER", `${file}: expected an object`, { file });
  }
  return value as T;
}

/** One token and one type for each row of the embedding; rows that no token has are padding. */
function listTokens(
  json: TokenizerJson,
  vocabSize: number,
  isSentencePiece: boolean,
  unigram: DescribedUnigram | undefined,
) {
  const tokens: (string | undefined)[] = new Array(vocabSize).fill(undefined);
  const types: number[] = new Array(vocabSize).fill(TOKEN_TYPE.unused);
  const place = (content: string, id: number, type: number): void => {
    if (!Number.isSafeInteger(id) || id < 0 || id >= vocabSize) {
      throw new PhysariumError(
        "DONOR_TOKENIZER",
        `tokenizer.json: token ${JSON.stringify(content)} has id ${id}, the embedding has ${vocabSize} rows; ` +
          "config.json and tokenizer.json do not belong together",
        { id, vocabSize },
      );
    }
    tokens[id] = content;
    types[id] = type;
  };
  const spelled: [string, number][] =
    unigram === undefined
      ? Object.entries(json.model?.vocab ?? {})
      : unigram.vocab.map(([content], id): [string, number] => [content, id]);
  for (const [content, id] of spelled) {
    const isByte = isSentencePiece && /^<0x[0-9A-F]{2}>$/.test(content);
    place(content, id, isByte ? TOKEN_TYPE.byte : TOKEN_TYPE.normal);
  }
  for (const { content, id, special } of json.added_tokens ?? []) {
    const isUnknown = isSentencePiece && (content === json.model?.unk_token || id === unigram?.unknownId);
    place(content, id, isUnknown ? TOKEN_TYPE.unknown : special ? TOKEN_TYPE.control : TOKEN_TYPE.userDefined);
  }
  if (unigram?.unknownId !== undefined && unigram.unknownId < vocabSize) types[unigram.unknownId] = TOKEN_TYPE.unknown;
  return { tokens: tokens.map((token, id) => token ?? `[PAD${id}]`), types };
}

/**
 * llama.cpp joins the neighbours whose union scores highest, tokenizer.json the pair ranked first: with minus the rank
 * as score both choose alike. Single characters need no score; a longer token that no merge makes must come last.
 */
function scoresFromMerges(tokens: readonly string[], types: readonly number[], merges: readonly string[]) {
  const rankOf = new Map<string, number>();
  merges.forEach((merge, rank) => {
    const made = merge.replace(" ", "");
    if (!rankOf.has(made)) rankOf.set(made, rank);
  });
  let unreachable = 0;
  const scores = tokens.map((token, id) => {
    if (types[id] !== TOKEN_TYPE.normal) return 0;
    const rank = rankOf.get(token);
    if (rank !== undefined) return -rank;
    if ([...token].length > 1) unreachable++;
    return -merges.length;
  });
  return { scores, unreachable };
}

function usesSpaceMark(json: TokenizerJson): boolean {
  return JSON.stringify([json.normalizer ?? null, json.pre_tokenizer ?? null]).includes(SPACE_MARK);
}

/** Whether text gets a leading space: a `Prepend` normaliser, or a `Metaspace` that is not told otherwise. */
function prependsSpace(json: TokenizerJson): boolean {
  const text = JSON.stringify([json.normalizer ?? null, json.pre_tokenizer ?? null]);
  if (text.includes('"type":"Prepend"')) return true;
  return (
    text.includes('"type":"Metaspace"') &&
    !text.includes('"prepend_scheme":"never"') &&
    !text.includes('"add_prefix_space":false')
  );
}

/** Whether the post-processor's template for one text opens with this token. */
function startsWithToken(postProcessor: unknown, token: string | undefined): boolean {
  if (token === undefined || typeof postProcessor !== "object" || postProcessor === null) return false;
  const step = postProcessor as { type?: string; single?: unknown[]; processors?: unknown[] };
  if (step.type === "Sequence") return (step.processors ?? []).some((inner) => startsWithToken(inner, token));
  const first = (step.single?.[0] ?? {}) as { SpecialToken?: { id?: string } };
  return step.type === "TemplateProcessing" && first.SpecialToken?.id === token;
}

/** A special token stands as text or as an object with its content. */
function contentOf(token: unknown): string | undefined {
  if (typeof token === "string") return token;
  const content = (token as { content?: unknown } | null | undefined)?.content;
  return typeof content === "string" ? content : undefined;
}

/** The template, or of several named ones the default. */
function chatTemplateOf(template: unknown): string | undefined {
  if (typeof template === "string") return template;
  if (!Array.isArray(template)) return undefined;
  const named = template as { name?: string; template?: string }[];
  return (named.find(({ name }) => name === "default") ?? named[0])?.template;
}
