/**
 * JSON with the place of everything in it, so that a refusal can name a line. Strict as RFC 8259; two equal keys are a
 * fault, not the last one's win.
 */
export interface LocatedJson {
  readonly value: unknown;
  /** Faults of the text itself: at most one of syntax, and every key that stands twice. */
  readonly faults: readonly { readonly message: string; readonly place: Place }[];
  /** Where the value at a JSON pointer begins (`/organs/0/name`; the whole is the empty string). */
  placeOf(pointer: string): Place;
}

/** Counted from 1. */
export interface Place {
  readonly line: number;
  readonly column: number;
}

const MAX_DEPTH = 64;

export function parseLocated(text: string): LocatedJson {
  const reader = new LocatedReader(text);
  let value: unknown;
  try {
    value = reader.whole();
  } catch (error) {
    if (!(error instanceof Fault)) throw error;
    reader.faults.push({ message: error.message, place: reader.place(error.offset) });
  }
  return {
    value,
    faults: reader.faults,
    placeOf(pointer) {
      // A value that is missing stands where what should hold it does.
      for (let at = pointer; ; at = at.slice(0, at.lastIndexOf("/"))) {
        const offset = reader.offsets.get(at);
        if (offset !== undefined) return reader.place(offset);
        if (at === "") return { line: 1, column: 1 };
      }
    },
  };
}

class Fault extends Error {
  constructor(
    message: string,
    readonly offset: number,
  ) {
    super(message);
  }
}

class LocatedReader {
  readonly offsets = new Map<string, number>();
  readonly faults: { message: string; place: Place }[] = [];
  private at = 0;

  constructor(private readonly text: string) {
    if (text.charCodeAt(0) === 0xfeff) this.at = 1;
  }

  whole(): unknown {
    const value = this.value("", 0);
    this.space();
    if (this.at < this.text.length) this.fail("expected nothing behind the value");
    return value;
  }

  place(offset: number): Place {
    const before = this.text.slice(0, offset);
    return { line: before.split("\n").length, column: offset - before.lastIndexOf("\n") };
  }

  private value(pointer: string, depth: number): unknown {
    this.space();
    if (depth > MAX_DEPTH) this.fail(`more than ${MAX_DEPTH} values within one another`);
    this.offsets.set(pointer, this.at);
    const character = this.text[this.at];
    if (character === "{") return this.object(pointer, depth);
    if (character === "[") return this.array(pointer, depth);
    if (character === '"') return this.string();
    const word = /[^\s,\]}:"[{]*/y;
    word.lastIndex = this.at;
    const found = word.exec(this.text)?.[0] ?? "";
    if (found === "")
      this.fail(this.at >= this.text.length ? "the text ends where a value should be" : "expected a value");
    let value: unknown;
    try {
      value = JSON.parse(found);
    } catch {
      this.fail(`expected a value, found ${found.slice(0, 40)}`);
    }
    this.at += found.length;
    return value;
  }

  private object(pointer: string, depth: number): Record<string, unknown> {
    const entries = new Map<string, unknown>();
    this.at++;
    for (let first = true; ; first = false) {
      this.space();
      if (this.text[this.at] === "}" && first) break;
      const keyAt = this.at;
      if (this.text[this.at] !== '"') this.fail(first ? "expected a quoted key or }" : "expected a quoted key");
      const key = this.string();
      this.space();
      if (this.text[this.at] !== ":") this.fail(`expected : behind the key "${key}"`);
      this.at++;
      if (entries.has(key)) this.faults.push({ message: `the key "${key}" stands twice`, place: this.place(keyAt) });
      const inner = `${pointer}/${escapePointer(key)}`;
      entries.set(key, this.value(inner, depth + 1));
      // What is wrong with a member is looked for at its key.
      this.offsets.set(inner, keyAt);
      this.space();
      if (this.text[this.at] === "}") break;
      if (this.text[this.at] !== ",") this.fail("expected , or }");
      this.at++;
    }
    this.at++;
    // `fromEntries` defines, so that a key named __proto__ is a key.
    return Object.fromEntries(entries);
  }

  private array(pointer: string, depth: number): unknown[] {
    const values: unknown[] = [];
    this.at++;
    this.space();
    if (this.text[this.at] === "]") {
      this.at++;
      return values;
    }
    for (;;) {
      values.push(this.value(`${pointer}/${values.length}`, depth + 1));
      this.space();
      if (this.text[this.at] === "]") break;
      if (this.text[this.at] !== ",") this.fail("expected , or ]");
      this.at++;
    }
    this.at++;
    return values;
  }

  private string(): string {
    const start = this.at;
    for (this.at++; ; this.at++) {
      const character = this.text[this.at];
      if (character === undefined || character === "\n") this.fail("a string that is not closed", start);
      if (character === "\\") this.at++;
      else if (character === '"') break;
    }
    this.at++;
    try {
      return JSON.parse(this.text.slice(start, this.at)) as string;
    } catch {
      this.fail("a string with an escape that JSON has not, or a raw control character", start);
    }
  }

  private space(): void {
    while (" \t\r\n".includes(this.text[this.at] ?? "x")) this.at++;
  }

  private fail(message: string, offset = this.at): never {
    throw new Fault(message, offset);
  }
}

export function escapePointer(key: string): string {
  return key.replaceAll("~", "~0").replaceAll("/", "~1");
}
