import * as v from "valibot";
import { PhysariumError } from "../errors.js";

/** A record nests objects six deep; text that nests thousands would overflow the stack of whatever walks it. */
const MAX_NESTING = 32;

/**
 * One JSON value of a record as `schema` describes it. Records lie in a folder that anybody may have edited: nothing of
 * them is believed before its type and range were looked at. Throws `code`, naming the place, what was found and what
 * was expected.
 */
export function readJson<T>(
  bytes: Uint8Array,
  schema: v.GenericSchema<unknown, T>,
  refuse: (fault: string, cause?: unknown) => PhysariumError,
): T {
  let value: unknown;
  try {
    if (nesting(bytes) > MAX_NESTING) throw refuse(`it nests more than ${MAX_NESTING} values in one another`);
    value = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch (error) {
    if (error instanceof PhysariumError) throw error;
    throw refuse(`it is no JSON (${(error as Error).message})`, error);
  }
  const result = v.safeParse(schema, value, { abortEarly: true });
  if (result.success) return result.output;
  const [issue] = result.issues;
  throw refuse(`${v.getDotPath(issue) ?? "the value"}: ${issue.message}`);
}

/**
 * How deep brackets open within one another, outside strings. A loop over bytes: a pattern could be made to backtrack.
 */
function nesting(bytes: Uint8Array): number {
  let depth = 0;
  let most = 0;
  let inString = false;
  for (let i = 0; i < bytes.length; i++) {
    const byte = bytes[i];
    if (inString && byte === BACKSLASH) i++;
    else if (byte === QUOTE) inString = !inString;
    else if (inString) continue;
    else if (byte === OPEN_BRACKET || byte === OPEN_BRACE) most = Math.max(most, ++depth);
    else if (byte === OPEN_BRACKET + 2 || byte === OPEN_BRACE + 2) depth--;
  }
  return most;
}

const QUOTE = 0x22;
const BACKSLASH = 0x5c;
/** The closing ones stand two further on, in both alphabets of brackets. */
const OPEN_BRACKET = 0x5b;
const OPEN_BRACE = 0x7b;

/** A count: a whole number that a double holds exactly, not below 0. */
export const Count = v.pipe(v.number(), v.safeInteger(), v.minValue(0));
export const Finite = v.pipe(v.number(), v.finite());
export const Fraction = v.pipe(Finite, v.minValue(0), v.maxValue(1));
export const NotNegative = v.pipe(Finite, v.minValue(0));
/** Text that is shown to people: as long as a path may be. */
export const Words = v.pipe(v.string(), v.maxLength(65_536));
export const Time = v.pipe(v.string(), v.isoTimestamp());
/** XXH128, hexadecimal. */
export const Digest = v.pipe(v.string(), v.regex(/^[0-9a-f]{32}$/, "expected 32 hexadecimal digits"));
/** A file of the output's own folder: a name that leads nowhere else. */
export const FileName = v.pipe(
  v.string(),
  v.maxLength(1024),
  v.check((name) => !/[/\0]/.test(name) && name !== "" && name !== "." && name !== "..", "expected a plain file name"),
);
