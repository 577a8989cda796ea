import { PhysariumError } from "../errors.js";

export type Json = Readonly<Record<string, unknown>>;

/** Typed access to a JSON object, each failure naming the field. */
export class Fields {
  constructor(
    private readonly json: Json,
    private readonly name: string,
  ) {}

  count(field: string): number {
    const value = this.optionalCount(field);
    if (value === undefined) throw new PhysariumError("DONOR_CONFIG", `${this.name}: ${field} is missing`);
    return value;
  }

  optionalCount(field: string): number | undefined {
    const value = this.json[field];
    if (value === undefined || value === null) return undefined;
    if (!Number.isSafeInteger(value) || (value as number) < 1 || (value as number) > 0x7fffffff) {
      throw new PhysariumError(
        "DONOR_CONFIG",
        `${this.name}: ${field} is ${JSON.stringify(value)}, expected a positive whole number`,
      );
    }
    return value as number;
  }

  positive(field: string): number {
    const value = this.optionalPositive(field);
    if (value === undefined) throw new PhysariumError("DONOR_CONFIG", `${this.name}: ${field} is missing`);
    return value;
  }

  optionalPositive(field: string): number | undefined {
    const value = this.json[field];
    if (value === undefined || value === null) return undefined;
    if (!(typeof value === "number" && value > 0 && value < Number.POSITIVE_INFINITY)) {
      throw new PhysariumError(
        "DONOR_CONFIG",
        `${this.name}: ${field} is ${JSON.stringify(value)}, expected a positive number`,
      );
    }
    return value;
  }

  optionalNumber(field: string): number | undefined {
    const value = this.json[field];
    if (value === undefined || value === null) return undefined;
    return typeof value === "number" && Number.isFinite(value) ? value : this.fail(field, "expected a number");
  }

  fail(field: string, expected: string): never {
    const found = JSON.stringify(this.json[field])?.slice(0, 80);
    throw new PhysariumError("DONOR_CONFIG", `${this.name}: ${field} is ${found}, ${expected}`);
  }

  /** A token id, the first where a list stands. */
  tokenId(field: string): number | undefined {
    const value = this.json[field];
    const first = Array.isArray(value) ? value[0] : value;
    return Number.isSafeInteger(first) && first >= 0 ? first : undefined;
  }

  refuse(field: string, isForeign: (value: unknown) => boolean, why: string): void {
    const value = this.json[field];
    if (value === undefined || value === null || !isForeign(value)) return;
    throw new PhysariumError("DONOR_ARCHITECTURE", `${this.name}: ${field} ${JSON.stringify(value)}: ${why}`, {
      field,
    });
  }
}
