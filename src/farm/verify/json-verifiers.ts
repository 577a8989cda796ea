import { Ajv, type ValidateFunction } from "ajv";
import { PhysariumError } from "../../errors.js";
import { parseLocated } from "../config/located-json.js";
import { type Verifier, verdict } from "./verdict.js";

/** The whole answer is one JSON object or array, with nothing around it and no key twice. */
export const jsonStrict: Verifier = async ({ answer }) => verdict("json_strict", parse(answer).fault);

/** The same, and as the schema says. */
export function jsonSchema(schema: unknown): Verifier {
  const validate = compileSchema(schema);
  return async ({ answer }) => {
    const { value, fault } = parse(answer, true);
    if (fault !== undefined) return verdict("json_schema", fault);
    if (validate(value)) return verdict("json_schema", undefined);
    const faults = (validate.errors ?? [])
      .slice(0, 5)
      .map(({ instancePath, message }) => `${instancePath || "the whole"} ${message}`);
    return verdict("json_schema", faults.join("; "));
  };
}

/** Throws `USAGE_SCHEMA` for what is none. */
export function compileSchema(schema: unknown): ValidateFunction {
  try {
    return new Ajv({ strict: false, allErrors: true, validateFormats: false }).compile(schema as object);
  } catch (error) {
    throw new PhysariumError("USAGE_SCHEMA", `this is no JSON schema: ${(error as Error).message}`, {}, error);
  }
}

function parse(answer: string, allowScalar = false): { value?: unknown; fault: string | undefined } {
  const { value, faults } = parseLocated(answer.trim());
  if (faults.length > 0) {
    const [{ message, place }] = faults;
    return { fault: `no JSON: line ${place.line}, column ${place.column}: ${message}` };
  }
  if (!allowScalar && (typeof value !== "object" || value === null)) {
    return { fault: "a bare value; expected a JSON object or array" };
  }
  return { value, fault: undefined };
}

/** Words of a schema that make the checker work as long as a stranger likes. */
const COSTLY = ["pattern", "patternProperties", "$ref", "$dynamicRef", "$recursiveRef", "$id"];
const MAX_SCHEMA_CHARACTERS = 65_536;

/** What keeps a client's own schema from being used, or `undefined`: patterns can be made to backtrack for years. */
export function schemaRefusal(schema: unknown): string | undefined {
  const text = JSON.stringify(schema) ?? "";
  if (text.length > MAX_SCHEMA_CHARACTERS)
    return `a schema may have ${MAX_SCHEMA_CHARACTERS} characters, this one has ${text.length}`;
  const found = findKey(schema, COSTLY, 0);
  return found === undefined ? undefined : `"${found}" is not taken in a client's schema; put the schema into an organ`;
}

function findKey(value: unknown, keys: readonly string[], depth: number): string | undefined {
  if (typeof value !== "object" || value === null) return undefined;
  if (depth > 32) return "more than 32 levels";
  for (const [key, inner] of Object.entries(value)) {
    // A property may have any name.
    if (!Array.isArray(value) && keys.includes(key) && typeof inner !== "object") return key;
    if (key === "patternProperties") return key;
    const found = findKey(inner, keys, depth + 1);
    if (found !== undefined) return found;
  }
  return undefined;
}
