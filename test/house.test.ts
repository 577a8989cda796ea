import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";

const SRC = fileURLToPath(new URL("../src/", import.meta.url));
const MAX_LINES = 400;
const MAX_COLUMNS = 120;
/** A list of alternatives in one regular expression is a table. */
const PATTERN = /^\s*(?:\/.*\/[a-z]*[;,]?|pattern: `.*`,)$/;

const files = readdirSync(SRC, { recursive: true, encoding: "utf8" })
  .filter((path) => path.endsWith(".ts"))
  .map((path) => ({ path, lines: readFileSync(join(SRC, path), "utf8").split("\n") }));

test("files were found at all", () => {
  expect(files.length).toBeGreaterThan(100);
});

test(`no source file has over ${MAX_LINES} lines: look for its second noun`, () => {
  expect(files.filter(({ lines }) => lines.length > MAX_LINES + 1).map(({ path }) => path)).toEqual([]);
});

test(`no line has over ${MAX_COLUMNS} columns`, () => {
  const long = files.flatMap(({ path, lines }) =>
    lines.flatMap((line, at) =>
      [...line].length > MAX_COLUMNS && !PATTERN.test(line) && !/https?:\/\/\S{60}/.test(line)
        ? [`${path}:${at + 1}`]
        : [],
    ),
  );
  expect(long).toEqual([]);
});
