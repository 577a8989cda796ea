import { execFileSync } from "node:child_process";
import { cpSync, existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { describe, expect, test, vi } from "vitest";
import { openDonor } from "../../dist/checkpoint/donor.js";
import { quantile } from "../../dist/probe/divergence.js";
import { type EvaluateOptions, evaluate, runModels } from "../../dist/probe/evaluate.js";
import { inspectModel } from "../../dist/probe/forward/inspect-model.js";
import { gateError, runGate } from "../../dist/probe/gate.js";
import { prepareText } from "../../dist/probe/text/protocols.js";
import { decodeText } from "../../dist/probe/text/text-file.js";
import { TextTokenizer } from "../../dist/probe/text/tokenizer.js";
import { operate } from "../../dist/surgery/operation.js";
import { checkOptions } from "../../dist/surgery/options.js";
import { planSurgery } from "../../dist/surgery/plan.js";
import { hasEngine, LOAM, sharedDonor } from "./engine-present.js";
import { Oracle } from "./oracle.js";
import { type TinyModel, temporaryFolder, writeTinyModel } from "./tiny-model.js";

const STORY = readFileSync("test/fixtures/texts/story.txt", "utf8");

/** A tokenizer that spells only a to z and space, and says so of everything else. */
const LETTERS = JSON.stringify({
  version: "1.0",
  added_tokens: [{ id: 0, content: "<unk>", special: true, normalized: false }],
  normalizer: null,
  pre_tokenizer: null,
  post_processor: null,
  decoder: null,
  model: {
    type: "BPE",
    unk_token: "<unk>",
    vocab: Object.fromEntries(["<unk>", ..." abcdefghijklmnopqrstuvwxyz"].map((letter, id) => [letter, id])),
    merges: [],
  },
});

function lettersModel(seed: number, model: TinyModel = { config: { model_type: "llama" } }): string {
  const folder = writeTinyModel(temporaryFolder(), model, seed);
  writeFileSync(join(folder, "tokenizer.json"), LETTERS);
  writeFileSync(join(folder, "tokenizer_config.json"), JSON.stringify({ unk_token: "<unk>" }));
  return folder;
}

function textFile(content: string | Uint8Array): string {
  const path = join(temporaryFolder(), "text.txt");
  writeFileSync(path, content);
  return path;
}

/** A copy of loam with every fifth projection weight killed, or one weight replaced by NaN. */
function operatedLoam(kind: "killed" | "halved" | "nan"): string {
  const step = kind === "halved" ? 4 : 10;
  const folder = temporaryFolder();
  cpSync(LOAM, folder, { recursive: true });
  for (const file of ["model-00001-of-00004.safetensors", "model-00003-of-00004.safetensors"]) {
    const path = join(folder, file);
    const bytes = readFileSync(path);
    const length = Number(bytes.readBigUInt64LE(0));
    const header = JSON.parse(bytes.subarray(8, 8 + length).toString());
    for (const [name, tensor] of Object.entries<{ data_offsets: [number, number] }>(header)) {
      if (!name.includes("_proj.weight")) continue;
      const [begin, end] = tensor.data_offsets;
      if (kind === "nan") bytes.writeUInt16LE(0x7fc0, 8 + length + begin);
      else for (let at = begin; at < end; at += step) bytes.writeUInt16LE(0, 8 + length + at);
    }
    writeFileSync(path, bytes);
  }
  return folder;
}

function plainLogSoftmax(logits: Float64Array, row: number, width: number): number[] {
  const values = [...logits.subarray(row * width, (row + 1) * width)];
  const max = Math.max(...values);
  const total = Math.log(values.reduce((sum, value) => sum + Math.exp(value - max), 0)) + max;
  return values.map((value) => value - total);
}

describe.skipIf(!hasEngine)("scores", () => {
  test("NLL, KL and top tokens are those of the definition, over several chunks of the vocabulary", async () => {
    const config = { model_type: "llama", vocab_size: 17000, num_hidden_layers: 1 };
    const folders = [1, 2].map((seed) => writeTinyModel(temporaryFolder(), { config }, seed));
    const ids = [5, 16999, 8191, 8192, 3, 16383, 16384, 9];
    const prepared = {
      record: { tokens: 7 } as Awaited<ReturnType<typeof prepareText>>["record"],
      sequences: [{ ids, scoreFrom: 1 }],
      unknownTokens: 0,
    };
    const { traces, kl } = await runModels(folders, prepared);
    const [donor, model] = folders.map((folder) => new Oracle(folder).logits(ids));
    for (let row = 0; row < 7; row++) {
      const p = plainLogSoftmax(donor, row, 17000);
      const q = plainLogSoftmax(model, row, 17000);
      expect(traces[0].nll[row]).toBeCloseTo(-p[ids[row + 1]], 4);
      expect(traces[1].nll[row]).toBeCloseTo(-q[ids[row + 1]], 4);
      expect(traces[0].top[row]).toBe(p.indexOf(Math.max(...p)));
      expect(traces[1].top[row]).toBe(q.indexOf(Math.max(...q)));
      expect(kl![row]).toBeCloseTo(
        p.reduce((sum, value, token) => sum + Math.exp(value) * (value - q[token]), 0),
        4,
      );
    }
  });

  test("a model is no different from itself", async () => {
    const { quality } = await evaluate(LOAM, textFile(STORY), { against: LOAM, window: 64 });
    const { divergence, protocol, kl_histogram: histogram } = quality;
    expect(divergence).toMatchObject({ kl_mean: 0, kl_max: 0, same_top: 1, perplexity_ratio: 1, ln_ratio_stderr: 0 });
    expect(histogram!.underflow).toBe(protocol.tokens);
    expect(quality.summary).toContain("the same top token in 100.0 % of places");
  });

  test("killed weights cost something, and the record is consistent", async () => {
    const operated = operatedLoam("killed");
    // A record as surgery writes it, of another operation.
    const elsewhere = join(temporaryFolder(), "operated");
    const { report } = await operate(planSurgery(await openDonor(LOAM), checkOptions({})), { outputPath: elsewhere });
    const totals = { ...report.totals, killed_of_target: 0.1 };
    mkdirSync(join(operated, "physarium"));
    writeFileSync(join(operated, "physarium", "surgery.json"), JSON.stringify({ ...report, totals }));
    const { quality, model, donor, kl } = await evaluate(operated, textFile(STORY), { against: LOAM, window: 64 });
    const d = quality.divergence!;
    expect(d.kl_mean).toBeGreaterThan(0.001);
    expect(d.kl_mean).toBeLessThan(2);
    expect(d.same_top).toBeLessThan(1);
    expect(d.kl_max).toBe(Math.max(...kl!));
    expect(d.kl_median).toBeLessThanOrEqual(d.kl_p90);
    expect(d.kl_p99).toBeLessThanOrEqual(d.kl_max);
    expect(d.perplexity_ratio).toBeCloseTo(quality.model.perplexity / quality.donor!.perplexity, 9);
    expect(d.ln_ratio).toBeCloseTo(quality.model.mean_nll - quality.donor!.mean_nll, 9);
    expect(quality.nll_curve.length).toBe(Math.min(400, quality.protocol.tokens));
    expect(quality.nll_curve.at(-1)!.token_end).toBe(quality.protocol.tokens);
    const { underflow, overflow, counts, log10_edges: edges } = quality.kl_histogram!;
    expect(underflow + overflow + counts.reduce((sum, count) => sum + count, 0)).toBe(quality.protocol.tokens);
    expect(edges.length).toBe(counts.length + 1);
    expect(model.nll.length).toBe(donor!.nll.length);
    expect(quality.summary).toMatch(/^Killing 10.00 % of the target weights cost \+/);
    expect(JSON.parse(JSON.stringify(quality))).toEqual(quality);
  });

  test("NaN in the weights is an error with a name, not a perplexity", async () => {
    await expect(evaluate(operatedLoam("nan"), textFile(STORY), { window: 64 })).rejects.toMatchObject({
      code: "VERIFY_NON_FINITE",
    });
  });

  test("quantiles interpolate", () => {
    expect(quantile(Float64Array.of(0, 1, 2, 10), 0.5)).toBe(1.5);
    expect(quantile(Float64Array.of(7), 0.99)).toBe(7);
  });
});

describe.skipIf(!hasEngine)("how the work is cut does not show", () => {
  const text = textFile(STORY);

  test("batch size, threads and keeping copies: the same numbers to 1e-4 a place", async () => {
    const plain = await evaluate(LOAM, text, { window: 32, batchTokens: 32 });
    await fc.assert(
      fc.asyncProperty(
        fc.record({
          batchTokens: fc.integer({ min: 1, max: 3000 }),
          threads: fc.constantFrom(1, 2),
          memoryBytes: fc.constantFrom(0, 2 ** 32),
        }),
        async (options: EvaluateOptions) => {
          const other = await evaluate(LOAM, text, { window: 32, ...options });
          expect(other.model.nll.length).toBe(plain.model.nll.length);
          for (let at = 0; at < plain.model.nll.length; at++) {
            expect(Math.abs(other.model.nll[at] - plain.model.nll[at])).toBeLessThan(1e-4);
          }
          expect(other.quality.model.mean_nll).toBeCloseTo(plain.quality.model.mean_nll, 5);
        },
      ),
      { numRuns: 8 },
    );
  });

  test("any window and stride: each token is predicted once, as from its own context alone", async () => {
    const tokenizer = await TextTokenizer.open(LOAM);
    const ids = await tokenizer.encode(STORY);
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: 8, max: 128 }), fc.nat(), async (window, pick) => {
        const stride = 1 + (pick % window);
        const { sequences, record } = await prepareText(STORY, tokenizer, 128, { window, stride });
        const seen: number[] = [];
        let at = 1;
        for (const { ids: part, scoreFrom } of sequences) {
          // A window behind the first scores only what no window before it did, unless its first token has no context
          // at all.
          for (let place = scoreFrom; place < part.length; place++) seen.push(part[place]);
          at += part.length - scoreFrom;
        }
        expect(seen.length).toBe(record.tokens);
        if (stride < window) {
          expect(at).toBe(ids.length);
          expect(seen).toEqual(ids.slice(1));
        }
        expect(sequences.every(({ ids: part }) => part.length <= window)).toBe(true);
      }),
      { numRuns: 50 },
    );
  });

  test("overlapping windows predict better than windows side by side", async () => {
    const apart = await evaluate(LOAM, text, { window: 64, stride: 64 });
    const overlapping = await evaluate(LOAM, text, { window: 64, stride: 16 });
    expect(overlapping.quality.model.mean_nll).toBeLessThan(apart.quality.model.mean_nll);
    expect(overlapping.quality.protocol.name).toBe("strided");
  });
});

