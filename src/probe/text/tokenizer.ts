import { sourceOf } from "../../checkpoint/folder-source.js";
import { type ModelSource, placeOf, readWhole } from "../../checkpoint/model-source.js";
import { isPhysariumError, PhysariumError } from "../../errors.js";
import { ConfinedProcess, type Limits } from "./confined-process.js";
import type { Json, SpecialToken, TokenizerAnswer, TokenizerFacts, TokenizerJob } from "./tokenizer-protocol.js";

export type { SpecialToken } from "./tokenizer-protocol.js";

export interface TokenizerOptions {
  /** Ends the tokenizer, in the middle of a text, too; what waits for it fails with `STOPPED`. */
  readonly signal?: AbortSignal | undefined;
  /** Time and memory that the tokenizer's files may take. */
  readonly limits?: Limits;
}

/**
 * A model's own tokenizer, from `tokenizer.json` and `tokenizer_config.json`. Nothing is added to a text unless asked
 * for.
 *
 * It works in a process of its own, within limits of time, memory and output: `DONOR_TOKENIZER` says which was broken.
 */
export class TextTokenizer {
  private closed = false;

  private constructor(
    private readonly start: () => TokenizerProcess,
    private process: TokenizerProcess,
    /** The bytes of tokenizer.json: two models share a tokenizer where these are equal. */
    readonly definition: Uint8Array,
    readonly config: Json,
    /** Of tokenizer.json. */
    readonly path: string,
    private readonly facts: TokenizerFacts,
  ) {}

  /**
   * Throws `DONOR_TOKENIZER` where the folder has no tokenizer.json, or one that cannot be read or takes more than it
   * may.
   */
  static async open(model: string | ModelSource, { signal, limits }: TokenizerOptions = {}): Promise<TextTokenizer> {
    const source = sourceOf(model);
    const path = placeOf(source, "tokenizer.json");
    const definition = await readDefinition(source);
    const config = await readOptionalJson(source, "tokenizer_config.json");
    const refuse = (words: string, job: TokenizerJob | undefined): PhysariumError =>
      job?.kind === "render"
        ? new PhysariumError("DONOR_CHAT_TEMPLATE", `it ${words}`)
        : new PhysariumError("DONOR_TOKENIZER", `${path}: the tokenizer ${words}`, { path });
    const start = (): TokenizerProcess => new ConfinedProcess(PROCESS, refuse, signal, limits);
    const process = start();
    try {
      const facts = (await process.run({ kind: "load", definition, config })) as TokenizerFacts;
      return new TextTokenizer(start, process, definition, config, path, facts);
    } catch (error) {
      process.close();
      throw withPath(error, path);
    }
  }

  /** Open a tokenizer for one piece of work. What stands in it as a field may be asked afterwards, too. */
  static async with<T>(
    model: string | ModelSource,
    options: TokenizerOptions,
    work: (tokenizer: TextTokenizer) => T | Promise<T>,
  ): Promise<T> {
    const tokenizer = await TextTokenizer.open(model, options);
    try {
      return await work(tokenizer);
    } finally {
      tokenizer.close();
    }
  }

  /** The token for what the vocabulary cannot spell; most have none, because they spell bytes. */
  get unknownId(): number | undefined {
    return this.facts.unknownId;
  }

  /** The token that begins a text, where the tokenizer has one. */
  get bos(): SpecialToken | undefined {
    return this.facts.bos;
  }

  get eos(): SpecialToken | undefined {
    return this.facts.eos;
  }

  /** The token that the tokenizer itself puts in front of every text, as `add_bos_token` or its post-processor say. */
  get leading(): SpecialToken | undefined {
    return this.facts.leading;
  }

  async encode(text: string): Promise<number[]> {
    return Array.from((await this.run({ kind: "encode", text })) as Int32Array);
  }

  /** Special tokens are left out. */
  async decode(ids: readonly number[]): Promise<string> {
    return ids.length === 0 ? "" : ((await this.run({ kind: "decode", ids: [...ids] })) as string);
  }

  /** The token of this exact text, or `undefined`. */
  async named(text: string): Promise<SpecialToken | undefined> {
    return (await this.run({ kind: "named", text })) as SpecialToken | undefined;
  }

  async textOf(id: number): Promise<string | undefined> {
    return (await this.run({ kind: "token", id })) as string | undefined;
  }

  /** UTF-8 bytes of the text that a token stands for, or `undefined` for a token that stands for none. */
  byteLengthOf(id: number): number | undefined {
    const length = this.facts.byteLengths[id] ?? -1;
    return length < 0 ? undefined : length;
  }

  /** A chat template's text: it is foreign code as the tokenizer is. Throws `DONOR_CHAT_TEMPLATE`. */
  async render(template: string, context: Json): Promise<string> {
    return (await this.running().run({ kind: "render", template, context })) as string;
  }

  /**
   * Ends the tokenizer's process. An idle one does not keep Node from ending, but takes the memory of its vocabulary.
   */
  close(): void {
    this.closed = true;
    this.process.close();
  }

  /** A process that a text or a template ended is followed by another one: the next text may be a better one. */
  private running(): TokenizerProcess {
    if (this.process.isOver && !this.closed) {
      this.process = this.start();
      // Jobs are answered in order; the next one says what goes wrong here.
      this.process.run({ kind: "load", definition: this.definition, config: this.config }).catch(() => undefined);
    }
    return this.process;
  }

  private async run(job: TokenizerJob): Promise<TokenizerAnswer> {
    try {
      return await this.running().run(job);
    } catch (error) {
      throw withPath(error, this.path);
    }
  }
}

type TokenizerProcess = ConfinedProcess<TokenizerJob, TokenizerAnswer>;

const PROCESS = new URL("./tokenizer-process.js", import.meta.url);

function withPath(error: unknown, path: string): unknown {
  if (!isPhysariumError(error, "DONOR_TOKENIZER") || error.message.startsWith(path)) return error;
  return new PhysariumError(error.code, `${path}: ${error.message}`, { ...error.details, path }, error);
}

/** The bytes of tokenizer.json. Throws `DONOR_TOKENIZER` where there is none. */
export async function readDefinition(source: ModelSource): Promise<Uint8Array> {
  const path = placeOf(source, "tokenizer.json");
  try {
    return await readWhole(source, "tokenizer.json");
  } catch (error) {
    if (!isPhysariumError(error, "IO_NOT_FOUND")) throw error;
    throw new PhysariumError(
      "DONOR_TOKENIZER",
      `${path}: there is no tokenizer.json, and a text must become tokens; save the model's fast tokenizer there`,
      { path },
      error,
    );
  }
}

/** A JSON object from a file that may be absent. */
export async function readOptionalJson(source: ModelSource, file: string): Promise<Json> {
  const path = placeOf(source, file);
  let bytes: Uint8Array;
  try {
    bytes = await readWhole(source, file);
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
