import type { Tokenizer } from "tokenizers";
import { PhysariumError } from "../../errors.js";
import type { Json, SpecialToken, TokenizerFacts } from "./tokenizer-protocol.js";

/** The largest vocabularies have a million tokens; tables are as long as the highest id. */
const MAX_TOKENS = 1 << 24;
/** A character of four bytes is at most four tokens; compatibility forms spread into up to 18 characters. */
const MAX_TOKENS_PER_CHARACTER = 72;
/** What a text may grow by in any case: prefixes that a normalizer adds. */
const MAX_ADDED_TOKENS = 4096;

/**
 * A tokenizer as `tokenizer.json` and `tokenizer_config.json` define it, run by the Rust library itself, which is the
 * reference. Only in a process of its own (`tokenizer-process.ts`): the library aborts Node where a pattern backtracks
 * too long.
 *
 * Throws `DONOR_TOKENIZER` for what cannot be read, and for more tokens than the text can have.
 */
export class Vocabulary {
  private readonly byteLevel: boolean;
  private readonly added: ReadonlySet<number>;
  private readonly unknownId: number | undefined;

  private constructor(
    private readonly tokenizer: Tokenizer,
    private readonly json: Json,
    private readonly config: Json,
    private readonly size: number,
  ) {
    this.byteLevel = JSON.stringify(json.decoder ?? null).includes('"ByteLevel"');
    this.added = new Set(addedTokens(json).map(({ content }) => tokenizer.tokenToId(content as string) ?? -1));
    const { unk_token, unk_id, vocab } = json.model as Json;
    const listed = typeof unk_id === "number" ? (vocab as [string][])[unk_id]?.[0] : undefined;
    const unknown = unk_token ?? listed ?? contentOf(config.unk_token);
    this.unknownId = typeof unknown === "string" ? (tokenizer.tokenToId(unknown) ?? undefined) : undefined;
  }

  static async load(definition: string, config: Json): Promise<Vocabulary> {
    const json = (JSON.parse(definition) ?? {}) as Json;
    const size = checkIds(json);
    const tokenizer = (await openLibrary()).fromString(isWhole(json) ? definition : JSON.stringify(completed(json)));
    return new Vocabulary(tokenizer, json, config, size);
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

  async encode(text: string): Promise<Int32Array> {
    const ids = (await this.tokenizer.encode(text, null, { addSpecialTokens: false })).getIds();
    if (ids.length > MAX_TOKENS_PER_CHARACTER * text.length + MAX_ADDED_TOKENS) {
      throw new PhysariumError("DONOR_TOKENIZER", `${text.length} characters become ${ids.length} tokens`);
    }
    const bad = ids.findIndex((id) => !(id < this.size));
    if (bad >= 0) {
      throw new PhysariumError(
        "DONOR_TOKENIZER",
        `a text gives the token id ${ids[bad]}; there are ${this.size} tokens`,
      );
    }
    return Int32Array.from(ids);
  }

  /** Special tokens are left out. */
  async decode(ids: readonly number[]): Promise<string> {
    return ids.length === 0 ? "" : this.tokenizer.decode([...ids], true);
  }

  named(text: string | undefined): SpecialToken | undefined {
    const id = text === undefined ? null : this.tokenizer.tokenToId(text);
    return id === null ? undefined : { id, text: text! };
  }

  textOf(id: number): string | undefined {
    return this.tokenizer.idToToken(id) ?? undefined;
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
    const token = this.textOf(id);
    if (token === undefined || id === this.unknownId) return -1;
    if (this.added.has(id)) return Buffer.byteLength(token);
    // Byte-level vocabularies spell every byte as one character.
    if (this.byteLevel) return [...token].length;
    if (/^<0x[0-9A-Fa-f]{2}>$/.test(token)) return 1;
    return Buffer.byteLength(token.replaceAll("▁", " "));
  }
}

/** What the library wants to see of every added token; where other tools leave it out they mean false. */
const ADDED_TOKEN = { single_word: false, lstrip: false, rstrip: false, normalized: false, special: false };

function addedTokens({ added_tokens }: Json): readonly Json[] {
  return Array.isArray(added_tokens) ? added_tokens : [];
}

function isWhole(json: Json): boolean {
  return addedTokens(json).every((token) => Object.keys(ADDED_TOKEN).every((field) => field in token));
}

function completed(json: Json): Json {
  return { ...json, added_tokens: addedTokens(json).map((token) => ({ ...ADDED_TOKEN, ...token })) };
}

/** Throws `DONOR_TOKENIZER` where the library has no binary for this machine. */
async function openLibrary(): Promise<typeof Tokenizer> {
  try {
    return (await import("tokenizers")).Tokenizer;
  } catch (error) {
    throw new PhysariumError(
      "DONOR_TOKENIZER",
      `cannot be read: the package "tokenizers" does not load on ${process.platform}-${process.arch}; install ` +
        "it again (npm install), or work on Linux, macOS or Windows on x64 or arm64",
      {},
      error,
    );
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
  for (const added of addedTokens(json)) {
    const { content, id } = added ?? {};
    if (typeof content !== "string" || content === "") {
      throw new PhysariumError("DONOR_TOKENIZER", `an added token has the text ${JSON.stringify(content)}`);
    }
    check(content, id);
  }
  return highest + 1;
}
