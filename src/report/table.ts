import { count } from "./number-words.js";
import { say, type Table, type Text } from "./report-text.js";

/** Tables of many tensors show this many rows whole; longer ones show both ends. */
export const MAX_ROWS = 400;

export function table(
  caption: string,
  columns: readonly string[],
  rows: readonly (readonly Text[])[],
  numeric: readonly number[] = [],
): Table {
  return { kind: "table", caption, columns: columns.map((name, i) => ({ name, numeric: numeric.includes(i) })), rows };
}

/** At most `MAX_ROWS` rows, and a sentence that says where the others are. */
export function limited(whole: Table, where: Text): Table {
  if (whole.rows.length <= MAX_ROWS) return whole;
  return {
    ...whole,
    rows: whole.rows.slice(0, MAX_ROWS),
    note: say`The first ${count(MAX_ROWS)} of ${count(whole.rows.length)} rows; ${where}.`,
  };
}
