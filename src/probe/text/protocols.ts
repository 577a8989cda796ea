import { PhysariumError } from "../../errors.js";
import type { ProtocolRecord } from "../../record/quality.js";
import {
  documentsOf,
  joinRows,
  type Newlines,
  ROW_JOINER,
  readNewlines,
  type Seen,
  streamOf,
  type TextStream,
} from "./text-stream.js";
import { tokensOf } from "./token-stream.js";
import type { SpecialToken, TextTokenizer } from "./tokenizer.js";

/** Tokens that go through the model together; the predictions of places `scoreFrom … ids.length − 1` count. */
export interface ScoredSequence {
  readonly ids: readonly number[];
  /** At least 1: the first token of a sequence has nothing to be predicted from. */
  readonly scoreFrom: number;
}

export interface ProtocolOptions {
  readonly protocol?: "wikitext" | "documents";
  /** Tokens a window; default min(2048, max_position_embeddings). */
  readonly window?: number;
  /** Makes the windows overlap. */
  readonly stride?: number;
  /**
   * The token that begins the stream (or each document): `true` for the tokenizer's own, `"each"` for that in every
   * window, or a token's text. Default: for a stream what the tokenizer itself puts in front of a text, for documents
   * its BOS.
   */
  readonly bos?: boolean | string;
  /** How line ends of other systems are read. */
  readonly newlines?: Newlines;
  /**
   * The file's lines are rows of WikiText, to be joined by a blank line as the datasets library and the scripts of GPTQ
   * have them.
   */
  readonly rows?: boolean;
  /** Text between documents. */
  readonly separator?: string;
  /** Leave out documents of fewer tokens (BOS included). */
  readonly minTokens?: number;
  /** Leave out so many windows or documents at the start of the text. */
  readonly skip?: number;
  /** At most so many windows or documents. */
  readonly limit?: number;
}

export interface PreparedText {
  readonly record: ProtocolRecord;
  readonly sequences: readonly ScoredSequence[];
  /** Places of the text that the vocabulary could not spell. */
  readonly unknownTokens: number;
  /** What somebody who reads the numbers should know, in sentences. */
  readonly hints?: readonly string[];
}

export const DEFAULT_SEPARATOR = "<|endoftext|>";
export const DEFAULT_MAX_WINDOW = 2048;
/** More tokens than this are weeks of work, and an array that large could not be held. */
const MAX_KEPT_TOKENS = 1 << 26;

/**
 * Make a text into sequences to score, by one of the field's protocols. Of a long text only as much is read and becomes
 * tokens as `skip` and `limit` need.
 *
 * `wikitext`: the text is one stream of tokens, cut into windows side by side; a last partial window is dropped.
 * source: GPTQ, arXiv:2210.17323, datautils.py and llama.py; SparseGPT and Wanda use the same. `stride`: windows
 * overlap and each token counts once, with the longest context it ever gets, the rest at the end included. source:
 * transformers documentation, "Perplexity of fixed-length models". `documents`: each document alone, from BOS, cut to
 * the window.
 *
 * Throws `USAGE_WINDOW`, `USAGE_STRIDE`, `USAGE_BOS` for options that make no sense, `USAGE_TEXT_EMPTY`,
 * `USAGE_TEXT_SHORT`, `USAGE_TEXT_UNKNOWN` for texts that leave nothing to count, `USAGE_TEXT_LONG` for more tokens
 * than can be held, `DONOR_TOKENIZER`.
 */
