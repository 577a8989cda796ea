import { execFileSync, spawnSync } from "node:child_process";
import { existsSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { METHODS } from "../../dist/methods/registry.js";
import type { ComparisonRecord } from "../../dist/record/comparison.js";
import type { ReportInput } from "../../dist/record/report-input.js";
import { sparsityCurve } from "../../dist/report/curve-section.js";
import { renderHtml } from "../../dist/report/index.js";
import { comparisonPicture } from "../../dist/report/pictures/comparison.js";
import { curvePlot } from "../../dist/report/pictures/curve.js";
import { standalone } from "../../dist/report/pictures/svg-plot.js";
import { temporaryFolder } from "../temporary.js";
import { comparisonNumbers, integrity, loamLike, qualityNumbers, worthNumbers } from "./fixtures.js";

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
  comparison: comparisonNumbers(),
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
    expect(pictures.length).toBeGreaterThan(6);
    for (const picture of pictures) {
      const names = [...(/^<svg([^>]*)>/.exec(picture)?.[1] ?? "").matchAll(/([\w:-]+)="/g)].map(([, name]) => name);
      expect(new Set(names).size).toBe(names.length);
      expect(picture).toMatch(/viewBox="/);
    }
  });

  test.skipIf(CHROMIUM === undefined).each([
    ["light", 1280],
    ["dark", 1280],
    ["light", 390],
    ["dark", 390],
  ])("Chromium lays the report out: %s, %i px", (scheme, width) => {
    const page = join(folder, "report.html");
    writeFileSync(page, renderHtml(report));
    const found = lookAt(page, scheme, width);
    // The page itself never scrolls sideways; tables and plots do, in boxes of their own.
    expect(found.scrollWidth).toBeLessThanOrEqual(width);
    expect(found.pictures).toHaveLength(renderHtml(report).match(/<svg/g)!.length);
    for (const { width: across, height, marks } of found.pictures) {
      expect(Math.min(across, height)).toBeGreaterThan(0);
      expect(marks).toBeGreaterThan(0);
    }
    const [red] = /\d+/.exec(found.background)!;
    if (scheme === "dark") expect(Number(red)).toBeLessThan(60);
    else expect(Number(red)).toBeGreaterThan(200);
  });

  test.skipIf(CHROMIUM === undefined).each(["light", "dark"])("Chromium draws compare.svg by itself: %s", (scheme) => {
    const picture = join(folder, "compare.svg");
    writeFileSync(picture, svg);
    const { pictures, labels } = lookAt(picture, scheme, 900);
    expect(pictures).toHaveLength(1);
    expect(labels.length).toBeGreaterThan(METHODS.length);
    expect(overlaps(labels), "every label has a place of its own").toEqual([]);
  });
});

describe("the curve of a comparison", () => {
  const curve = curvePlot(sparsityCurve(report));

  test("is XML by itself, with a line a method, none for patterns, and the operation's ring", () => {
    expect(xmlFault(standalone(curve).trim())).toBeUndefined();
    const titles = new Set(comparisonNumbers().rows.map(({ title }) => title));
    for (const title of titles) expect(curve).toContain(`>${title}</text>`);
    expect(curve.match(/<path [^>]*stroke-width="1.75"|<g [^>]*stroke-width="1.75"/g)).not.toBeNull();
    expect(curve).not.toContain("[object");
    expect(curve.match(/>× [0-9.]+<\/text>/g)!.length).toBeGreaterThan(2);
    expect(curve.match(/<circle [^>]*r="3"/g)).toHaveLength(titles.size * 4);
    expect(curve.match(/r="6"/g)).toHaveLength(1);
    expect(curve).toContain(`this: 22.2 %, × ${report.quality!.divergence!.perplexity_ratio.toPrecision(4)}`);
  });

  test.skipIf(CHROMIUM === undefined).each([
    ["light", 900],
    ["dark", 900],
    ["light", 390],
    ["dark", 390],
  ])("Chromium draws it with a place for every name: %s, %i px", (scheme, width) => {
    for (const [at, comparison] of [comparisonNumbers(), manyAlike()].entries()) {
      const picture = join(folder, `curve-${at}.svg`);
      writeFileSync(picture, standalone(curvePlot(sparsityCurve({ ...report, comparison }))));
      const { labels } = lookAt(picture, scheme, width);
      expect(labels.length).toBeGreaterThan(10);
      expect(overlaps(labels)).toEqual([]);
      for (const { text, left, right } of labels) {
        expect(left, text).toBeGreaterThanOrEqual(0);
        expect(right, text).toBeLessThanOrEqual(860);
      }
    }
  });

  /** Twelve methods that end at one point: their names would lie on each other. */
  function manyAlike() {
    const numbers = comparisonNumbers();
    const rows = Array.from({ length: 12 }, (_, at) =>
      numbers.rows
        .filter(({ method, pattern }) => method === "wanda" && pattern === undefined)
        .map((row) => ({ ...row, method: `m${at}`, title: `method number ${at}` })),
    );
    return { ...numbers, rows: rows.flat() };
  }
});

