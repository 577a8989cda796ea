import { PhysariumError } from "../errors.js";

/**
 * A strict pull reader of JSON bytes (RFC 8259) for headers and indexes.
 *
 * `JSON.parse` would keep the last of two equal keys, move integer-like names to the front, treat `__proto__` specially
 * and round integers past 2^53; a header of 10^6 tensors would also cost several objects a tensor. Here the caller
 * pulls what it expects, so nothing is built that it does not keep.
 *
 * Nesting is capped at 128 as in serde_json, so hostile depth cannot exhaust the stack.
 */
const MAX_DEPTH = 128;

const QUOTE = 0x22;
const BACKSLASH = 0x5c;
const COMMA = 0x2c;
const COLON = 0x3a;
const OPEN_BRACE = 0x7b;
const CLOSE_BRACE = 0x7d;
const OPEN_BRACKET = 0x5b;
const CLOSE_BRACKET = 0x5d;

export class JsonReader {
  private position = 0;
  private depth = 0;
  private readonly decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

  /** `where` opens every message; `code` is the code of every error thrown. */
  constructor(
    private readonly bytes: Uint8Array,
    private readonly where: string,
    private readonly code: string,
    /** Bare words that may stand for a value nobody keeps. */
    private readonly literals: readonly string[] = ["true", "false", "null"],
  ) {}

  /**
   * Calls `onMember(key)` for each member; the callback must consume the member's value. Keys may repeat: the caller
   * knows which may not.
   */
  readObject(expected: string, onMember: (key: string) => void): void {
    this.enter(OPEN_BRACE, expected);
    if (this.peek() === CLOSE_BRACE) {
      this.leave();
      return;
    }
    for (;;) {
      if (this.peek() !== QUOTE) this.fail(`a quoted key`);
      const key = this.readString("a key");
      if (this.peek() !== COLON) this.fail("':' after a key");
      this.position++;
      onMember(key);
      const next = this.peek();
      if (next === CLOSE_BRACE) break;
      if (next !== COMMA) this.fail("',' or '}' in an object");
      this.position++;
    }
    this.leave();
  }

  /** Calls `onElement()` for each element; the callback must consume it. */
  readArray(expected: string, onElement: () => void): void {
    this.enter(OPEN_BRACKET, expected);
    if (this.peek() === CLOSE_BRACKET) {
      this.leave();
      return;
    }
    for (;;) {
      onElement();
      const next = this.peek();
      if (next === CLOSE_BRACKET) break;
      if (next !== COMMA) this.fail("',' or ']' in an array");
      this.position++;
    }
    this.leave();
  }