export async function prepareText(
  text: string | TextStream,
  tokenizer: TextTokenizer,
  maxPositions: number,
  options: ProtocolOptions = {},
): Promise<PreparedText> {
  const window = options.window ?? Math.min(DEFAULT_MAX_WINDOW, maxPositions);
  if (!Number.isSafeInteger(window) || window < 2 || window > maxPositions) {
    throw new PhysariumError(
      "USAGE_WINDOW",
      `--window ${window}: a window has 2 to ${maxPositions} tokens (the model's max_position_embeddings)`,
      { window, maxPositions },
    );
  }
  const { stride = window } = options;
  if (options.stride !== undefined) checkStride(stride, window, options);
  const seen: Seen = { carriageReturn: false, text: false };
  const newlines = options.newlines ?? "universal";
  const read = readNewlines(streamOf(text), newlines, seen);
  const bos = await chosenBos(tokenizer, options);
  const isDocuments = options.protocol === "documents";
  const cut = isDocuments
    ? await documents(read, tokenizer, window, bos, options)
    : await windows(options.rows ? joinRows(read) : read, tokenizer, window, bos, options);
  if (!seen.text) throw new PhysariumError("USAGE_TEXT_EMPTY", "the text is empty; there is nothing to predict");
  const { sequences } = cut;
  if (sequences.length === 0) throw isDocuments ? noDocument() : tooShort(cut.tokens, window);
  const unknownTokens = countUnknown(cut.kept, tokenizer);
  const chosen = sequences.slice(
    options.skip ?? 0,
    options.limit === undefined ? undefined : (options.skip ?? 0) + options.limit,
  );
  if (chosen.length === 0) throw nothingLeft(options.skip ?? 0, sequences.length);
  const isEach = !isDocuments && options.bos === "each";
  const record: ProtocolRecord = {
    name: isDocuments ? "documents" : options.stride === undefined ? "wikitext" : "strided",
    window,
    stride,
    bos: bos?.text ?? null,
    joiner: options.rows && !isDocuments ? ROW_JOINER : null,
    separator: isDocuments ? (options.separator ?? DEFAULT_SEPARATOR) : null,
    windows: chosen.length,
    documents: isDocuments ? chosen.length : 1,
    tokens: chosen.reduce((sum, { ids, scoreFrom }) => sum + ids.length - scoreFrom, 0),
    ...(isEach ? { bos_each: true } : {}),
    ...(seen.carriageReturn ? { newlines } : {}),
  };
  return { record, sequences: chosen, unknownTokens, hints: hintsOf(record, tokenizer, options) };
}

interface Cut {
  readonly sequences: readonly ScoredSequence[];
  /** What was read of the text: all of it, or what was needed. */
  readonly kept: Iterable<readonly number[]>;
  readonly tokens: number;
}

/** One stream of tokens from BOS, cut into windows. */
async function windows(
  text: TextStream,
  tokenizer: TextTokenizer,
  window: number,
  bos: SpecialToken | undefined,
  { stride, bos: asked, skip = 0, limit }: ProtocolOptions,
): Promise<Cut> {
  // A BOS in every window takes a place there, and none in the stream.
  const each = asked === "each" && bos !== undefined ? [bos.id] : [];
  const width = window - each.length;
  const stream: number[] = each.length > 0 || bos === undefined ? [] : [bos.id];
  const wanted = limit === undefined || stride !== undefined ? Number.POSITIVE_INFINITY : (skip + limit) * width;
  for await (const ids of tokensOf(text, tokenizer, wanted - stream.length)) {
    // One by one: a call takes only so many arguments.
    for (const id of ids) stream.push(id);
    refuseTooMany(stream.length);
  }
  const parts = stride === undefined ? sideBySide(stream, width) : strided(stream, width, stride);
  const sequences = parts.map(({ ids, scoreFrom }) =>
    each.length === 0 ? { ids, scoreFrom } : { ids: [...each, ...ids], scoreFrom: scoreFrom === 1 ? 1 : scoreFrom + 1 },
  );
  return { sequences, kept: [stream], tokens: stream.length + each.length };
}

function sideBySide(stream: readonly number[], window: number): ScoredSequence[] {
  return Array.from({ length: Math.floor(stream.length / window) }, (_, at) => ({
    ids: stream.slice(at * window, (at + 1) * window),
    scoreFrom: 1,
  }));
}

function strided(stream: readonly number[], window: number, stride: number): ScoredSequence[] {
  const sequences: ScoredSequence[] = [];
  let counted = 0;
  for (let start = 0; counted < stream.length; start += stride) {
    const end = Math.min(start + window, stream.length);
    const scoreFrom = Math.max(counted - start, 1);
    if (end - start > scoreFrom) sequences.push({ ids: stream.slice(start, end), scoreFrom });
    counted = end;
  }
  return sequences;
}

