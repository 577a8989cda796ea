import { createHash } from "node:crypto";

/**
 * Makes tables of the class `sortable` sort by a click (or Enter) on a column's head, and gives long ones a field that
 * filters their rows. The page stays whole without it, and it touches nothing but rows that are there: no network, no
 * storage. The content security policy allows this script by its hash, and no other.
 */
export const SORT_SCRIPT = `"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const value = (row, at) => {
    const text = row.cells[at].textContent.trim();
    const number = Number(text.replace(/[,\\u00a0\\s%]|GB|MB|kB/g, "").replace("\\u2212", "-"));
    return text === "" || Number.isNaN(number) ? text : number;
  };
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