describe("protocols", () => {
  test("wikitext: windows side by side, the rest dropped, no BOS unless asked for", async () => {
    const tokenizer = await TextTokenizer.open(LOAM);
    const stream = await tokenizer.encode(STORY);
    const plain = await prepareText(STORY, tokenizer, 128, { window: 50 });
    // Of a long text only the start is encoded, to the tokens the whole gives.
    const long = readFileSync("examples/texts/loam-stories.txt", "utf8").repeat(2);
    for (const bos of [false, "<|endoftext|>"]) {
      const whole = (await prepareText(long, tokenizer, 128, { window: 40, bos })).sequences;
      const encode = vi.spyOn(tokenizer, "encode");
      const start = (await prepareText(long, tokenizer, 128, { window: 40, bos, skip: 3, limit: 17 })).sequences;
      expect(start).toEqual(whole.slice(3, 20));
      for (const [text] of encode.mock.calls) expect(text.length).toBeLessThan(long.length / 2);
      encode.mockRestore();
    }
    expect(plain.sequences.flatMap(({ ids }) => ids)).toEqual(stream.slice(0, 50 * Math.floor(stream.length / 50)));
    expect(plain.record).toMatchObject({ name: "wikitext", window: 50, stride: 50, bos: null, joiner: null });
    expect(plain.record.tokens).toBe(49 * plain.record.windows);
    const begun = await prepareText(STORY, tokenizer, 128, { window: 50, bos: "<|endoftext|>" });
    expect(begun.sequences[0].ids).toEqual([2047, ...stream.slice(0, 49)]);
    expect(begun.sequences[1].ids[0]).toBe(stream[49]);
    expect((await prepareText(STORY, tokenizer, 128)).record.window).toBe(128);
    const third = await prepareText(STORY, tokenizer, 40000, { limit: 1, window: 50, skip: 2 });
    expect(third.sequences[0].ids).toEqual(stream.slice(100, 150));
  });

  test("rows of a raw WikiText file are joined as the datasets library has them", async () => {
    const tokenizer = await TextTokenizer.open(LOAM);
    const raw = " \n = Title = \n \n First line . \n";
    const joined = ["", " = Title = \n", "", " First line . \n"].join("\n\n");
    const rows = await prepareText(raw, tokenizer, 128, { window: 4, rows: true });
    const expected = await tokenizer.encode(joined);
    expect(rows.sequences.flatMap(({ ids }) => ids)).toEqual(expected.slice(0, 4 * Math.floor(expected.length / 4)));
    expect(rows.record.joiner).toBe("\n\n");
  });

  test("documents: each from BOS, cut to the window, chosen by length", async () => {
    const tokenizer = await TextTokenizer.open(LOAM);
    const text = "Once upon a time.<|endoftext|>\n<|endoftext|>Tom ran and ran and ran and ran.<|endoftext|>Hi";
    const all = await prepareText(text, tokenizer, 128, { protocol: "documents", bos: "<|endoftext|>", window: 8 });
    expect(all.record).toMatchObject({ name: "documents", documents: 3, windows: 3, separator: "<|endoftext|>" });
    expect(all.sequences.every(({ ids, scoreFrom }) => ids[0] === 2047 && scoreFrom === 1 && ids.length <= 8)).toBe(
      true,
    );
    const long = await prepareText(text, tokenizer, 128, { protocol: "documents", window: 8, minTokens: 8 });
    expect(await Promise.all(long.sequences.map(({ ids }) => tokenizer.decode(ids)))).toEqual([
      expect.stringMatching(/^Tom ran and/),
    ]);
    expect(long.record.bos).toBeNull();
  });

  const stories = sharedDonor("stories260K");
  test.skipIf(stories === undefined || !hasEngine)(
    "stories260K on whole stories from BOS: 1.3 to 1.6 nats a token",
    async () => {
      const { quality } = await evaluate(stories!, "../shared/text/tinystories_dev.txt", {
        protocol: "documents",
        window: 256,
        limit: 120,
      });
      expect(quality.protocol.bos).toBe("<s>");
      expect(quality.model.mean_nll).toBeGreaterThan(1.3);
      expect(quality.model.mean_nll).toBeLessThan(1.6);
      expect(quality.model.bits_per_byte).toBeGreaterThan(0.5);
    },
  );

  const qwen = existsSync("../shared/tokenizers/qwen2.5") ? "../shared/tokenizers/qwen2.5" : undefined;
  test.skipIf(qwen === undefined)("WikiText-2 has as many tokens for Qwen2.5 as the field counts", async () => {
    const tokenizer = await TextTokenizer.open(qwen!);
    const raw = readFileSync("../shared/text/wiki.test.raw", "utf8");
    // 299,078 tokens, the number transformers warns about when this text meets this tokenizer; 146 windows of 2048.
    const { record } = await prepareText(raw, tokenizer, 32768, { rows: true });
    expect(record).toMatchObject({ windows: 146, tokens: 146 * 2047 });
    expect((await tokenizer.encode(raw)).length).toBe(299078);
  });
});

