import { execFileSync } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { exitCodeOf, PhysariumError } from "../../dist/errors.js";

const page = readFileSync("docs/errors.md", "utf8");

test("docs/errors.md is what the source says today: node scripts/error-codes.mjs --write", () => {
  expect(execFileSync(process.execPath, ["scripts/error-codes.mjs"], { encoding: "utf8" })).toBe(page);
});

test("every code that is thrown stands in it, with words, under the exit code it ends with", () => {
  const rows = new Map<string, { words: string; exit: number }>();
  let exit = Number.NaN;
  for (const line of page.split("\n")) {
    const heading = /^## \w+, exit (\d+)$/.exec(line);
    if (heading !== null) exit = Number(heading[1]);
    if (line === "## Warnings") exit = Number.NaN;
    const row = /^\| `([A-Z0-9_]+)` \| (.*) \| (.*) \|$/.exec(line);
    if (row !== null && !row[1].endsWith("_")) rows.set(row[1], { words: row[2], exit });
  }
  // Found by text, not by the syntax tree that the script walks.
  const thrown = new Set<string>();
  for (const name of readdirSync("src", { recursive: true, encoding: "utf8" })) {
    if (!name.endsWith(".ts")) continue;
    const text = readFileSync(join("src", name), "utf8");
    for (const [, code] of text.matchAll(/new PhysariumError\(\s*"((?:USAGE|DONOR|VERIFY|IO|HUB)_[A-Z0-9_]+)"/g)) {
      thrown.add(code);
    }
  }
  expect(thrown.size).toBeGreaterThan(100);
  expect([...thrown].filter((code) => !rows.has(code))).toEqual([]);
  for (const [code, { words, exit }] of rows) {
    expect(words.trim(), code).not.toBe("");
    if (!Number.isNaN(exit)) expect(exitCodeOf(new PhysariumError(code, "x")), code).toBe(exit);
  }
  // A few sentences are made elsewhere; most say themselves what they are.
  expect([...rows.values()].filter(({ words }) => words === "put together where it is thrown").length).toBeLessThan(4);
});
