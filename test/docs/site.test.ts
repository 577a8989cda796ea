import { readdirSync, readFileSync } from "node:fs";
import { expect, test } from "vitest";

interface Chapters {
  readonly CHAPTERS: readonly { readonly text: string; readonly pages: readonly (readonly [string, string])[] }[];
  readonly placeOf: (path: string) => string;
}
const { CHAPTERS, placeOf }: Chapters = await import(new URL("../../site/chapters.mjs", import.meta.url).href);

test("the site's sidebar has every page of the docs once, and each a place of its own", () => {
  const listed = CHAPTERS.flatMap(({ pages }) => pages.map(([path]) => path));
  const docs = readdirSync("docs")
    .filter((name) => name.endsWith(".md"))
    .map((name) => `docs/${name}`);
  expect(docs.length).toBeGreaterThan(20);
  expect([...listed].sort()).toEqual(["CHANGELOG.md", "README.md", "SECURITY.md", ...docs].sort());
  expect(new Set(listed.map(placeOf)).size).toBe(listed.length);
});

test("the site is built from development dependencies with one version each, and is in no package", () => {
  const { dependencies, devDependencies, files } = JSON.parse(readFileSync("package.json", "utf8"));
  for (const name of ["vitepress", "typedoc", "typedoc-plugin-markdown"]) {
    expect(devDependencies[name]).toMatch(/^\d+\.\d+\.\d+$/);
    expect(dependencies[name]).toBeUndefined();
  }
  expect(files.filter((path: string) => path.startsWith("site"))).toEqual([]);
});
