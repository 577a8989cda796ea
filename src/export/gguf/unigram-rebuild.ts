import { SPACE_MARK, TOKEN_TYPE } from "./tokenizer.js";

export interface UnigramFile {
  readonly tokens: readonly string[];
  readonly types: readonly number[];
  readonly scores: readonly number[];
  /** SentencePiece's table of normalizations; empty for none. */
  readonly charsmap: Uint8Array;
  readonly prependsSpace: boolean;
  /** Spaces at the end, and all but one of a row of them, are dropped. */
  readonly dropsSpaces: boolean;
  readonly warnings: string[];
}

/**
 * The parts of a tokenizer.json of SentencePiece's Unigram kind (`tokenizer.ggml.model` t5), as the reference makes
 * them of a SentencePiece file. source: `SpmConverter` of transformers 5.24, `convert_slow_tokenizer.py`
 */
export function unigram(file: UnigramFile): object {
  const { tokens, types, scores, charsmap } = file;
  if (scores.length !== tokens.length) {
    file.warnings.push(
      `the file has ${tokens.length} tokens and ${scores.length} scores: tokens without one are spelled last`,
    );
  }
  const lowest = scores.reduce((least, score) => Math.min(least, score), 0);
  const normalizers: object[] = [];
  if (charsmap.length > 0) {
    normalizers.push({ type: "Precompiled", precompiled_charsmap: Buffer.from(charsmap).toString("base64") });
  }
  if (file.dropsSpaces) {
    normalizers.push({ type: "Strip", strip_left: false, strip_right: true });
    normalizers.push({ type: "Replace", pattern: { Regex: " {2,}" }, content: SPACE_MARK });
  }
  const metaspace = {
    type: "Metaspace",
    replacement: SPACE_MARK,
    prepend_scheme: file.prependsSpace ? "always" : "never",
    split: true,
  };
  const unknown = types.indexOf(TOKEN_TYPE.unknown);
  return {
    normalizer: normalizers.length === 0 ? null : { type: "Sequence", normalizers },
    pre_tokenizer: metaspace,
    decoder: metaspace,
    model: {
      type: "Unigram",
      unk_id: unknown < 0 ? null : unknown,
      vocab: tokens.map((token, id) => [token, scores[id] ?? lowest]),
      byte_fallback: types.includes(TOKEN_TYPE.byte),
    },
  };
}