async function documents(
  text: TextStream,
  tokenizer: TextTokenizer,
  window: number,
  bos: SpecialToken | undefined,
  options: ProtocolOptions,
): Promise<Cut> {
  const start = bos === undefined ? [] : [bos.id];
  const sequences: ScoredSequence[] = [];
  const wanted = options.limit === undefined ? Number.POSITIVE_INFINITY : (options.skip ?? 0) + options.limit;
  const kept: number[][] = [];
  let tokens = 0;
  for await (const document of documentsOf(text, options.separator ?? DEFAULT_SEPARATOR)) {
    if (sequences.length === wanted) break;
    if (document.trim() === "") continue;
    const ids = [...start];
    for await (const part of tokensOf(streamOf(document.trim()), tokenizer, window - start.length)) {
      for (const id of part) ids.push(id);
    }
    tokens += ids.length;
    refuseTooMany(tokens);
    kept.push(ids);
    if (ids.length >= Math.max(options.minTokens ?? 0, 2)) sequences.push({ ids, scoreFrom: 1 });
  }
  return { sequences, kept, tokens };
}

async function chosenBos(tokenizer: TextTokenizer, options: ProtocolOptions): Promise<SpecialToken | undefined> {
  const { bos: wanted, protocol } = options;
  if (wanted === false) return undefined;
  if (wanted === undefined) return protocol === "documents" ? tokenizer.bos : tokenizer.leading;
  const own = wanted === true || wanted === "each";
  const bos = own ? (tokenizer.bos ?? tokenizer.leading) : await tokenizer.named(wanted);
  if (bos !== undefined) return bos;
  const said = own ? "the tokenizer names no bos_token" : `"${wanted}" is no token of the vocabulary`;
  throw new PhysariumError("USAGE_BOS", `--bos: ${said}; give the text of a token, or leave --bos away`, {
    bos: wanted,
  });
}

function hintsOf(
  { name, windows, bos }: ProtocolRecord,
  { leading }: TextTokenizer,
  options: ProtocolOptions,
): string[] {
  if (name === "documents" || windows === 1 || leading === undefined) return [];
  if (options.bos !== undefined && (options.bos !== true || bos !== leading.text)) return [];
  return [
    `the tokenizer puts ${leading.text} before every text, and only the first of ${windows} windows begins with it; ` +
      "models that are lost without it (Gemma) want --bos each",
  ];
}

/** Throws `USAGE_TEXT_UNKNOWN` where nothing of the text could be spelled. */
function countUnknown(kept: Iterable<readonly number[]>, tokenizer: TextTokenizer): number {
  const { unknownId, bos, leading } = tokenizer;
  if (unknownId === undefined) return 0;
  let unknown = 0;
  let spelled = false;
  for (const ids of kept) {
    for (const id of ids) {
      if (id === unknownId) unknown++;
      else spelled ||= id !== bos?.id && id !== leading?.id;
    }
  }
  if (spelled) return unknown;
  throw new PhysariumError(
    "USAGE_TEXT_UNKNOWN",
    `the vocabulary can spell none of the text's ${unknown} tokens; the text is in a script this model never saw`,
    { unknown },
  );
}

function checkStride(stride: number, window: number, { protocol }: ProtocolOptions): void {
  if (protocol === "documents") {
    throw new PhysariumError("USAGE_STRIDE", "--stride cuts a stream; it does not go with --protocol documents");
  }
  if (Number.isSafeInteger(stride) && stride >= 1 && stride <= window) return;
  throw new PhysariumError("USAGE_STRIDE", `--stride ${stride}: a stride has 1 to ${window} tokens (the window)`, {
    stride,
    window,
  });
}

function refuseTooMany(tokens: number): void {
  if (tokens <= MAX_KEPT_TOKENS) return;
  throw new PhysariumError(
    "USAGE_TEXT_LONG",
    `the text has more than ${MAX_KEPT_TOKENS} tokens, which would take weeks to score; take a part of them with ` +
      "--limit",
    { tokens },
  );
}

function noDocument(): PhysariumError {
  return new PhysariumError("USAGE_TEXT_SHORT", "no document has a token to predict; give longer documents", {});
}

function tooShort(tokens: number, window: number): PhysariumError {
  return new PhysariumError(
    "USAGE_TEXT_SHORT",
    `the text has ${tokens} tokens, a window ${window}; give a longer text, or a window of at most ${tokens} with ` +
      "--window",
    { tokens, window },
  );
}

function nothingLeft(skip: number, found: number): PhysariumError {
  return new PhysariumError("USAGE_TEXT_SHORT", `--skip ${skip} leaves nothing of ${found} windows or documents`, {
    skip,
    found,
  });
}
