import { type ModelSource, placeOf, readWhole } from "../checkpoint/model-source.js";
import { parsePythonJson } from "../checkpoint/python-json.js";
import { PhysariumError } from "../errors.js";

/**
 * `config.json` of a model folder, read with checks: what is asked for is there and of the right kind, or the error
 * names it.
 */
export class ModelConfig {
  constructor(
    private readonly fields: Readonly<Record<string, unknown>>,
    /** What errors call the file. */
    readonly where = "config.json",
  ) {}

  static async read(source: ModelSource): Promise<ModelConfig> {
    return ModelConfig.parse(await readWhole(source, "config.json"), placeOf(source, "config.json"));
  }

  /** Throws `DONOR_CONFIG` for what is no JSON object. */
  static parse(source: Uint8Array | string, where = "config.json"): ModelConfig {
    return new ModelConfig(parseJsonObject(source, where), where);
  }

  /**
   * The decoder's own configuration: models that also see or hear keep it under `text_config`. A head that either level
   * calls tied may be missing from the file (Mistral 3 says true above and false below).
   */
  get decoder(): ModelConfig {
    const text = ["text_config", "language_config", "llm_config"].map((key) => this.record(key)).find(Boolean);
    if (text === undefined) return this;
    const tied = [this.raw("tie_word_embeddings"), text.tie_word_embeddings].filter((flag) => flag !== undefined);
    const tie = tied.length === 0 ? {} : { tie_word_embeddings: tied.includes(true) };
    const own = { text_config: undefined, language_config: undefined, llm_config: undefined };
    return new ModelConfig({ ...this.fields, ...own, ...text, ...tie }, this.where);
  }

  /** The same configuration with some fields replaced. */
  with(fields: Readonly<Record<string, unknown>>): ModelConfig {
    return new ModelConfig({ ...this.fields, ...fields }, this.where);
  }

  /**
   * The same configuration where fields that the file leaves out are as `defaults` says; `null` in the file stays none.
   */
  over(defaults: Readonly<Record<string, unknown>>): ModelConfig {
    return new ModelConfig({ ...defaults, ...this.fields }, this.where);
  }

  /** All fields, as one object. */
  toJson(): Readonly<Record<string, unknown>> {
    return Object.fromEntries(Object.entries(this.fields).filter(([, value]) => value !== undefined));
  }

  /** The raw value: for what is optional and of several shapes. */
  raw(key: string): unknown {
    return this.fields[key] ?? undefined;
  }

  record(key: string): Readonly<Record<string, unknown>> | undefined {
    const value = this.raw(key);
    return isRecord(value) ? value : undefined;
  }

  number(key: string, fallback?: number): number {
    const value = this.raw(key) ?? fallback;
    if (typeof value === "number" && Number.isFinite(value)) return value;
    throw this.wrong(key, "a number", value);
  }

  /** A positive integer. */
  count(key: string, fallback?: number): number {
    const value = this.number(key, fallback);
    if (Number.isSafeInteger(value) && value > 0) return value;
    throw this.wrong(key, "a positive integer", value);
  }

  optionalNumber(key: string): number | undefined {
    return this.raw(key) === undefined ? undefined : this.number(key);
  }

  text(key: string, fallback?: string): string {
    const value = this.raw(key) ?? fallback;
    if (typeof value === "string") return value;
    throw this.wrong(key, "a string", value);
  }

  flag(key: string, fallback: boolean): boolean {
    const value = this.raw(key) ?? fallback;
    if (typeof value === "boolean") return value;
    throw this.wrong(key, "true or false", value);
  }

  private wrong(key: string, expected: string, found: unknown): PhysariumError {
    return new PhysariumError(
      "DONOR_CONFIG",
      `${this.where}: ${key} should be ${expected}, found ${JSON.stringify(found) ?? "nothing"}`,
      { key },
    );
  }
}

/** A JSON object as Python writes it. Throws `DONOR_CONFIG`. */
export function parseJsonObject(source: Uint8Array | string, where: string): Readonly<Record<string, unknown>> {
  let value: unknown;
  try {
    value = parsePythonJson(source);
  } catch (error) {
    const why = (error as Error).message;
    throw new PhysariumError("DONOR_CONFIG", `${where}: not valid JSON: ${why}`, { path: where }, error);
  }
  if (!isRecord(value)) throw new PhysariumError("DONOR_CONFIG", `${where}: expected an object`, { path: where });
  return value;
}

function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
