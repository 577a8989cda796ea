import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { writeOwnCalibration } from "../../dist/calibration/self-calibration.js";
import { type ComparisonOptions, compareMethods, SELF_WRITTEN } from "../../dist/compare/comparison.js";
import { chooseMethods } from "../../dist/methods/registry.js";
import { evaluate } from "../../dist/probe/evaluate.js";
import { LayerRunner } from "../../dist/probe/forward/layer-runner.js";
import type { PreparedText } from "../../dist/probe/text/protocols.js";
import { splitText, takeSamples } from "../../dist/probe/text/samples.js";
import { TextTokenizer } from "../../dist/probe/text/tokenizer.js";
import type { ComparisonRecord } from "../../dist/record/comparison.js";
import { comparisonCsv, renderComparison } from "../../dist/report/comparison.js";
import { comparisonPicture } from "../../dist/report/pictures/comparison.js";

const LOAM = "examples/donors/loam";

describe("samples", () => {
  const sequences = Array.from({ length: 20 }, (_, at) => ({ ids: new Array(at < 2 ? 3 : 8).fill(at), scoreFrom: 1 }));
  const text = { sequences } as unknown as PreparedText;
  const first = (split: readonly { ids: readonly number[] }[]) => split.map(({ ids }) => ids[0]);

  test("in order for seed 0, drawn otherwise, short ones left out", () => {
    expect(first(takeSamples(text, { samples: 3, seed: 0, minTokens: 8 }).calibration)).toEqual([2, 3, 4]);
    const drawn = first(takeSamples(text, { samples: 6, seed: 5, minTokens: 8 }).calibration);
    expect(new Set(drawn).size).toBe(6);
    expect(drawn).not.toEqual([2, 3, 4, 5, 6, 7]);
    expect(first(takeSamples(text, { samples: 6, seed: 5, minTokens: 8 }).calibration)).toEqual(drawn);
  });

  test.each([0, 1, 2])("one text for both: what is scored stays and never calibrates (seed %d)", (seed) => {
    const { calibration, rest } = splitText(text, { samples: 4, seed }, 5);
    expect(first(rest)).toEqual([4, 5, 6, 7, 8]);
    expect(calibration).toHaveLength(4);
    expect(first(calibration).filter((at) => first(rest).includes(at))).toEqual([]);
  });

  test.each([0, 1])("fresh ones are those drawn next: they neither calibrate nor are scored (seed %d)", (seed) => {
    const one = splitText(text, { samples: 4, seed, fresh: 6 }, 5);
    expect(new Set([one.calibration, one.fresh, one.rest].flatMap(first)).size).toBe(4 + 6 + 5);
    const { calibration, fresh } = takeSamples(text, { samples: 12, seed, fresh: 100 });
    expect(new Set([...first(calibration), ...first(fresh)]).size).toBe(20);
    expect(first(calibration)).toEqual(first(takeSamples(text, { samples: 12, seed }).calibration));
  });

  test("nothing left to score is refused", () => {
    expect(() => splitText(text, { samples: 20, seed: 0 })).toThrow(/leave none to score/);
  });
});

