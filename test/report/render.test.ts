import { createHash } from "node:crypto";
import { runInNewContext } from "node:vm";
import { parseHTML } from "linkedom";
import { describe, expect, test } from "vitest";
import { renderHtml, renderLogLine, renderMarkdown, renderSummary } from "../../dist/report/index.js";
import { renderModelCard } from "../../dist/report/model-card.js";
import { nextCommands } from "../../dist/report/next-commands.js";
import { byteSize, count, duration, percent, significant } from "../../dist/report/number-words.js";
import {
  luminance,
  oklchToHex,
  RAMP_STEPS,
  rampColours,
  rampRange,
  rampStep,
  rampVariables,
} from "../../dist/report/pictures/ramp.js";
import { qualitySentence } from "../../dist/report/quality-section.js";
import { plain } from "../../dist/report/report-text.js";
import { reportDocument } from "../../dist/report/sections.js";
import { SORT_KEY, SORT_SCRIPT } from "../../dist/report/sortable.js";
import type { QualitySection } from "../../src/record/quality.js";
import type { QualityNumbers, ReportInput, WorthNumbers } from "../../src/record/report-input.js";
import type { SurgeryReport } from "../../src/record/surgery-report.js";
import type { ZerosWorth } from "../../src/record/worth.js";
import { integrity, loamLike, moeLike, qualityNumbers, qwenLike, worthNumbers } from "./fixtures.js";

const HOSTILE = `</title></svg><script>alert(1)</script>|\`**x**\`[a](javascript:b)\u001b[31m\u202egnp"' onload=x`;

const withEverything = () => {
  const report = qwenLike();
  return { ...report, integrity: integrity(), quality: qualityNumbers(), worth: worthNumbers(report) };
};

/** The same report with what no honest donor has in every foreign text. */
function hostile() {
  const report = withEverything();
  const bad = HOSTILE;
  return {
    ...report,
    flow: `magnitude${bad}`,
    flow_version: bad,
    donor: { ...report.donor, path: bad, name: bad },
    output: { path: bad },
    params: { ...report.params, include: bad },
    per_tensor: report.per_tensor.map((row) => ({
      ...row,
      name: `${bad}${row.name}`,
      shard: bad,
      dtype: bad,
      projection: `${bad}${row.projection}`,
    })),
    per_projection: report.per_projection.map((row) => ({ ...row, projection: bad })),
    shards: report.shards.map((shard) => ({ ...shard, file: bad })),
    warnings: [{ code: bad, message: bad }],
    side_files: [bad],
    left_out: [{ file: bad, reason: bad }],
    figures: { ...report.figures!, tile_maps: report.figures!.tile_maps.map((map) => ({ ...map, name: bad })) },
    integrity: { ...report.integrity, checks: [{ name: bad, ok: true, detail: bad }] },
    quality: { ...report.quality, text: { ...report.quality.text, name: bad } },
  };
}

