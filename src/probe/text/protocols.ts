import { PhysariumError } from "../../errors.js";
import type { ProtocolRecord } from "../../record/quality.js";
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
  /** Begin the stream (or each document) with this token: `true` for the tokenizer's own, or a token's text. */
  readonly bos?: boolean | string;
  /** The file's lines are rows of WikiText, to be joined by a blank line as the datasets library and the scripts of GPTQ have them. */
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
}

export const DEFAULT_SEPARATOR = "<|endoftext|>";
export const DEFAULT_MAX_WINDOW = 2048;

/**
 * Make a text into sequences to score, by one of the field's protocols.
 *
 * `wikitext`: the text is one stream of tokens, cut into windows side by side; a last partial window is dropped. source: GPTQ, arXiv:2210.17323,
 * datautils.py and llama.py; SparseGPT and Wanda use the same.
 * `stride`: windows overlap and each token counts once, with the longest context it ever gets, the rest at the end included. source: transformers
 * documentation, "Perplexity of fixed-length models".
 * `documents`: each document alone, from BOS, cut to the window.
 *
 * Throws `USAGE_WINDOW`, `USAGE_STRIDE`, `USAGE_BOS` for options that make no sense, `USAGE_TEXT_EMPTY`, `USAGE_TEXT_SHORT`, `USAGE_TEXT_UNKNOWN` for texts that leave
 * nothing to count.
 */
export function prepareText(
  text: string,
  tokenizer: TextTokenizer,
  maxPositions: number,
  options: ProtocolOptions = {},
): PreparedText {
  const window = options.window ?? Math.min(DEFAULT_MAX_WINDOW, maxPositions);
  if (!Number.isSafeInteger(window) || window < 2 || window > maxPositions) {
    throw new PhysariumError(
      "USAGE_WINDOW",
      `--window ${window}: a window has 2 to ${maxPositions} tokens (the model's max_position_embeddings)`,
      { window, maxPositions },
    );
  }
  if (text.trim() === "")
    throw new PhysariumError("USAGE_TEXT_EMPTY", "the text is empty; there is nothing to predict");
  const isDocuments = options.protocol === "documents";
  const bos = chosenBos(tokenizer, options.bos ?? isDocuments, options.bos !== undefined);
  if (isDocuments) return documents(text, tokenizer, window, bos, options);

  const whole = options.rows ? joinRows(text) : text;
  const wanted =
    options.limit === undefined || options.stride !== undefined
      ? Number.POSITIVE_INFINITY
      : ((options.skip ?? 0) + options.limit) * window;
  const stream = firstTokens(whole, tokenizer, bos, wanted);
  const unknownTokens = countUnknown(stream, tokenizer);
  const sequences = options.stride === undefined ? sideBySide(stream, window) : strided(stream, window, options.stride);
  if (sequences.length === 0) {
    throw new PhysariumError(
      "USAGE_TEXT_SHORT",
      `the text has ${stream.length} tokens, a window ${window}; give a longer text, or a window of at most ${stream.length} with --window`,
      { tokens: stream.length, window },
    );
  }
  return finish(sequences, options, unknownTokens, {
    name: options.stride === undefined ? "wikitext" : "strided",
    window,
    stride: options.stride ?? window,
    bos: bos?.text ?? null,
    joiner: options.rows ? ROW_JOINER : null,
    separator: null,
  });
}

/**
 * BOS and the text's tokens, the first `wanted` of them: of a long text only as much is encoded as that takes. What is cut off begins a line, and tokens near the
 * cut are not used: they might be others had the text gone on.
 */
function firstTokens(
  text: string,
  tokenizer: TextTokenizer,
  bos: SpecialToken | undefined,
  wanted: number,
): readonly number[] {
  const start = bos === undefined ? [] : [bos.id];
  for (let length = 8 * (wanted + NEAR_A_CUT); length < text.length; length *= 2) {
    const ids = start.concat(tokenizer.encode(text.slice(0, lineStartBefore(text, length))));
    if (ids.length >= wanted + NEAR_A_CUT) return ids.slice(0, wanted);
  }
  const ids = start.concat(tokenizer.encode(text));
  return ids.length > wanted ? ids.slice(0, wanted) : ids;
}

const NEAR_A_CUT = 256;

/** The last place up to `end` where a line begins with something else than white space; `end` if there is none. */
function lineStartBefore(text: string, end: number): number {
  for (let at = end; at > 1; at--) if (text[at - 1] === "\n" && text[at].trim() !== "") return at;
  return end;
}

const ROW_JOINER = "\n\n";