describe("texts that cannot be scored", () => {
  const cases: [string, string | Uint8Array, EvaluateOptions, string][] = [
    ["empty", "", {}, "USAGE_TEXT_EMPTY"],
    ["white space", " \n\t\n", {}, "USAGE_TEXT_EMPTY"],
    ["shorter than a window", "Once upon a time", {}, "USAGE_TEXT_SHORT"],
    ["not UTF-8", Uint8Array.of(79, 107, 0xff, 0xfe), {}, "USAGE_TEXT_ENCODING"],
    ["cut inside a character", Uint8Array.of(79, 0xe2, 0x82), {}, "USAGE_TEXT_ENCODING"],
    ["window of one token", STORY, { window: 1 }, "USAGE_WINDOW"],
    ["window past the model's positions", STORY, { window: 129 }, "USAGE_WINDOW"],
    ["stride past the window", STORY, { window: 64, stride: 65 }, "USAGE_STRIDE"],
    ["a BOS that is no token", STORY, { bos: "<nothing>" }, "USAGE_BOS"],
    ["documents that all are too short", STORY, { protocol: "documents", minTokens: 100_000 }, "USAGE_TEXT_SHORT"],
    ["skipping everything", STORY, { window: 64, skip: 10_000 }, "USAGE_TEXT_SHORT"],
  ];
  for (const [name, content, options, code] of cases) {
    test(name, async () => {
      await expect(evaluate(LOAM, textFile(content), options)).rejects.toMatchObject({ code });
    });
  }

  test("the first byte that is no UTF-8 is named", () => {
    expect(() => decodeText(Uint8Array.of(79, 107, 0xff, 0x41), "a.txt")).toThrow(/a\.txt: .*byte 2/);
  });

  test.skipIf(!hasEngine)(
    "characters the vocabulary cannot spell are counted; a text of nothing else is refused",
    async () => {
      const folder = lettersModel(3);
      const some = await evaluate(folder, textFile("hello wörld hello world"), { window: 4 });
      expect(some.unknownTokens).toBe(1);
      expect(some.quality.model.bits_per_byte).toBeNull();
      await expect(evaluate(folder, textFile("日本語の文章です"), { window: 4 })).rejects.toMatchObject({
        code: "USAGE_TEXT_UNKNOWN",
      });
    },
  );
});

