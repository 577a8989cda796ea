import { type ModelSource, placeOf, readWhole } from "../checkpoint/model-source.js";
import { PhysariumError } from "../errors.js";

/** `config.json` of a model folder, read with checks: what a family asks for is there and of the right kind, or the error names it. */
export class ModelConfig {
  constructor(private readonly fields: Readonly<Record<string, unknown>>) {}

  static async read(source: ModelSource): Promise<ModelConfig> {
    const path = placeOf(source, "config.json");
    const bytes = await readWhole(source, "config.json");
    let fields: unknown;
    try {
      fields = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
    } catch (error) {
      throw new PhysariumError(
        "DONOR_CONFIG",
        `${path}: this is no JSON: ${(error as Error).message}`,
        { path },
        error,
      );
    }
    if (!isRecord(fields)) throw new PhysariumError("DONOR_CONFIG", `${path}: expected an object`, { path });
    return new ModelConfig(fields);
  }

  /** The decoder's own configuration: models that also see or hear keep it under `text_config`. */
  get decoder(): ModelConfig {
    const text = this.fields.text_config;
    return isRecord(text) ? new ModelConfig({ ...this.fields, text_config: undefined, ...text }) : this;
  }

  /** The same configuration with some fields replaced. */
  with(fields: Readonly<Record<string, unknown>>): ModelConfig {
    return new ModelConfig({ ...this.fields, ...fields });
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
      `config.json: ${key} should be ${expected}, found ${JSON.stringify(found) ?? "nothing"}`,
      { key },
    );
  }
}

function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