/** The datasets library keeps each row's line end, and makes rows of white space empty. source: wikitext.py of the dataset `Salesforce/wikitext` */
function joinRows(text: string): string {
  const rows = text.split(/(?<=\n)/);
  return rows.map((row) => (row.trim() === "" ? "" : row)).join(ROW_JOINER);
}

function sideBySide(stream: readonly number[], window: number): ScoredSequence[] {
  return Array.from({ length: Math.floor(stream.length / window) }, (_, at) => ({
    ids: stream.slice(at * window, (at + 1) * window),
    scoreFrom: 1,
  }));
}

function strided(stream: readonly number[], window: number, stride: number): ScoredSequence[] {
  if (!Number.isSafeInteger(stride) || stride < 1 || stride > window) {
    throw new PhysariumError("USAGE_STRIDE", `--stride ${stride}: a stride has 1 to ${window} tokens (the window)`, {
      stride,
      window,
    });
  }
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

function documents(
  text: string,
  tokenizer: TextTokenizer,
  window: number,
  bos: SpecialToken | undefined,
  options: ProtocolOptions,
): PreparedText {
  if (options.stride !== undefined) {
    throw new PhysariumError("USAGE_STRIDE", "--stride cuts a stream; it does not go with --protocol documents");
  }
  const separator = options.separator ?? DEFAULT_SEPARATOR;
  const texts = separator === "" ? [text] : text.split(separator);
  const sequences: ScoredSequence[] = [];
  let unknownTokens = 0;
  for (const document of texts) {
    if (options.limit !== undefined && sequences.length === (options.skip ?? 0) + options.limit) break;
    if (document.trim() === "") continue;
    const tokens = tokenizer.encode(document.trim());
    unknownTokens += countUnknown(tokens, tokenizer, texts.length === 1);
    const ids = [...(bos === undefined ? [] : [bos.id]), ...tokens].slice(0, window);
    if (ids.length >= Math.max(options.minTokens ?? 0, 2)) sequences.push({ ids, scoreFrom: 1 });
  }
  if (sequences.length === 0) {
    throw new PhysariumError("USAGE_TEXT_SHORT", "no document has a token to predict; give longer documents", {});
  }
  return finish(sequences, options, unknownTokens, {
    name: "documents",
    window,
    stride: window,
    bos: bos?.text ?? null,
    joiner: null,
    separator,
  });
}

function finish(
  all: readonly ScoredSequence[],
  { skip = 0, limit }: ProtocolOptions,
  unknownTokens: number,
  record: Omit<ProtocolRecord, "windows" | "tokens" | "documents">,
): PreparedText {
  const sequences = all.slice(skip, limit === undefined ? undefined : skip + limit);
  if (sequences.length === 0) {
    throw new PhysariumError(
      "USAGE_TEXT_SHORT",
      `--skip ${skip} leaves nothing of ${all.length} windows or documents`,
      {
        skip,
        found: all.length,
      },
    );
  }
  const tokens = sequences.reduce((sum, { ids, scoreFrom }) => sum + ids.length - scoreFrom, 0);
  const documents = record.name === "documents" ? sequences.length : 1;
  return { record: { ...record, windows: sequences.length, documents, tokens }, sequences, unknownTokens };
}

function chosenBos(tokenizer: TextTokenizer, wanted: boolean | string, isExplicit: boolean): SpecialToken | undefined {
  if (wanted === false) return undefined;
  const bos = wanted === true ? tokenizer.bos : tokenizer.named(wanted);
  if (bos === undefined && isExplicit) {
    const said = wanted === true ? "the tokenizer names no bos_token" : `"${wanted}" is no token of the vocabulary`;
    throw new PhysariumError("USAGE_BOS", `--bos: ${said}; give the text of a token, or leave --bos away`, {
      bos: wanted,
    });
  }
  return bos;
}

/** Throws `USAGE_TEXT_UNKNOWN` where nothing of a whole stream could be spelled. */
function countUnknown(ids: readonly number[], tokenizer: TextTokenizer, isWhole = true): number {
  const { unknownId } = tokenizer;
  if (unknownId === undefined) return 0;
  const unknown = ids.reduce((sum, id) => sum + (id === unknownId ? 1 : 0), 0);
  const spelled = ids.some((id) => id !== unknownId && id !== tokenizer.bos?.id);
  if (isWhole && !spelled) {
    throw new PhysariumError(
      "USAGE_TEXT_UNKNOWN",
      `the vocabulary can spell none of the text's ${unknown} tokens; the text is in a script this model never saw`,
      { unknown },
    );
  }
  return unknown;
}
