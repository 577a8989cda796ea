/** What the tokenizer's process is asked, and what it answers. */

export type Json = Readonly<Record<string, unknown>>;

export interface SpecialToken {
  readonly id: number;
  readonly text: string;
}

export type TokenizerJob =
  /** Bytes of tokenizer.json; the first job. */
  | { readonly kind: "load"; readonly definition: Uint8Array; readonly config: Json }
  | { readonly kind: "encode"; readonly text: string }
  | { readonly kind: "decode"; readonly ids: readonly number[] }
  | { readonly kind: "named"; readonly text: string }
  | { readonly kind: "token"; readonly id: number }
  | { readonly kind: "render"; readonly template: string; readonly context: Json };

export type TokenizerAnswer = TokenizerFacts | Int32Array | string | SpecialToken | undefined;

/** What everybody asks of a tokenizer, once it is loaded. */
export interface TokenizerFacts {
  readonly unknownId: number | undefined;
  readonly bos: SpecialToken | undefined;
  readonly eos: SpecialToken | undefined;
  /** The token that the tokenizer itself puts in front of a text. */
  readonly leading: SpecialToken | undefined;
  /** By id: UTF-8 bytes of the text that a token stands for, or −1. */
  readonly byteLengths: Int32Array;
}
