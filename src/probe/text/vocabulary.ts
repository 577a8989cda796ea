import { Tokenizer } from "@huggingface/tokenizers";
import { PhysariumError } from "../../errors.js";
import { mend } from "./mended.js";
import type { Json, SpecialToken, TokenizerFacts } from "./tokenizer-protocol.js";

/** The largest vocabularies have a million tokens; tables are as long as the highest id. */
const MAX_TOKENS = 1 << 24;
/** A character of four bytes is at most four tokens; compatibility forms spread into up to 18 characters. */
const MAX_TOKENS_PER_CHARACTER = 72;
/** What a text may grow by in any case: prefixes that a normalizer adds. */
const MAX_ADDED_TOKENS = 4096;

/**
 * A tokenizer as `tokenizer.json` and `tokenizer_config.json` define it. Runs what these say, so only in a process of
 * its own (`tokenizer-process.ts`).
 *
 * Throws `DONOR_TOKENIZER` for what cannot be read, and for more tokens than the text can have.
 */
export class Vocabulary {
  private readonly tokenizer: Tokenizer;
  private readonly byteLevel: boolean;
  private readonly special: ReadonlyMap<number, unknown>;
  private readonly unknownId: number | undefined;
  private readonly size: number;

  constructor(
    private readonly json: Json,
    private readonly config: Json,
  ) {
    this.size = checkIds(json);
    this.tokenizer = new Tokenizer(json, config);
    mend(this.tokenizer, json);
    this.byteLevel = JSON.stringify(json.decoder ?? null).includes('"ByteLevel"');
    this.special = this.tokenizer.get_added_tokens_decoder();
    const unknown = (json.model as Json | undefined)?.unk_token ?? contentOf(config.unk_token);
    this.unknownId = typeof unknown === "string" ? this.tokenizer.token_to_id(unknown) : undefined;
  }

  facts(): TokenizerFacts {
    const bos = this.named(contentOf(this.config.bos_token));
    return {
      unknownId: this.unknownId,
      bos,
      eos: this.named(contentOf(this.config.eos_token)),
      leading: this.leading(bos),
      byteLengths: Int32Array.from({ length: this.size }, (_, id) => this.byteLengthOf(id)),
    };
  }

  encode(text: string): Int32Array {
    const { ids } = this.tokenizer.encode(text, { add_special_tokens: false });
    if (ids.length > MAX_TOKENS_PER_CHARACTER * text.length + MAX_ADDED_TOKENS) {
      throw new PhysariumError("DONOR_TOKENIZER", `${text.length} characters become ${ids.length} tokens`);
    }
    const bad = ids.findIndex(
      (id: unknown) => !(Number.isInteger(id) && (id as number) >= 0 && (id as number) < this.size),
    );
    if (bad >= 0) {
      throw new PhysariumError(
        "DONOR_TOKENIZER",
        `a text gives the token id ${ids[bad]}; there are ${this.size} tokens`,
      );
    }
    return Int32Array.from(ids);
  }

  /** Special tokens are left out. */
  decode(ids: readonly number[]): string {
    return ids.length === 0
      ? ""
      : this.tokenizer.decode([...ids], { skip_special_tokens: true, clean_up_tokenization_spaces: false });
  }

  named(text: string | undefined): SpecialToken | undefined {
    const id = text === undefined ? undefined : this.tokenizer.token_to_id(text);
    return id === undefined ? undefined : { id, text: text! };
  }

  textOf(id: number): string | undefined {
    return this.tokenizer.id_to_token(id);
  }

  /**
   * As the reference decides it: `add_bos_token` where the configuration names it, else what the post-processor puts
   * first. source: transformers 5, `TokenizersBackend.__init__`
   */
  private leading(bos: SpecialToken | undefined): SpecialToken | undefined {
    const { add_bos_token: wanted, add_eos_token: wantsEos } = this.config;
    if (wanted !== undefined || wantsEos !== undefined) return wanted === true ? bos : undefined;
    return this.named(firstOf(this.json.post_processor));
  }

  private byteLengthOf(id: number): number {
    const token = this.tokenizer.id_to_token(id);
    if (token === undefined || id === this.unknownId) return -1;
    if (this.special.has(id)) return Buffer.byteLength(token);
    // Byte-level vocabularies spell every byte as one character.
    if (this.byteLevel) return [...token].length;
    if (/^<0x[0-9A-Fa-f]{2}>$/.test(token)) return 1;
    return Buffer.byteLength(token.replaceAll("▁", " "));
  }
}

/** A special token stands in the configuration as text or as an object with the text in it. */
export function contentOf(token: unknown): string | undefined {
  if (typeof token === "string") return token;
  const content = (token as Json | null | undefined)?.content;
  return typeof content === "string" ? content : undefined;
}

/** The token that a post-processor puts in front of one sequence. */
function firstOf(processor: unknown): string | undefined {
  const { type, single, cls, processors } = (processor ?? {}) as Json;
  if (type === "TemplateProcessing" && Array.isArray(single)) {
    const id = ((single[0] as Json | undefined)?.SpecialToken as Json | undefined)?.id;
    return typeof id === "string" ? id : undefined;
  }
  if ((type === "BertProcessing" || type === "RobertaProcessing") && Array.isArray(cls)) return contentOf(cls[0]);
  return Array.isArray(processors) ? processors.map(firstOf).find((token) => token !== undefined) : undefined;
}

/** Tokens that the ids need room for: one more than the highest. Throws `DONOR_TOKENIZER` for an id that is none. */
function checkIds(json: Json): number {
  let highest = -1;
  const check = (token: unknown, id: unknown): void => {
    if (!(Number.isInteger(id) && (id as number) >= 0 && (id as number) < MAX_TOKENS)) {
      throw new PhysariumError(
        "DONOR_TOKENIZER",
        `the token ${JSON.stringify(token)} has the id ${JSON.stringify(id)}; expected a whole number from 0 to ` +
          `${MAX_TOKENS - 1}`,
      );
    }
    highest = Math.max(highest, id as number);
  };
  const vocab = (json.model as Json | null | undefined)?.vocab;
  if (Array.isArray(vocab)) highest = vocab.length - 1;
  else if (typeof vocab === "object" && vocab !== null) for (const token in vocab) check(token, (vocab as Json)[token]);
  for (const added of Array.isArray(json.added_tokens) ? (json.added_tokens as unknown[]) : []) {
    const { content, id } = (added ?? {}) as Json;
    if (typeof content !== "string" || content === "") {
      throw new PhysariumError("DONOR_TOKENIZER", `an added token has the text ${JSON.stringify(content)}`);
    }
    check(content, id);
  }
  return highest + 1;
}