/** Pairs of labels that lie on one another. */
function overlaps(labels: Seen["labels"]): string[] {
  return labels.flatMap((a, at) =>
    labels
      .slice(at + 1)
      .filter((b) => {
        const across = Math.min(a.right, b.right) - Math.max(a.left, b.left);
        const down = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
        return across > 1 && down > 1;
      })
      .map((b) => `"${a.text}" lies on "${b.text}"`),
  );
}

interface Seen {
  readonly scrollWidth: number;
  readonly background: string;
  readonly pictures: readonly { readonly width: number; readonly height: number; readonly marks: number }[];
  readonly labels: readonly {
    readonly text: string;
    readonly left: number;
    readonly right: number;
    readonly top: number;
    readonly bottom: number;
  }[];
}

/** What Chromium makes of a file in a frame of this width: a window of its own is never narrower than 500 px. */
function lookAt(path: string, scheme: string, width: number): Seen {
  const look = () => {
    const frame = document.querySelector("iframe")!;
    const inner = frame.contentDocument!;
    const all = [...inner.querySelectorAll("svg")];
    if (all.length === 0 && inner.documentElement.tagName === "svg") all.push(inner.documentElement as never);
    const seen = {
      scrollWidth: inner.documentElement.scrollWidth,
      background: frame.contentWindow!.getComputedStyle(inner.body ?? inner.documentElement).backgroundColor,
      pictures: all.map((picture) => {
        const { width, height } = picture.getBoundingClientRect();
        return { width, height, marks: picture.querySelectorAll("path,rect,line,circle,text").length };
      }),
      labels: [...inner.querySelectorAll("svg text")]
        .filter((label) => label.textContent!.trim() !== "")
        .map((label) => {
          const { left, right, top, bottom } = label.getBoundingClientRect();
          return { text: label.textContent, left, right, top, bottom };
        }),
    };
    const out = document.createElement("pre");
    out.textContent = btoa(encodeURIComponent(JSON.stringify(seen)));
    document.body.append(out);
  };
  const page = join(folder, `look-${scheme}-${width}.html`);
  writeFileSync(
    page,
    `<!doctype html><body><iframe src="file://${path}" style="border:0;width:${width}px;height:900px"></iframe>` +
      `<script>addEventListener("load", ${look})</script>`,
  );
  const flags = [
    ...["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"],
    ...["--allow-file-access-from-files", `--user-data-dir=${join(folder, "profile")}`],
    ...(scheme === "dark" ? ["--blink-settings=preferredColorScheme=0"] : ["--blink-settings=preferredColorScheme=1"]),
    ...["--window-size=1400,1000", "--virtual-time-budget=5000", "--dump-dom", `file://${page}`],
  ];
  const dom = execFileSync(CHROMIUM!, flags, { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] });
  const coded = /<pre>([A-Za-z0-9+/=]+)<\/pre>/.exec(dom);
  if (coded === null) throw new Error(`Chromium did not get to its end: ${dom.slice(0, 500)}`);
  return JSON.parse(decodeURIComponent(atob(coded[1])));
}