describe("compare", () => {
  let folder: string;
  let options: ComparisonOptions;

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "physarium-compare-"));
    // The donor's own words: what it finds likely is what surgery can spoil.
    const runner = await LayerRunner.open(LOAM, { threads: 1 });
    const tokenizer = await TextTokenizer.open(LOAM);
    const sequences = await writeOwnCalibration(runner, tokenizer, 32, 64, 1);
    expect(sequences).toHaveLength(32);
    expect(await writeOwnCalibration(runner, tokenizer, 2, 8, 1)).toEqual(
      sequences.slice(0, 2).map((ids) => ids.slice(0, 8)),
    );
    await runner.close();
    await writeFile(
      join(folder, "text.txt"),
      (await Promise.all(sequences.map((ids) => tokenizer.decode(ids)))).join("\n"),
    );
    options = {
      text: join(folder, "text.txt"),
      calibration: join(folder, "text.txt"),
      methods: chooseMethods(["magnitude", "wanda", "sparsegpt", "activation"]),
      targets: [{ kind: "sparsity", sparsity: 0.5 }],
      protocol: { window: 64, limit: 8 },
      samples: 16,
      seed: 0,
      threads: 1,
    };
  });
  afterAll(() => rm(folder, { recursive: true, force: true }));

  test("the activation flow costs less than SparseGPT, that less than Wanda, and a second run takes the rows over", async () => {
    const record = await compareMethods(LOAM, options);
    const damages = new Map(record.rows.map(({ method, damage }) => [method, damage]));
    expect(damages.get("activation")!).toBeLessThan(damages.get("sparsegpt")!);
    expect(damages.get("sparsegpt")!).toBeLessThan(damages.get("wanda")!);
    for (const row of record.rows) {
      expect(row.sparsity_reached).toBeGreaterThan(0.499);
      expect(row.sparsity_reached).toBeLessThan(0.501);
      expect(row.kl_mean).toBeGreaterThan(0);
      expect(row.peak_rss_bytes).toBeGreaterThan(1e7);
    }
    expect(record.dense).toMatchObject({ same_top: 1, tokens: 8 * 63 });
    expect(Math.abs(record.dense.kl_mean)).toBeLessThan(1e-6);

    const taken: boolean[] = [];
    const again = await compareMethods(LOAM, {
      ...options,
      methods: chooseMethods(["magnitude", "activation"]),
      earlier: JSON.parse(JSON.stringify(record)) as ComparisonRecord,
      onRow: (_, __, isEarlier) => void taken.push(isEarlier),
    });
    expect(taken).toEqual([true, true]);
    expect(again.rows).toEqual(record.rows);

    const later = await compareMethods(LOAM, {
      ...options,
      methods: chooseMethods(["balanced"]),
      targets: [{ kind: "sparsity", sparsity: 0.25 }],
      earlier: record,
    });
    expect(later.rows.map(({ method, sparsity }) => [method, sparsity])).toEqual([
      ...record.rows.map(({ method }) => [method, 0.5]),
      ["balanced", 0.25],
    ]);
    await expect(compareMethods(LOAM, { ...options, seed: 9, earlier: record })).rejects.toMatchObject({
      code: "USAGE_OUTPUT",
    });

    const titles = { activation: "activation flow (v2)" };
    expect(renderComparison(record, titles)).toContain("| 50 % | activation flow (v2) |");
    expect(comparisonCsv(record).split("\n")).toHaveLength(record.rows.length + 2);
    expect(comparisonPicture(record, titles)).toMatch(/^<svg xmlns="http:\/\/www.w3.org\/2000\/svg".*activation flow/s);
  });

  test("--distil: a row of its own that says in how many steps; another number is another row", async () => {
    const own = { ...options, methods: chooseMethods(["magnitude"]), targets: [{ kind: "sparsity", sparsity: 0.7 }] };
    const run = (more: Partial<ComparisonOptions>) => compareMethods(LOAM, { ...own, ...more } as ComparisonOptions);
    const record = await run({ distil: 6 });
    const [plain, distilled] = record.rows;
    expect(plain.trained).toBeUndefined();
    expect([distilled.method, distilled.then]).toEqual(["magnitude", "distilled"]);
    expect(distilled).toMatchObject({ trained: true, distil_steps: 6, distil_tokens: expect.any(Number) });
    expect(distilled.kl_mean).toBeLessThan(plain.kl_mean);
    // Dead weights stay dead.
    expect(distilled.sparsity_reached).toBe(plain.sparsity_reached);
    expect(renderComparison(record, {})).toContain("| 70 % | magnitude, then distilled in 6 steps (trained) |");

    const taken: boolean[] = [];
    const later = await run({ distil: 1, earlier: record, onRow: (_, __, isEarlier) => void taken.push(isEarlier) });
    expect(taken).toEqual([true, false]);
    expect(later.rows.map(({ distil_steps: steps }) => steps)).toEqual([undefined, 6, 1]);
  });

  test("--then matched and --distil: what was operated on for the row before is not done again", async () => {
    const layers: string[] = [];
    const { rows } = await compareMethods(LOAM, {
      ...options,
      methods: chooseMethods(["wanda", "matched"]),
      match: { rounds: 1, trialSteps: 1 },
      thenMatched: true,
      distil: 2,
      onProgress: (words) => void (/layer 1 of/.test(words) && layers.push(words.split(":")[0])),
    });
    expect(rows.map(({ method, then }) => [method, then])).toEqual([
      ["wanda", undefined],
      ["wanda", "distilled"],
      ["wanda", "matched"],
      ["matched", undefined],
      ["matched", "distilled"],
    ]);
    expect(layers).toEqual(["wanda 50 %", "wanda, then matched 50 %", "matched 50 %"]);
    const [wanda, trained, then, matched, matchedTrained] = rows;
    expect([wanda.held_out_loss, trained.held_out_loss]).toEqual([undefined, undefined]);
    for (const row of [then, matched, matchedTrained]) expect(row.held_out_loss).toBeGreaterThan(0);
    expect([trained.trained, matchedTrained.trained, matched.trained]).toEqual([true, true, undefined]);
    expect(then.damage).toBeLessThan(wanda.damage);
    expect(trained.kl_mean).not.toBe(wanda.kl_mean);
    expect(trained.seconds).toBeGreaterThan(wanda.seconds);
  });

  test("bits a byte, and --answers: how many stay the donor's, and how they repeat themselves", async () => {
    const own = { ...options, methods: chooseMethods(["magnitude"]), targets: [] as ComparisonOptions["targets"] };
    const at = (sparsity: number) => ({ kind: "sparsity", sparsity }) as const;
    const { dense, rows } = await compareMethods(LOAM, { ...own, answers: 40, targets: [at(1e-6), at(0.9)] });
    const evaluated = await evaluate(LOAM, options.text, { ...options.protocol, skip: 16, threads: 1 });
    expect(dense.bits_per_byte).toBeCloseTo(evaluated.quality.model.bits_per_byte!, 4);
    const shares = (row: (typeof rows)[0] | typeof dense) =>
      [8, 16, 32].map((tokens) => row[`same_answers_${tokens}` as "same_answers_8"]!);
    expect(shares(dense)).toEqual([1, 1, 1]);
    const [whole, broken] = rows;
    // No weight, or one, is gone: answers are the donor's, but for places where two tokens are all but equal.
    expect(Math.min(...shares(whole))).toBeGreaterThan(0.9);
    expect(whole.repetition).toBeCloseTo(dense.repetition!, 1);
    expect(shares(broken)[2]).toBeLessThan(0.2);
    expect(broken.bits_per_byte).toBeGreaterThan(whole.bits_per_byte!);
    const table = renderComparison(await compareMethods(LOAM, { ...own, targets: [at(0.5)] }), {});
    expect(table).toContain("| bits a byte | KL | same top | zeros |");
    expect(table).not.toContain("repeats");
  });

  test("scored sequences that calibrate, too, are counted and said; --skip makes another comparison", async () => {
    const copy = join(folder, "copy.txt");
    await writeFile(copy, `${await readFile(options.text, "utf8")}\n`);
    const small = { ...options, samples: 4, methods: chooseMethods(["magnitude"]) };
    const shared = await compareMethods(LOAM, { ...small, calibration: copy });
    expect(shared.calibration.scored_too).toBe(4);
    expect(renderComparison(shared, {})).toContain("**4 of the 8 scored sequences were calibrated on, too");
    const apart = await compareMethods(LOAM, small);
    expect(renderComparison(apart, {})).toContain("No scored sequence is one of those.");
    const later = await compareMethods(LOAM, { ...small, protocol: { ...small.protocol, skip: 2 } });
    expect(later.fingerprint).not.toBe(apart.fingerprint);
    expect(later.dense.perplexity).not.toBe(apart.dense.perplexity);
  });

  test("documents are counted as scored", async () => {
    const text = join(folder, "documents.txt");
    const story = "Once upon a time there was a little red house by the sea, and nobody lived in it.";
    await writeFile(text, Array.from({ length: 12 }, (_, at) => `${story} It was house ${at}.`).join("<|endoftext|>"));
    const { protocol } = await compareMethods(LOAM, {
      ...options,
      text,
      calibration: text,
      samples: 5,
      protocol: { protocol: "documents", window: 64, limit: 3 },
      methods: chooseMethods(["magnitude"]),
    });
    expect(protocol).toMatchObject({ documents: 3, windows: 3 });
  });

  test.each(["writing its calibration", "scoring the donor", "operating"])("stops while %s", async (phase) => {
    const controller = new AbortController();
    const later: string[] = [];
    const { calibration, ...own } = options;
    expect(calibration).toBeDefined();
    const run = compareMethods(LOAM, {
      ...own,
      ...(phase === "writing its calibration" ? {} : { calibration: own.text }),
      signal: controller.signal,
      onProgress: (words) => {
        if (controller.signal.aborted) later.push(words);
        const isThere = { "writing its calibration": /writes/, "scoring the donor": /scoring/, operating: /layer 1/ };
        if (isThere[phase as keyof typeof isThere].test(words)) controller.abort();
      },
    });
    await expect(run).rejects.toMatchObject({ code: "STOPPED" });
    expect(later).toEqual([]);
  });

  test("without a calibration text the donor writes its own; another seed, other numbers", async () => {
    const { calibration, ...own } = options;
    const run = (seed: number) => compareMethods(LOAM, { ...own, methods: chooseMethods(["wanda"]), samples: 4, seed });
    const first = await run(3);
    expect(calibration).toBeDefined();
    expect(first.calibration).toMatchObject({ text: SELF_WRITTEN, samples: 4, tokens: 256, seed: 3 });
    expect((await run(3)).rows[0].perplexity).toBe(first.rows[0].perplexity);
    expect((await run(4)).rows[0].perplexity).not.toBe(first.rows[0].perplexity);
  });
});

test("unknown methods are refused by name", () => {
  expect(() => chooseMethods(["wnda"])).toThrow(/--methods "wnda": known are all, magnitude/);
  expect(() => chooseMethods(["all", "wnda"])).toThrow(/"wnda"/);
  expect(() => chooseMethods([])).toThrow(/known are all/);
  expect(chooseMethods(["wanda", "wanda"])).toHaveLength(1);
  expect(JSON.stringify(chooseMethods(["all"]).map(({ name }) => name))).toContain("alps-row");
});
