import { createHash } from "node:crypto";

/**
 * What a cell sorts by: a number as `number-words.ts` writes it, sizes in bytes whatever their unit, times in seconds;
 * the text where it is none.
 */
export const SORT_KEY = `(text) => {
  const unit = { TB: 1e12, GB: 1e9, MB: 1e6, kB: 1e3 };
  const said = /^[<>×]?\\s*([-\\u2212]?[\\d,]*\\.?\\d+(?:e[-+]?\\d+)?)\\s*([a-zA-Z]+|%|)(?: [(±].*)?$/.exec(text);
  if (said === null) return text;
  return Number(said[1].replaceAll(",", "").replace("\\u2212", "-")) * (unit[said[2]] ?? 1);
}`;

/**
 * Makes tables of the class `sortable` sort by a click (or Enter) on a column's head, and gives long ones a field that
 * filters their rows. The page stays whole without it, and it touches nothing but rows that are there: no network, no
 * storage. The content security policy allows this script by its hash, and no other.
 */
export const SORT_SCRIPT = `"use strict";
const keyOf = ${SORT_KEY};
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const value = (row, at) => keyOf(row.cells[at].textContent.trim());
  [...table.tHead.rows[0].cells].forEach((head, at) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const sorted = rows.map((row) => ({ row, key: value(row, at) }));
      const isNumber = (key) => typeof key === "number";
      sorted.sort(({ key: a }, { key: b }) =>
        isNumber(a) && isNumber(b) ? a - b : String(a).localeCompare(String(b)),
      );
      if (down) sorted.reverse();
      body.append(...sorted.map(({ row }) => row));
    });
  });
  if (rows.length > 12) {
    const field = document.createElement("input");
    field.type = "search";
    field.placeholder = "filter rows";
    field.setAttribute("aria-label", "filter the rows of the table");
    field.className = "filter";
    field.addEventListener("input", () => {
      const wanted = field.value.toLowerCase();
      for (const row of rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
    });
    table.closest(".scroll")?.before(field);
  }
}
`;

/** What the content security policy says to allow it. */
export const SORT_SCRIPT_HASH = `'sha256-${createHash("sha256").update(SORT_SCRIPT).digest("base64")}'`;
