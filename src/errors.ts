/**
 * The one error class. Every refusal and failure that Physarium foresees is a `PhysariumError` with a code;
 * anything else that surfaces is a bug of ours (exit 70).
 *
 * Families and exit codes: `USAGE_*` 2 · `DONOR_*` 3 · `VERIFY_*` 4 · `IO_*` and `HUB_*` 5 · `STOPPED` 130 · everything
 * else 70. 75, whatever the code, where the same command without any change may get through: `details.retry`.
 */
export class PhysariumError extends Error {
  override readonly name = "PhysariumError";
  readonly code: string;
  readonly details: Readonly<Record<string, unknown>>;

  /**
   * `message` says where, what was found, what was expected and what to do; control characters in it are escaped, and
   * the middle of a very long one is left out.
   */
  constructor(code: string, message: string, details: Record<string, unknown> = {}, cause?: unknown) {
    super(clip(printable(message)), cause === undefined ? undefined : { cause });
    this.code = code;
    this.details = details;
  }
}

/** What crosses a thread boundary: structured clone would drop the class and the code. */
export interface PlainError {
  code: string;
  message: string;
  details: Record<string, unknown>;
  stack?: string;
}

/** True for our errors; with `family`, only for codes of that family, as in `isPhysariumError(e, "DONOR_")`. */
export function isPhysariumError(error: unknown, family = ""): error is PhysariumError {
  return error instanceof PhysariumError && error.code.startsWith(family);
}

/** The exit code that the command line ends with for this error; 70 for what is none of ours. */
export function exitCodeOf(error: unknown): number {
  if (!isPhysariumError(error)) return 70;
  if (error.details.retry === true) return 75;
  if (error.code.startsWith("USAGE_")) return 2;
  if (error.code.startsWith("DONOR_")) return 3;
  if (error.code.startsWith("VERIFY_")) return 4;
  if (error.code.startsWith("IO_") || error.code.startsWith("HUB_")) return 5;
  if (error.code === "STOPPED") return 130;
  return 70;
}

export function toPlainError(error: unknown): PlainError {
  if (isPhysariumError(error)) return { code: error.code, message: error.message, details: { ...error.details } };
  const { message, stack } = error instanceof Error ? error : { message: String(error), stack: undefined };
  return { code: "INTERNAL", message, details: {}, ...(stack === undefined ? {} : { stack }) };
}

export function fromPlainError(plain: PlainError): Error {
  const error = new PhysariumError(plain.code, plain.message, plain.details);
  if (plain.stack !== undefined) error.stack = plain.stack;
  return error;
}

/** A hostile file can bring names of megabytes; a terminal should get a message, not those. */
const MAX_MESSAGE_CHARACTERS = 4_000;

/** Throws `STOPPED` once `signal` has aborted. */
export function refuseStopped(signal: Pick<AbortSignal, "aborted"> | undefined): void {
  if (signal?.aborted) throw stopped();
}

/** `STOPPED` as it is thrown where work ends. Whoever keeps something of that work makes another, and says what. */
export function stopped(): PhysariumError {
  return new PhysariumError("STOPPED", "stopped; nothing was written");
}

function clip(message: string): string {
  if (message.length <= MAX_MESSAGE_CHARACTERS) return message;
  const end = MAX_MESSAGE_CHARACTERS / 4;
  return `${message.slice(0, MAX_MESSAGE_CHARACTERS - end)} … ${message.slice(-end)}`;
}

/**
 * A value as one line of JSON for a terminal or a pipe: characters that JSON allows but a terminal obeys are escaped,
 * too.
 */
export function jsonLine(value: unknown): string {
  return `${printable(JSON.stringify(value))}\n`;
}

/**
 * Text that is safe to print: names in a donor are foreign data, and a raw escape sequence could rewrite the terminal.
 * C0 and C1 controls, bidirectional overrides and line separators become `\u001b` and the like; newlines stay only with
 * `keepNewlines`.
 */
export function printable(text: string, keepNewlines = false): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: finding control characters is the point
  return text.replace(/[\u0000-\u001f\u007f-\u009f\u200e\u200f\u2028-\u202e\u2066-\u2069]/g, (character) =>
    keepNewlines && character === "\n" ? character : `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}
