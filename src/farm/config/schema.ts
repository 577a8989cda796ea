import { readFileSync } from "node:fs";
import { Ajv, type ErrorObject, type ValidateFunction } from "ajv";
import { escapePointer } from "./located-json.js";

const SCHEMA = new URL("../../../schemas/organ_farm.schema.json", import.meta.url);

let compiled: ValidateFunction | undefined;

/** The published schema, compiled once. */
function validator(): ValidateFunction {
  compiled ??= new Ajv({ allErrors: true, verbose: true, allowUnionTypes: true }).compile(
    JSON.parse(readFileSync(SCHEMA, "utf8")),
  );
  return compiled;
}

export interface SchemaFault {
  /** JSON pointer of the value, or of the member that should not be there. */
  readonly pointer: string;
  readonly message: string;
}

/** Everything in which `value` is not as the schema says, in words. */
export function schemaFaults(value: unknown): SchemaFault[] {
  const validate = validator();
  if (validate(value)) return [];
  const errors = validate.errors ?? [];
  const said = new Set<string>();
  const faults: SchemaFault[] = [];
  for (const error of errors) {
    // Of a choice the whole is said, not each of its branches; a name's fault is said by `propertyNames` itself.
    if (/\/(?:oneOf|anyOf)\/\d/.test(error.schemaPath) || isInsideChoice(error, errors)) continue;
    if (error.propertyName !== undefined && error.keyword !== "propertyNames") continue;
    const fault = faultOf(error);
    const key = `${fault.pointer} ${fault.message}`;
    if (!said.has(key)) faults.push(fault);
    said.add(key);
  }
  return faults;
}

/** References are inlined by name, so a branch of `oneOf` may carry the path of what it refers to. */
function isInsideChoice(error: ErrorObject, errors: readonly ErrorObject[]): boolean {
  if (error.keyword === "oneOf") return false;
  return errors.some(({ keyword, instancePath }) => keyword === "oneOf" && instancePath === error.instancePath);
}

function faultOf({
  keyword,
  instancePath,
  params,
  schema,
  parentSchema,
  data,
  propertyName,
}: ErrorObject): SchemaFault {
  const name = instancePath.slice(instancePath.lastIndexOf("/") + 1);
  const found = `found ${clip(JSON.stringify(data))}`;
  const at = (message: string, pointer = instancePath): SchemaFault => ({ pointer, message });
  switch (keyword) {
    case "additionalProperties": {
      const extra = String(params.additionalProperty);
      const known = Object.keys((parentSchema as { properties?: object }).properties ?? {});
      const nearest = nearestOf(extra, known);
      return at(
        `"${extra}" is no word of organ_farm.json here${nearest === undefined ? "" : `; did you mean "${nearest}"?`}`,
        `${instancePath}/${escapePointer(extra)}`,
      );
    }
    case "required":
      return at(`"${params.missingProperty}" is missing`);
    case "type":
      return at(`${name} must be ${[params.type].flat().join(" or ")}, ${found}`);
    case "enum":
      return at(
        `${name} must be one of ${(schema as unknown[]).map((each) => JSON.stringify(each)).join(", ")}; ${found}`,
      );
    case "const":
      return at(`${name} must be ${JSON.stringify(schema)}, ${found}`);
    case "propertyNames":
      return at(
        `"${clip(String(params.propertyName ?? propertyName))}" is no name: letters, digits, dot, dash and ` +
          "underscore, at most 64 of them",
        `${instancePath}/${escapePointer(String(params.propertyName))}`,
      );
    case "oneOf":
    case "pattern":
      return at(`${name} must be ${wordsOf(name, parentSchema)}, ${found}`);
    case "minimum":
    case "maximum":
    case "exclusiveMinimum":
      return at(`${name} must be ${params.comparison} ${params.limit}, ${found}`);
    case "minItems":
    case "minLength":
      return at(`${name} must not be empty`);
    case "uniqueItems":
      return at(`${name} names the same thing twice`);
    default:
      return at(`${name || "the file"}: ${keyword} is not as it must be, ${found}`);
  }
}

function wordsOf(name: string, schema: unknown): string {
  const { description } = (schema ?? {}) as { description?: string };
  if (name === "VRAM" || name === "RAM" || name === "SSD") return '"auto", a number of bytes, or a size as "16GiB"';
  if (["ttl", "residence", "deadline", "command_timeout"].includes(name))
    return 'a time as "500ms", "30s", "10m", "2h"';
  if (name === "threads" || name === "gpu_layers") return '"auto" or a whole number';
  if (name === "name") return "letters, digits, dot, dash and underscore, at most 64, and begin with a letter or digit";
  if (name === "api_key_env") return "the name of an environment variable";
  if (name === "address") return "an http:// or https:// address";
  return description === undefined ? "as the schema says" : description.replace(/\.$/, "");
}

function clip(text: string | undefined): string {
  const whole = text ?? "nothing";
  return whole.length <= 60 ? whole : `${whole.slice(0, 60)}…`;
}

/** The known word that differs from `word` in the fewest places, if that is few enough for a slip. */
export function nearestOf(word: string, known: Iterable<string>): string | undefined {
  let best: string | undefined;
  let least = Math.max(2, Math.floor(word.length / 3)) + 1;
  for (const candidate of known) {
    const distance = editDistance(word.toLowerCase(), candidate.toLowerCase());
    if (distance < least) [best, least] = [candidate, distance];
  }
  // A word that was not written to its end is nearer than its letters say.
  return best ?? [...known].find((candidate) => word.length >= 3 && candidate.startsWith(`${word}_`));
}

/** Levenshtein's. */
function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, at) => at);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      next.push(Math.min(row[j] + 1, next[j - 1] + 1, row[j - 1] + (a[i - 1] === b[j - 1] ? 0 : 1)));
    }
    row = next;
  }
  return row[b.length];
}