describe("models that cannot be run are refused by name", () => {
  const cases: [string, TinyModel, string, RegExp][] = [
    ["unknown architecture", { config: { model_type: "mamba" } }, "DONOR_ARCHITECTURE", /mamba.*known are llama/],
    [
      "rope nobody implemented",
      { config: { model_type: "phi3", rope_scaling: { type: "spiral" } }, fused: true },
      "DONOR_ROPE",
      /spiral/,
    ],
    [
      "activation nobody implemented",
      { config: { model_type: "llama", hidden_act: "sawtooth" } },
      "DONOR_ARCHITECTURE",
      /sawtooth/,
    ],
    ["shape against config.json", { config: { model_type: "llama" }, fused: true }, "DONOR_TENSOR_MISSING", /q_proj/],
    [
      "a tensor without a place",
      { config: { model_type: "llama" }, extra: [{ name: "model.layers.1.mlp.router.weight", shape: [4, 48] }] },
      "DONOR_ARCHITECTURE",
      /router/,
    ],
    [
      "packed weights",
      { config: { model_type: "llama" }, extra: [{ name: "model.layers.0.self_attn.q_proj.scales", shape: [4, 48] }] },
      "DONOR_QUANTISED",
      /quantised/,
    ],
    [
      "no output matrix",
      { config: { model_type: "llama", tie_word_embeddings: false } },
      "DONOR_TENSOR_MISSING",
      /lm_head/,
    ],
  ];
  for (const [name, model, code, message] of cases) {
    test(name, async () => {
      const folder = writeTinyModel(temporaryFolder(), model);
      const error = await inspectModel(folder).catch((found: unknown) => found);
      expect(error).toMatchObject({ code, message: expect.stringMatching(message) });
    });
  }

  test("a hidden size that the tensors contradict", async () => {
    const folder = writeTinyModel(temporaryFolder(), { config: { model_type: "llama" } });
    const config = JSON.parse(readFileSync(join(folder, "config.json"), "utf8"));
    writeFileSync(join(folder, "config.json"), JSON.stringify({ ...config, intermediate_size: 81 }));
    await expect(inspectModel(folder)).rejects.toMatchObject({ code: "DONOR_SHAPE" });
  });

  const sharded = sharedDonor("tiny_qwen3_sharded");
  test.skipIf(sharded === undefined)("tiny_qwen3_sharded, 4-bit", async () => {
    await expect(inspectModel(sharded!)).rejects.toMatchObject({ code: "DONOR_QUANTISED" });
  });

  test.skipIf(!hasEngine)("a tokenizer larger than the model", async () => {
    const folder = lettersModel(1, { config: { model_type: "llama", vocab_size: 20 } });
    await expect(evaluate(folder, textFile("zebra zebra"), { window: 4 })).rejects.toMatchObject({
      code: "DONOR_TOKEN",
    });
  });

  test.skipIf(!hasEngine)("a donor with another tokenizer", async () => {
    await expect(evaluate(LOAM, textFile(STORY), { window: 64, against: lettersModel(1) })).rejects.toMatchObject({
      code: "DONOR_TOKENIZER",
    });
  });

  test("without the engine, what to install", () => {
    // The built file alone in a folder above which there are no packages.
    const folder = temporaryFolder();
    mkdirSync(join(folder, "engine"));
    cpSync("dist/engine/runtime.js", join(folder, "engine", "runtime.js"));
    cpSync("dist/errors.js", join(folder, "errors.js"));
    writeFileSync(join(folder, "package.json"), '{"type":"module"}');
    const script = `import("${join(folder, "engine", "runtime.js")}").then(({ openRuntime }) => openRuntime()).catch((e) => console.log(e.code, e.message))`;
    expect(execFileSync(process.execPath, ["-e", script], { cwd: folder, encoding: "utf8" })).toMatch(
      /^USAGE_ENGINE_MISSING .*npm install --ignore-scripts onnxruntime-node/,
    );
  });
});

