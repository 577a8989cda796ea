import { execFileSync, spawnSync } from "node:child_process";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { METHODS } from "../../dist/methods/registry.js";
import type { ComparisonRecord } from "../../dist/record/comparison.js";
import type { ReportInput } from "../../dist/record/report-input.js";
import { renderHtml } from "../../dist/report/index.js";
import { comparisonPicture } from "../../dist/report/pictures/comparison.js";
import { temporaryFolder } from "../temporary.js";
import { integrity, loamLike, qualityNumbers, worthNumbers } from "./fixtures.js";

const folder = temporaryFolder();
const CHROMIUM = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"].find(existsSync);

/** XML's rules, as far as a picture could break them: every tag closed in order, no attribute twice, no bare signs. */
function xmlFault(text: string): string | undefined {
  const open: string[] = [];
  const tag = /<(\/?)([A-Za-z][\w:-]*)((?:\s+[\w:-]+="[^"<]*")*)\s*(\/?)>/y;
  for (let at = 0; at < text.length; ) {
    if (text[at] !== "<") {
      const end = text.indexOf("<", at);
      const words = text.slice(at, end < 0 ? undefined : end);
      if (/&(?!#\d+;|#x[0-9a-f]+;|amp;|lt;|gt;|quot;|apos;)/i.test(words)) return `a bare & in ${words.slice(0, 40)}`;
      at = end < 0 ? text.length : end;
      continue;
    }
    tag.lastIndex = at;
    const match = tag.exec(text);
    if (match === null) return `no tag at ${text.slice(at, at + 60)}`;
    const [whole, closes, name, attributes, empty] = match;
    const names = [...attributes.matchAll(/([\w:-]+)="/g)].map(([, each]) => each);
    if (new Set(names).size < names.length) return `an attribute twice in ${whole.slice(0, 80)}`;
    if (closes !== "") {
      if (open.pop() !== name) return `</${name}> closes another`;
    } else if (empty === "") open.push(name);
    at += whole.length;
  }
  return open.length === 0 ? undefined : `<${open.join("><")}> is left open`;
}

const rows = METHODS.map(({ name }, at) => ({ method: name, sparsity: 0.5, damage: 0.1 / (at + 1) }));
const comparison = { donor: 'a "<b>" & c', rows } as unknown as ComparisonRecord;
const titles = Object.fromEntries(METHODS.map(({ name, title }) => [name, title]));
const svg = comparisonPicture(comparison, titles);

const report = {
  ...loamLike(),
  integrity: integrity(),
  quality: {
    ...qualityNumbers(),
    layer_damage: [0, 1, 2, 3].map((layer) => ({ layer, kl_mean: 0.01 * (layer + 1), tokens: 100 })),
  },
  worth: worthNumbers(loamLike()),
} as unknown as ReportInput;

describe("pictures", () => {
  test("the checker sees what it should", () => {
    expect(xmlFault('<svg a="1" a="2"></svg>')).toMatch(/twice/);
    expect(xmlFault("<svg><g></svg>")).toMatch(/closes another/);
    expect(xmlFault("<svg>a & b</svg>")).toMatch(/bare/);
    expect(xmlFault("<svg><text>a &#38; b</text><g/></svg>")).toBeUndefined();
  });

  test("compare.svg is XML, names its namespace once and every method", () => {
    expect(xmlFault(svg.trim())).toBeUndefined();
    expect(svg.match(/xmlns=/g)).toHaveLength(1);
    for (const { title } of METHODS) expect(svg).toContain(title);
    if (spawnSync("xmllint", ["--version"]).status !== 0) return;
    const path = join(folder, "compare.svg");
    writeFileSync(path, svg);
    expect(spawnSync("xmllint", ["--noout", path]).status).toBe(0);
  });

  test("every picture of report.html has a size and is no attribute short", () => {
    const pictures = [...renderHtml(report).matchAll(/<svg[\s\S]*?<\/svg>/g)].map(([picture]) => picture);
    expect(pictures.length).toBeGreaterThan(5);
    for (const picture of pictures) {
      const names = [...(/^<svg([^>]*)>/.exec(picture)?.[1] ?? "").matchAll(/([\w:-]+)="/g)].map(([, name]) => name);
      expect(new Set(names).size).toBe(names.length);
      expect(picture).toMatch(/viewBox="/);
    }
  });

  test.skipIf(CHROMIUM === undefined)("Chromium draws them: not a blank page, at 390 px, too", () => {
    const shoot = (name: string, text: string, width: number): number => {
      const [page, picture] = [join(folder, name), join(folder, `${name}.png`)];
      writeFileSync(page, text);
      const flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        `--user-data-dir=${join(folder, "profile")}`,
      ];
      execFileSync(CHROMIUM!, [...flags, `--window-size=${width},900`, `--screenshot=${picture}`, `file://${page}`], {
        stdio: "ignore",
      });
      return readFileSync(picture).byteLength;
    };
    // A blank page of this size is a PNG of a few kB.
    expect(shoot("compare.svg", svg, 900)).toBeGreaterThan(20_000);
    expect(shoot("report.html", renderHtml(report), 390)).toBeGreaterThan(20_000);
  });
});