  readString(expected: string): string {
    if (this.peek() !== QUOTE) this.fail(expected);
    const start = ++this.position;
    let plain = true;
    for (; ; this.position++) {
      const byte = this.bytes[this.position];
      if (byte === QUOTE) break;
      if (byte === undefined) this.fail("the closing quote of a string");
      if (byte < 0x20) this.fail("no raw control character in a string");
      if (byte === BACKSLASH) {
        plain = false;
        this.position++;
      }
    }
    const text = this.decode(start, this.position++);
    if (plain) return text;
    let value: unknown;
    try {
      value = JSON.parse(`"${text}"`);
    } catch {
      this.fail("a valid escape sequence in a string");
    }
    // JSON.parse lets half a surrogate pair through; such a name could not be written back as UTF-8.
    if (/[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/.test(value as string)) {
      this.fail("paired surrogates in a \\u escape");
    }
    return value as string;
  }

  /** A non-negative integer no larger than 2^53 − 1, written with digits only. */
  readSafeInteger(expected: string): number {
    const text = this.readScalarText(expected);
    if (!/^(0|[1-9][0-9]*)$/.test(text)) this.fail(`${expected} (a non-negative integer), found ${clip(text)}`);
    const value = Number(text);
    if (!Number.isSafeInteger(value)) this.fail(`${expected} up to 2^53 - 1, found ${clip(text)}`);
    return value;
  }

  /** Any number as JavaScript reads it. */
  readNumber(expected: string): number {
    const text = this.readScalarText(expected);
    if (!/^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?$/.test(text)) this.fail(`${expected}, found ${clip(text)}`);
    return Number(text);
  }

  /** Consumes one value of any kind. */
  skipValue(): void {
    const byte = this.peek();
    if (byte === OPEN_BRACE) this.readObject("an object", () => this.skipValue());
    else if (byte === OPEN_BRACKET) this.readArray("an array", () => this.skipValue());
    else if (byte === QUOTE) this.readString("a string");
    else {
      if (!this.skipLiteral()) this.readNumber("a value");
    }
  }

  /** Consumes a bare word (`null`, `true` …) where one stands next. */
  skipLiteral(): boolean {
    const text = this.peekScalarText();
    if (!this.literals.includes(text)) return false;
    this.position += text.length;
    return true;
  }

  /** True when the next value opens an object; consumes nothing. */
  atObject(): boolean {
    return this.peek() === OPEN_BRACE;
  }

  /** Consumes a `null` where one stands next. */
  skipNull(): boolean {
    if (this.peekScalarText() !== "null") return false;
    this.position += 4;
    return true;
  }

  atString(): boolean {
    return this.peek() === QUOTE;
  }

  /** Only white space may follow. */
  end(): void {
    if (this.peek() !== undefined) this.fail("nothing after the closing brace");
  }

  /** Throws this reader's error, naming the byte reached. */
  fail(expected: string): never {
    const byte = this.bytes[this.position];
    const found = byte === undefined ? "its end" : `0x${byte.toString(16).padStart(2, "0")}`;
    throw new PhysariumError(
      this.code,
      `${this.where}: byte ${this.position} of the JSON: expected ${expected} (at ${found})`,
      {
        byteOffset: this.position,
      },
    );
  }

  private enter(open: number, expected: string): void {
    if (this.peek() !== open) this.fail(expected);
    if (++this.depth > MAX_DEPTH) this.fail(`at most ${MAX_DEPTH} nested values`);
    this.position++;
  }

  private leave(): void {
    this.position++;
    this.depth--;
  }

  /** Skips white space; the next byte, or `undefined` at the end. */
  private peek(): number | undefined {
    for (;;) {
      const byte = this.bytes[this.position];
      if (byte !== 0x20 && byte !== 0x0a && byte !== 0x0d && byte !== 0x09) return byte;
      this.position++;
    }
  }

  private peekScalarText(): string {
    this.peek();
    let end = this.position;
    // Long enough for any number we could accept; longer digit runs fail as numbers.
    while (end - this.position < 400 && isScalarByte(this.bytes[end])) end++;
    return this.decode(this.position, end);
  }

  private readScalarText(expected: string): string {
    const text = this.peekScalarText();
    if (text === "") this.fail(expected);
    this.position += text.length;
    return text;
  }

  private decode(start: number, end: number): string {
    const run = this.bytes.subarray(start, end);
    // Short ASCII runs are most of a header: this path is several times faster than TextDecoder, and makes one flat
    // string.
    if (run.length <= 256 && run.every((byte) => byte < 0x80)) {
      return String.fromCharCode.apply(null, run as unknown as number[]);
    }
    try {
      return this.decoder.decode(run);
    } catch {
      this.fail("valid UTF-8");
    }
  }
}

function isScalarByte(byte: number | undefined): boolean {
  if (byte === undefined) return false;
  // digits, letters, '+', '-', '.'
  return (
    (byte >= 0x30 && byte <= 0x39) ||
    (byte >= 0x41 && byte <= 0x5a) ||
    (byte >= 0x61 && byte <= 0x7a) ||
    byte === 0x2b ||
    byte === 0x2d ||
    byte === 0x2e
  );
}

function clip(text: string): string {
  return text.length <= 40 ? text : `${text.slice(0, 40)}…`;
}
