/** What happens to a text before it becomes tokens, piece by piece: nothing here holds a whole text. */

export type TextStream = AsyncIterable<string>;

/**
 * `\r\n` and a lone `\r` read as `\n`, as Python's text mode and with it the reference reads them; or left as they are.
 */
export type Newlines = "universal" | "keep";

/** What was seen of a text that went by. */
export interface Seen {
  /** A carriage return, so that it matters how newlines are read. */
  carriageReturn: boolean;
  /** Anything but white space. */
  text: boolean;
}

export async function* streamOf(text: string | TextStream): TextStream {
  if (typeof text === "string") yield text;
  else yield* text;
}

export async function* readNewlines(text: TextStream, newlines: Newlines, seen: Seen): TextStream {
  // A carriage return at the end of a piece may be half a line end.
  let held = "";
  for await (const piece of text) {
    seen.text ||= piece.trim() !== "";
    seen.carriageReturn ||= piece.includes("\r");
    if (newlines === "keep") yield piece;
    else {
      const whole = held + piece;
      held = whole.endsWith("\r") ? "\r" : "";
      yield (held === "" ? whole : whole.slice(0, -1)).replace(/\r\n?/g, "\n");
    }
  }
  if (held !== "") yield "\n";
}

export const ROW_JOINER = "\n\n";

/**
 * The datasets library keeps each row's line end, and makes rows of white space empty. source: wikitext.py of the
 * dataset `Salesforce/wikitext`
 */
export async function* joinRows(text: TextStream): TextStream {
  let rest = "";
  let isFirst = true;
  const join = (rows: readonly string[]): string => {
    if (rows.length === 0) return "";
    const joined = rows.map((row) => (row.trim() === "" ? "" : row)).join(ROW_JOINER);
    const before = isFirst ? "" : ROW_JOINER;
    isFirst = false;
    return before + joined;
  };
  for await (const piece of text) {
    const rows = (rest + piece).split(/(?<=\n)/);
    rest = rows.at(-1)?.endsWith("\n") ? "" : (rows.pop() ?? "");
    yield join(rows);
  }
  if (rest !== "") yield join([rest]);
}

/** Of a document longer than this the rest is left out: only its first window of tokens counts. */
const MAX_DOCUMENT_CHARACTERS = 1 << 24;

/** The parts between separators; an empty separator separates nothing. */
export async function* documentsOf(text: TextStream, separator: string): AsyncGenerator<string> {
  let document = "";
  for await (const piece of text) {
    let rest = document + piece;
    if (separator !== "") {
      const parts = rest.split(separator);
      rest = parts.pop() ?? "";
      yield* parts;
    }
    // The end stays: it may be half a separator.
    document =
      rest.length <= MAX_DOCUMENT_CHARACTERS + separator.length
        ? rest
        : rest.slice(0, MAX_DOCUMENT_CHARACTERS) + rest.slice(rest.length - separator.length);
  }
  yield document;
}