/** Reports that no run should make but some run will. */
function odd(): Record<string, SurgeryReport> {
  const base = loamLike();
  const zero = {
    ...base.totals,
    model_weights: 0,
    target_weights: 0,
    killed: 0,
    already_zero: 0,
    tensors: 0,
    killed_of_target: Number.NaN,
    killed_of_model: Number.NaN,
    min_sparsity: Number.POSITIVE_INFINITY,
    mean_sparsity: Number.NaN,
    max_sparsity: Number.NEGATIVE_INFINITY,
  };
  const row = { ...base.per_tensor[0] };
  const one = {
    ...base,
    per_tensor: [row],
    per_projection: base.per_projection.slice(0, 1),
    per_layer: base.per_layer.slice(0, 1),
    shards: base.shards.slice(0, 1),
  };
  return {
    nothing: {
      ...base,
      totals: zero,
      per_tensor: [],
      per_projection: [],
      per_layer: [],
      shards: [],
      coverage: { tiles: 0, weights_processed: 0, weights_target: 0, fraction: Number.NaN },
      figures: { drive_histogram: null, tile_maps: [] },
      side_files: [],
      wall_seconds: 0,
      peak_rss_bytes: 0,
    },
    "one tensor": one,
    "no layer": { ...one, per_tensor: [{ ...row, layer: -1 }], per_layer: [] },
    "no weights": {
      ...one,
      per_tensor: [{ ...row, weights: 0, killed: 0, sparsity: Number.NaN, tiles: 0, shape: [0, 4] }],
      per_layer: [
        { ...base.per_layer[0], weights: 0, killed: 0, sparsity: Number.NaN, min: Number.NaN, max: Number.NaN },
      ],
    },
    "all dead": {
      ...one,
      per_tensor: [{ ...row, killed: row.weights, sparsity: 1 }],
      per_layer: [{ ...base.per_layer[0], sparsity: 1, min: 1, max: 1 }],
    },
    "none dead": {
      ...one,
      per_tensor: [{ ...row, killed: 0, sparsity: 0 }],
      per_layer: [{ ...base.per_layer[0], killed: 0, sparsity: 0, min: 0, max: 0 }],
    },
    "no time": { ...base, shards: base.shards.map((shard) => ({ ...shard, seconds: 0 })), wall_seconds: 0 },
    "strange figures": {
      ...base,
      figures: {
        drive_histogram: { bin_edges: [0, 0, 1], counts: [0, 0], sampled_tiles: 1, sampled_weights: 1, threshold: 5 },
        tile_maps: [
          {
            which: "most pruned",
            name: "x",
            block_size: 4,
            rows: 1,
            cols: 1,
            tile_rows: 1,
            tile_cols: 1,
            sparsity: [0.3],
          },
          {
            which: "least pruned",
            name: "y",
            block_size: 4,
            rows: 2,
            cols: 2,
            tile_rows: 2,
            tile_cols: 2,
            sparsity: [Number.NaN, 0.1],
          },
        ],
      },
    },
    "no figures": { ...base, figures: undefined } as unknown as SurgeryReport,
    failed: {
      ...base,
      totals: { ...base.totals, failed_tensors: 2 },
      coverage: { ...base.coverage, fraction: 0.999999 },
      integrity: integrity(false),
    },
    // What JSON makes of NaN.
    nulls: JSON.parse(JSON.stringify({ ...base, totals: zero })),
  };
}

