import { join } from "node:path";
import { Tokenizer } from "@huggingface/tokenizers";
import { readSmallFile } from "../../checkpoint/file-layer.js";
import { isPhysariumError, PhysariumError } from "../../errors.js";

type Json = Readonly<Record<string, unknown>>;

export interface SpecialToken {
  readonly id: number;
  readonly text: string;
}

/** A model's own tokenizer, from `tokenizer.json` and `tokenizer_config.json`. Nothing is added to a text unless asked for. */
export class TextTokenizer {
  private readonly tokenizer: Tokenizer;
  private readonly byteLevel: boolean;
  private readonly special: ReadonlyMap<number, unknown>;
  /** The token for what the vocabulary cannot spell; most have none, because they spell bytes. */
  readonly unknownId: number | undefined;
  /** The token that begins a text, where the tokenizer has one. */
  readonly bos: SpecialToken | undefined;
  readonly eos: SpecialToken | undefined;

  private constructor(
    /** The bytes of tokenizer.json: two models share a tokenizer where these are equal. */
    readonly definition: Uint8Array,
    json: Json,
    readonly config: Json,
  ) {
    this.tokenizer = new Tokenizer(json, config);
    this.byteLevel = JSON.stringify(json.decoder ?? null).includes('"ByteLevel"');
    this.special = this.tokenizer.get_added_tokens_decoder();
    const unknown = (json.model as Json | undefined)?.unk_token ?? contentOf(config.unk_token);
    this.unknownId = typeof unknown === "string" ? this.tokenizer.token_to_id(unknown) : undefined;
    this.bos = this.named(contentOf(config.bos_token));
    this.eos = this.named(contentOf(config.eos_token));
  }

  /** Throws `DONOR_TOKENIZER` where the folder has no tokenizer.json or one that cannot be read. */
  static async open(folder: string): Promise<TextTokenizer> {
    const path = join(folder, "tokenizer.json");
    let definition: Uint8Array;
    try {
      definition = await readSmallFile(path);
    } catch (error) {
      if (!isPhysariumError(error, "IO_NOT_FOUND")) throw error;
      throw new PhysariumError(
        "DONOR_TOKENIZER",
        `${path}: there is no tokenizer.json, and a text must become tokens; save the model's fast tokenizer there`,
        { path },
        error,
      );
    }
    try {
      const json = JSON.parse(new TextDecoder().decode(definition)) as Json;
      return new TextTokenizer(definition, json, await readOptionalJson(join(folder, "tokenizer_config.json")));
    } catch (error) {
      if (isPhysariumError(error)) throw error;
      throw new PhysariumError("DONOR_TOKENIZER", `${path}: ${(error as Error).message}`, { path }, error);
    }
  }

  encode(text: string): number[] {
    return this.tokenizer.encode(text, { add_special_tokens: false }).ids;
  }

  /** Special tokens are left out. */
  decode(ids: readonly number[]): string {
    return ids.length === 0
      ? ""
      : this.tokenizer.decode([...ids], { skip_special_tokens: true, clean_up_tokenization_spaces: false });
  }

  /** The token of this exact text, or `undefined`. */
  named(text: string | undefined): SpecialToken | undefined {
    const id = text === undefined ? undefined : this.tokenizer.token_to_id(text);
    return id === undefined ? undefined : { id, text: text! };
  }

  textOf(id: number): string | undefined {
    return this.tokenizer.id_to_token(id);
  }

  /** UTF-8 bytes of the text that a token stands for, or `undefined` for a token that stands for none. */
  byteLengthOf(id: number): number | undefined {
    const token = this.tokenizer.id_to_token(id);
    if (token === undefined || id === this.unknownId) return undefined;
    if (this.special.has(id)) return new TextEncoder().encode(token).length;
    // Byte-level vocabularies spell every byte as one character.
    if (this.byteLevel) return [...token].length;
    if (/^<0x[0-9A-Fa-f]{2}>$/.test(token)) return 1;
    return new TextEncoder().encode(token.replaceAll("▁", " ")).length;
  }
}

/** A special token stands in the configuration as text or as an object with the text in it. */
export function contentOf(token: unknown): string | undefined {
  if (typeof token === "string") return token;
  const content = (token as Json | null | undefined)?.content;
  return typeof content === "string" ? content : undefined;
}

/** A JSON object from a file that may be absent. */
export async function readOptionalJson(path: string): Promise<Json> {
  let bytes: Uint8Array;
  try {
    bytes = await readSmallFile(path);
  } catch (error) {
    if (isPhysariumError(error, "IO_NOT_FOUND")) return {};
    throw error;
  }
  let json: unknown;
  try {
    json = JSON.parse(new TextDecoder().decode(bytes));
  } catch (error) {
    throw new PhysariumError(
      "DONOR_TOKENIZER",
      `${path}: this is no JSON: ${(error as Error).message}`,
      { path },
      error,
    );
  }
  if (typeof json === "object" && json !== null && !Array.isArray(json)) return json as Json;
  throw new PhysariumError("DONOR_CONFIG", `${path}: expected an object; repair the file, or leave it out`, { path });
}