describe.skipIf(!hasEngine)("gate", () => {
  const prompts = ["Once upon a time", "The"];

  test("a donor passes its own gate", async () => {
    const report = await runGate(LOAM, {
      against: LOAM,
      prompts,
      maxTokens: 12,
      maxPerplexityRatio: 1,
      maxKl: 0,
      minSameTop: 1,
    });
    expect(report.accepted).toBe(true);
    expect(report.prompts.map(({ same_prefix_tokens: same }) => same)).toEqual([12, 12]);
    expect(report.prompts[0].model.top10).toHaveLength(10);
    expect(report.prompts[0].model.top10[0].probability).toBeGreaterThan(report.prompts[0].model.top10[1].probability);
    expect(report.prompts[0].model.sha256).toMatch(/^[0-9a-f]{64}$/);
  });

  test("each rule can break, and the error says which", async () => {
    const operated = operatedLoam("killed");
    const text = textFile(STORY);
    const options = { against: LOAM, prompts, maxTokens: 8, text, window: 64 };
    const fine = await runGate(operated, { ...options, maxPerplexityRatio: 100, maxKl: 50, minSameTop: 0.01 });
    expect(fine.accepted).toBe(true);
    for (const [rule, limit] of [
      ["maxPerplexityRatio", 0.5],
      ["maxKl", 1e-6],
      ["minSameTop", 0.9999],
    ] as const) {
      const report = await runGate(operated, { ...options, [rule]: limit });
      expect(report.accepted).toBe(false);
      expect(gateError(report)).toMatchObject({ code: "VERIFY_GATE", message: expect.stringContaining(`${limit}`) });
    }
  });

  test("without a limit the default ones hold: a model that lost much is not accepted", async () => {
    const options = { against: LOAM, prompts, maxTokens: 24, text: textFile(STORY), window: 64 };
    const [same, killed] = [await runGate(LOAM, options), await runGate(operatedLoam("halved"), options)];
    expect(same).toMatchObject({ accepted: true, default_limits: true, verdict: { word: "intact" } });
    expect(same.rules.map(({ rule }) => rule)).toEqual([
      "finite",
      "deterministic",
      "max_perplexity_ratio",
      "max_kl",
      "min_same_top",
      "max_repetition",
    ]);
    expect(killed.divergence!.perplexity_ratio).toBeGreaterThan(1.38);
    expect(killed).toMatchObject({ accepted: false, verdict: { word: "broken" } });
  });

  test("NaN breaks the rule `finite`, and every rule that could not be measured", async () => {
    const report = await runGate(operatedLoam("nan"), { against: LOAM, prompts, maxTokens: 4, maxKl: 10 });
    expect(report.divergence).toBeNull();
    expect(report.rules.filter(({ kept }) => !kept).map(({ rule }) => rule)).toEqual(["finite", "max_kl"]);
  });
});