const numbersGone = /\bNaN\b|undefined|Infinity|\[object/;

describe.each([
  ["loam-like", loamLike()],
  ["7B-like", qwenLike()],
  ["mixture of experts", moeLike(6)],
  ["with everything", withEverything()],
  ...Object.entries(odd()),
])("%s", (_, report) => {
  const html = renderHtml(report as SurgeryReport);
  const markdown = renderMarkdown(report as SurgeryReport);
  const summary = renderSummary(report as SurgeryReport);

  test("no number is missing its value", () => {
    expect(numbersGone.exec(html)?.[0]).toBe(undefined);
    expect(markdown).not.toMatch(numbersGone);
    expect(summary).not.toMatch(numbersGone);
  });

  test("a model card makes no markup of foreign words, a backslash in front of them or not", () => {
    const card = renderModelCard({ ...(report as ReportInput), flow_version: "a\\<b>|c" });
    expect(card).toContain("a\\\\\\<b\\>\\|c");
  });

  test("tables sort by what a cell says, whatever its unit", () => {
    const keyOf = runInNewContext(`(${SORT_KEY})`) as (text: string) => number | string;
    expect(keyOf(byteSize(900e6))).toBeLessThan(keyOf(byteSize(1.5e9)) as number);
    expect(keyOf(byteSize(999))).toBe(999);
    expect(keyOf(duration(2775.6))).toBe(2775.6);
    expect(keyOf(duration(0.42))).toBe(0.42);
    expect(keyOf(percent(0.2237))).toBe(22.37);
    expect(keyOf(count(2_949_120))).toBe(2_949_120);
    expect(keyOf(significant(1.5e-7))).toBe(1.5e-7);
    for (const words of ["F16", "–", "21.70–22.81 %", "model.layers.0", "576 × 576"]) expect(keyOf(words)).toBe(words);
  });

  test("one file, nothing from a network, no script but the one that sorts tables, allowed by its hash", () => {
    const { document } = parseHTML(html);
    const scripts = [...document.querySelectorAll("script")];
    expect(scripts.map(({ textContent }) => textContent)).toEqual([SORT_SCRIPT]);
    const hash = createHash("sha256").update(SORT_SCRIPT).digest("base64");
    expect(document.querySelector("meta[http-equiv]")?.getAttribute("content")).toContain(
      `script-src 'sha256-${hash}'`,
    );
    expect(/fetch|XMLHttp|import|innerHTML|eval|Storage|cookie/.test(SORT_SCRIPT)).toBe(false);
    expect(document.querySelectorAll("link, img, iframe, object, embed, base, form").length).toBe(0);
    expect(/https?:\/\/(?!www\.w3\.org\/)/.test(html)).toBe(false);
    expect(/url\(|@import/.test(html)).toBe(false);
    expect(document.querySelector("meta[http-equiv]")?.getAttribute("content")).toContain("default-src 'none'");
  });

  test("landmarks, a skip link that leads somewhere, named regions, headings in order", () => {
    const { document } = parseHTML(html);
    for (const landmark of ["header", "nav[aria-label]", "main#main", "footer", "a.skip[href='#main']", "h1"]) {
      expect(document.querySelectorAll(landmark).length, landmark).toBe(1);
    }
    const ids = [...document.querySelectorAll("[id]")].map((element) => element.id);
    expect(new Set(ids).size).toBe(ids.length);
    for (const link of document.querySelectorAll("a[href^='#']")) {
      expect(ids).toContain(link.getAttribute("href")?.slice(1));
    }
    for (const picture of document.querySelectorAll("svg")) {
      expect(picture.getAttribute("role")).toBe("img");
      expect(picture.getAttribute("aria-label")?.length).toBeGreaterThan(20);
    }
    for (const region of document.querySelectorAll(".scroll")) {
      expect(region.getAttribute("tabindex")).toBe("0");
      expect(region.getAttribute("role")).toBe("region");
      expect(region.getAttribute("aria-label")).toBeTruthy();
    }
    for (const table of document.querySelectorAll("table")) expect(table.querySelector("caption")).not.toBeNull();
  });

  test("Markdown tables have as many cells in every row as in their head", () => {
    let width = 0;
    for (const line of markdown.split("\n")) {
      if (!line.startsWith("|")) {
        width = 0;
        continue;
      }
      const cells = line.replace(/\\\|/g, "").split("|").length;
      if (width === 0) width = cells;
      expect(cells, line).toBe(width);
    }
  });

  test("the sections of the seed's report are all there", () => {
    for (const title of [
      "Inputs and outputs",
      "Aggregate sparsity",
      "Sparsity by projection",
      "Layers",
      "Output integrity",
      "Wall clock by shard",
      "What is not in this report",
      "Honest assessment",
    ]) {
      expect(markdown).toContain(`\n## ${title}\n`);
      expect(html.includes(`>${title}</a></h2>`), title).toBe(true);
    }
  });
});

describe("what the words say", () => {
  test("both denominators in the first sentence, and every kill rate names one", () => {
    const report = qwenLike();
    const markdown = renderMarkdown(report);
    const [, lede] = markdown.split("\n\n");
    expect(lede.replaceAll("*", "")).toMatch(
      /^Surgery set [\d,]+ weights to zero: 22\.\d\d % of the 6,525,288,448 target projection weights, 19\.\d\d % of all [\d,]+ weights of the model\.$/,
    );
    const summary = renderSummary(report);
    for (const line of summary
      .split("\n")
      .filter((text) => /killed|^\s+\d+\.\d\d %/.test(text) && text.includes("%"))) {
      expect(line).toMatch(/% of [\d,]+ (target projection weights|weights of the full model)/);
    }
  });

  test("v1 is presented as our own reconstruction", () => {
    for (const text of [renderMarkdown(loamLike()), renderHtml(loamLike())])
      expect(text).toContain("own reconstruction");
    expect(renderSummary(loamLike())).toContain("(our reconstruction)");
  });

  test("absent sections say so and give the command", () => {
    const markdown = renderMarkdown(loamLike());
    expect(markdown).toContain("**Not verified yet.**");
    expect(markdown).toContain("`physarium verify models/loam operated/loam`");
    expect(markdown).toContain("**Untested.**");
    expect(markdown).toContain("`physarium eval operated/loam --text FILE --against models/loam`");
    expect(markdown).toContain("“It loads” is not “it generates”");
    expect(renderSummary(loamLike())).toContain("not yet");
  });

  test("present sections are shown, and what they close is no longer called missing", () => {
    const markdown = renderMarkdown(withEverything());
    expect(markdown).toContain("**All 13 checks passed**");
    expect(markdown).toContain("perplexity");
    expect(markdown).toContain("Packed without loss");
    expect(markdown).not.toContain("Untested");
    expect(markdown).not.toContain("Not verified yet");
    expect(markdown).toContain("4,096 of 100,352 tiles");
  });

  test("quality in one sentence, and never a rate of what was pruned without its denominator", () => {
    const report = withEverything();
    const sentence = plain(qualitySentence(report.quality));
    expect(sentence).toBe(
      "On wiki.test.raw (240,000 predicted tokens) surgery raised perplexity by 5.70 % of the donor's, from 17.91 to 18.93; both models put the same token first at 84.20 % of the places.",
    );
    expect(renderMarkdown(report).replaceAll("**", "")).toContain(sentence.replace("wiki.test.raw", "`wiki.test.raw`"));
    expect(renderSummary(report)).toContain(sentence);
    expect(plain(qualitySentence({ ...report.quality, donor: null, divergence: null }))).toMatch(
      /does not say what surgery cost/,
    );
  });

  test("the types of the probe and the packer fit", () => {
    const quality = (section: QualitySection): QualityNumbers => section;
    const worth = (section: ZerosWorth): WorthNumbers => section;
    expect([quality, worth].length).toBe(2);
  });

  test("parity that was not probed is not called checked", () => {
    const parity = { mode: "none", tiles_checked: 0, tiles_total: 52, weights_checked: 0 };
    const report = { ...loamLike(), integrity: { ...integrity(), parity } };
    expect(renderMarkdown(report)).toContain("Parity with the reference was not probed.");
    expect(renderSummary(report)).toContain("yes: 13 checks, parity not probed");
  });

  test("a failed verification is said at once and everywhere", () => {
    const report = { ...loamLike(), integrity: integrity(false) };
    expect(renderSummary(report)).toContain("NO: 3 differences");
    expect(renderMarkdown(report)).toContain("This output should not be used");
    expect(renderHtml(report).includes("<dd>failed<small>")).toBe(true);
  });

  test("what is not all is never rounded to all", () => {
    const report = loamLike();
    report.coverage.fraction = 0.9999999;
    expect(renderMarkdown(report)).toContain("&gt; 99.99 %");
    expect(renderSummary(report)).toContain("coverage  > 99.99 %");
  });

  test("shards with their time, their kills and the sum so far", () => {
    const report = loamLike();
    const [first, second] = report.shards;
    const markdown = renderMarkdown(report);
    const cells = (n: number) => n.toLocaleString("en-US");
    expect(markdown).toMatch(
      new RegExp(
        `\\| \`${second.file}\` \\| 2 \\| .* s \\| ${cells(second.killed_cumulative - first.killed_cumulative)} \\| ${cells(second.killed_cumulative)} \\|`,
      ),
    );
  });
});

describe("v2", () => {
  const report = loamLike();
  const activation = {
    calibration: { text: "book.txt", samples: 8, tokens: 1024 },
    tensors: report.per_tensor.map(({ name, projection, weights }, at) => ({
      name,
      projection,
      weights,
      living: weights / 2,
      survivors_changed: weights / 4,
      revived: 0,
      exchanged_share: 0.05,
      stages: [
        { stage: "anchor", seconds: 1 },
        { stage: "flow", relative_error: 0.08 + at / 1000, seconds: 1 },
        { stage: "heal", relative_error: 0.02 + at / 1000, seconds: 1 },
      ],
    })),
  };
  const operated = {
    ...report,
    flow: "activation",
    flow_version: "v2",
    params: { ...report.params, survival: null, target_sparsity: 0.5 },
    activation,
  };

  test("shows what its stages did, and no cut in magnitudes that decided nothing", () => {
    const html = renderHtml(operated);
    expect(html).toMatch(/aria-label="Relative error of each projection after flow, heal; in the end /);
    expect(html).not.toContain("Drives and the cut");
    expect(renderHtml(report)).toContain("Drives and the cut");
    const markdown = renderMarkdown(operated);
    expect(markdown).toContain("1,024 tokens of `book.txt`");
    expect(markdown).toMatch(/\| Projection \| Flow \| Heal \| Sprouted \| Healed \|/);
    expect(markdown).toMatch(/\| 5\.00 % \| 50\.00 % \|/);
  });

  test("without healing nothing claims it", () => {
    const tensors = activation.tensors.map((tensor) => ({
      ...tensor,
      survivors_changed: 0,
      stages: [...tensor.stages, { stage: "donor's bits", relative_error: 0.2, seconds: 1 }],
    }));
    const markdown = renderMarkdown({ ...operated, activation: { ...activation, tensors } });
    expect(markdown).toContain("they keep the donor's bits");
    expect(markdown).not.toContain("the survivors are healed by least squares");
  });

  test("quality on the calibration text is said to flatter", () => {
    const { quality } = withEverything();
    const on = (sha256: string) =>
      renderMarkdown({
        ...operated,
        quality,
        activation: { ...activation, calibration: { ...activation.calibration, sha256 } },
      } as unknown as SurgeryReport);
    expect(on(quality!.text.sha256)).toContain("This is the text the operation was calibrated on.");
    expect(on("0".repeat(64))).not.toContain("This is the text the operation was calibrated on.");
  });

  test("a target that was missed is a warning", () => {
    const wanted = (target_sparsity: number) =>
      renderMarkdown({ ...operated, params: { ...operated.params, target_sparsity } });
    expect(wanted(0.75)).toMatch(/⚠️.*asked for 75\.00 % zeros over all targets\. It came to \d+\.\d+ %\./);
    // Only zeros too many have that reason.
    expect(wanted(0.1)).toMatch(/asked for 10\.00 % .* It came to \d+\.\d+ %: a place that was to live holds a zero/);
  });

  test("no reference is named that v2 does not have", () => {
    const markdown = renderMarkdown({ ...withEverything(), ...operated });
    expect(markdown).not.toContain("--parity full");
  });

  test("says what it was told to reach", () => {
    expect(renderSummary(operated)).toContain("50.00 % zeros wanted");
    const params = { ...operated.params, activation: { target: { pattern: { keep: 2, of: 4 } } } };
    expect(renderSummary({ ...operated, params })).toContain("2 of every 4 inputs kept");
  });
});

describe("foreign text", () => {
  test("is text and nothing else in HTML", () => {
    const html = renderHtml(hostile() as unknown as SurgeryReport).replace(`<script>${SORT_SCRIPT}</script>`, "");
    for (const raw of ["<script", "\u001b", "\u202e"]) expect(html.indexOf(raw), raw).toBe(-1);
    const { document } = parseHTML(html);
    expect(document.querySelectorAll("script, [onload]").length).toBe(0);
    expect(document.querySelector("h1")?.textContent).toContain("<script>alert(1)</script>");
  });

  test("is text and nothing else in Markdown", () => {
    const markdown = renderMarkdown(hostile() as unknown as SurgeryReport);
    const outsideCode = markdown.replace(/```[\s\S]*?```/g, "").replace(/`[^`\n]*`/g, "");
    expect(outsideCode).not.toMatch(/(?<!\\)</);
    expect(outsideCode).not.toMatch(/(?<!\\)\[a\]/);
    expect(markdown).not.toContain("\u001b");
    expect(markdown).not.toContain("\u202e");
  });

  test("cannot steer a terminal", () => {
    const report = hostile() as unknown as SurgeryReport;
    // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what must not be there
    const control = /[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u202a-\u202e]/;
    expect(renderSummary(report)).not.toMatch(control);
    expect(renderLogLine(report.per_tensor[0])).not.toMatch(/[\n\r]/);
    expect(renderLogLine(report.per_tensor[0])).not.toMatch(control);
  });
});

describe("size and speed", () => {
  test("100,000 tensors: bounded output, and a sentence that says where the rest is", () => {
    const report = moeLike(1390);
    expect(report.per_tensor.length).toBeGreaterThan(100_000);
    const started = performance.now();
    const html = renderHtml(report);
    const markdown = renderMarkdown(report);
    const milliseconds = performance.now() - started;
    expect(html.length).toBeLessThan(600_000);
    expect(markdown.length).toBeLessThan(60_000);
    expect(markdown).toContain("all others are in surgery.json and run.log");
    // Measured at 0.4 s on two slow cores; ten times that means something became quadratic.
    expect(milliseconds).toBeLessThan(5000);
  });

  test("equal reports give equal bytes", () => {
    const [once, again] = [1, 2].map(() => renderHtml(withEverything()));
    expect(once === again).toBe(true);
  });
});

describe("colours", () => {
  test("steps keep the order, and small differences are not blown up", () => {
    expect(rampStep(0, 0, 1)).toBe(0);
    expect(rampStep(1, 0, 1)).toBe(RAMP_STEPS - 1);
    expect(rampStep(0.5, 0.2, 0.2)).toBe(RAMP_STEPS / 2);
    const [low, high] = rampRange(0.221, 0.223);
    expect(high - low).toBeCloseTo(0.02, 12);
  });

  test.each([
    ["light", -1],
    ["dark", 1],
  ] as const)("%s: lightness runs one way, and text on every step has a contrast of 4.5 to 1", (scheme, sign) => {
    const steps = rampColours(scheme).map(luminance);
    expect(steps.length).toBe(RAMP_STEPS);
    for (let i = 1; i < steps.length; i++) expect(Math.sign(steps[i] - steps[i - 1])).toBe(sign);
    const inks = [...rampVariables(scheme).matchAll(/--t\d+:#(000|fff)/g)].map(([, ink]) => (ink === "000" ? 0 : 1));
    expect(inks.length).toBe(RAMP_STEPS);
    for (const [i, ink] of inks.entries()) {
      const [dark, light] = [ink, steps[i]].sort((a, b) => a - b);
      expect((light + 0.05) / (dark + 0.05)).toBeGreaterThan(4.5);
    }
  });

  test("white and black", () => {
    expect(oklchToHex([1, 0, 0])).toBe("#ffffff");
    expect(oklchToHex([0, 0, 0])).toBe("#000000");
  });
});

describe("what comes first", () => {
  const measured = withQuality(0.02, 0.9, 1.05);

  test("verdict, assessment, next commands, then what happened", () => {
    const ids = reportDocument(measured).sections.map(({ id }) => id);
    expect(ids.slice(0, 4)).toEqual(["verdict", "assessment", "next", "quality"]);
    expect(renderMarkdown(measured)).toContain("**noticeable**");
    expect(renderMarkdown(loamLike() as unknown as ReportInput)).toContain("**Not measured.**");
  });

  test("next commands: what was not proven and measured, quoted for a shell", () => {
    const report = { ...loamLike(), output: { path: "a b/out" } } as unknown as ReportInput;
    const lines = nextCommands(report).map(({ command }) => command);
    expect(lines[0]).toMatch(/^physarium verify models\/loam 'a b\/out'$/);
    expect(lines.some((line) => line.startsWith("physarium operate models/loam"))).toBe(true);
    const proven = nextCommands({ ...measured, output: { path: "out" } }).map(({ command }) => command);
    expect(proven.some((line) => line.startsWith("physarium eval"))).toBe(false);
  });

  test("what is equally sparse everywhere is said in a sentence, not drawn; damage by layer is", () => {
    const even = {
      ...measured,
      per_tensor: measured.per_tensor.map((row) => ({ ...row, sparsity: 0.5, killed: row.weights / 2 })),
      quality: {
        ...measured.quality!,
        layer_damage: [0, 1, 2].map((layer) => ({ layer, kl_mean: layer / 9, tokens: 5 })),
      },
    };
    const html = renderHtml(even);
    expect(html).not.toContain("How sparse each tensor became");
    expect(html).toContain("Every target tensor is equally sparse");
    expect(html).toMatch(/KL of its swap of 3 layers, most in layer 2/);
  });

  test("texts side by side with a mark where they part, and the most changed tokens", () => {
    const said = (text: string, repetition: number) => ({ text, repetition });
    const report = {
      ...measured,
      quality: {
        ...measured.quality!,
        changed_tokens: [
          {
            position: 1,
            before: "Once upon a",
            token: " time",
            kl: 2,
            p_donor: 0.9,
            p_model: 0.1,
            top_donor: " time",
            top_model: " day",
          },
        ],
      },
      speech: {
        accepted: false,
        prompts: [
          {
            prompt: "Hi",
            same_prefix_tokens: 2,
            donor: said(" there friend\nand\r\nmore", 0),
            model: said(" there there\nthere", 0.5),
          },
        ],
      },
    };
    const markdown = renderMarkdown(report);
    // Ends of lines are shown as such: escaped, they would be words.
    expect(markdown).toContain(" there **▸**there↵there");
    expect(markdown).toContain("friend↵and↵more");
    expect(markdown).toContain("| 0 % → 50 % |");
    expect(markdown).toContain("…Once upon a**▸** time");
    expect(renderHtml(report)).toContain("did not accept");
  });
});

/** A report that was measured, with these numbers. */
function withQuality(kl: number, top: number, ratio: number): ReportInput {
  const { divergence, ...quality } = qualityNumbers();
  const numbers = {
    kl_mean: kl,
    kl_mean_stderr: kl / 50,
    same_top: top,
    same_top_stderr: 0.001,
    perplexity_ratio: ratio,
  };
  return {
    ...loamLike(),
    quality: { ...quality, divergence: { ...divergence!, ...numbers } },
  } as unknown as ReportInput;
}
