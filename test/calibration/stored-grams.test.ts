import { cpSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, test } from "vitest";
import { verify } from "../../dist/audit/verify.js";
import { StoredGrams } from "../../dist/calibration/grams/stored-grams.js";
import { operateLayers } from "../../dist/calibration/pipeline.js";
import { openDonor } from "../../dist/checkpoint/donor.js";
import { compareMethods } from "../../dist/compare/comparison.js";
import { openOnnxEngine } from "../../dist/engine/onnx-products.js";
import { chooseMethods } from "../../dist/methods/registry.js";
import { LayerRunner } from "../../dist/probe/forward/layer-runner.js";
import { renderMarkdown } from "../../dist/report/index.js";
import { decodeFloats } from "../../dist/safetensors/float-bits.js";
import type { SurgeryOptions } from "../../dist/surgery/options.js";
import { physarium } from "../physarium.js";
import { hasEngine, LOAM } from "../probe/engine-present.js";
import { operateOn } from "../surgery/operate.js";
import { temporaryFolder } from "../temporary.js";

const folder = temporaryFolder();
const [grams, norms] = [join(folder, "grams.safetensors"), join(folder, "norms.safetensors")];
const text = "examples/texts/loam-stories.txt";
const sampling = ["--samples", "8", "--window", "64", "--seed", "0"];
const V2: SurgeryOptions = { flow: "activation", targetSparsity: 0.5, include: "[kv]_proj", workers: 1 };
const other = join(folder, "other.txt");

describe.skipIf(!hasEngine)("a file of calibrate in place of a text", () => {
  beforeAll(async () => {
    for (const args of [
      ["--out", grams],
      ["--out", norms, "--norms-only"],
    ]) {
      const { status, stderr } = await physarium(["calibrate", LOAM, "--text", text, ...sampling, ...args]);
      expect(status, stderr).toBe(0);
    }
    writeFileSync(other, "Once upon a time there was a little red house by the sea, and a cat lived in it. ".repeat(9));
  });

  test("surgery takes it, whole and in tiles, records what it is of, and resumes only with the same", async () => {
    for (const gram of ["full", "tile"]) {
      const output = join(folder, gram);
      const { report } = await operateOn(LOAM, output, { ...V2, calibration: grams, gram });
      expect(report.activation?.calibration).toMatchObject({
        text: "loam-stories.txt",
        grams: "grams.safetensors",
        samples: 8,
        tokens: 512,
      });
      expect(renderMarkdown(report)).toContain("Every layer is operated on the inputs that the donor gives it");
      expect(report.warnings).toEqual([]);
      expect(report.totals.killed_of_target).toBeCloseTo(0.5, 3);
      expect((await verify(output, { donorPath: LOAM, workers: 0 })).differences).toEqual([]);
    }
    const again = operateOn(LOAM, join(folder, "full"), { ...V2, calibration: text, gram: "full" }, { resume: true });
    await expect(again).rejects.toMatchObject({ code: "USAGE_RESUME_MISMATCH" });
  });

  test("where nothing was operated on yet the choice is that of the text itself, with one stream and all tokens alike", async () => {
    const donor = await openDonor(LOAM);
    const runner = await LayerRunner.open(donor, { threads: 1 });
    const engine = await openOnnxEngine({ threads: 1 });
    const stored = await StoredGrams.open(grams, donor);
    const { sequences } = await sequencesOf();
    const isTarget = (name: string) => /layers\.0\.self_attn\.k_proj/.test(name);
    for (const method of chooseMethods(["wanda", "sparsegpt", "activation"])) {
      const masks: boolean[][] = [];
      for (const calibration of [stored, sequences]) {
        for await (const { tensors } of operateLayers(runner, calibration, {
          method: method.withOneStream?.() ?? method,
          target: { kind: "sparsity", sparsity: 0.5 },
          engine,
          isTarget,
          weighTokens: false,
        })) {
          const [{ bytes, dtype }] = tensors;
          masks.push(Array.from(decodeFloats(bytes, dtype), (value) => value === 0));
        }
      }
      const same = masks[0].filter((dead, at) => dead === masks[1][at]).length / masks[0].length;
      expect(same, method.name).toBeGreaterThan(0.995);
    }
    await stored.close();
    await engine.release();
    await runner.close();
  });

  test("compare takes it: norms for wanda and ria, whole Grams for the others", async () => {
    const base = {
      text: other,
      targets: [{ kind: "sparsity", sparsity: 0.5 }] as const,
      protocol: { protocol: "wikitext", window: 32, limit: 4 } as const,
      samples: 128,
      seed: 0,
      threads: 1,
    };
    const rowsOf = async (calibration: string, names: string[]) => {
      const record = await compareMethods(LOAM, { ...base, calibration, methods: chooseMethods(names) });
      expect(record.calibration).toMatchObject({ samples: 8, tokens: 512, seed: 0 });
      return new Map(record.rows.map(({ method, perplexity }) => [method, perplexity]));
    };
    const whole = await rowsOf(grams, ["magnitude", "wanda", "sparsegpt"]);
    const diagonal = await rowsOf(norms, ["wanda", "ria"]);
    expect(diagonal.get("wanda")! / whole.get("wanda")!).toBeCloseTo(1, 2);
    expect([...whole.keys()]).toEqual(["magnitude", "wanda", "sparsegpt"]);
    await expect(rowsOf(norms, ["wanda", "alps", "sparsegpt"])).rejects.toMatchObject({
      code: "USAGE_CALIBRATION",
      message: expect.stringMatching(/norms only.*alps, sparsegpt asks for whole Grams/),
    });
    const flattered = { ...base, text, calibration: grams, methods: chooseMethods(["wanda"]) };
    await expect(compareMethods(LOAM, flattered)).rejects.toMatchObject({ code: "USAGE_CALIBRATION" });
    const matching = { ...base, calibration: grams, methods: chooseMethods(["magnitude", "matched"]) };
    await expect(compareMethods(LOAM, matching)).rejects.toMatchObject({
      code: "USAGE_CALIBRATION",
      message: expect.stringMatching(/matched runs the calibration text through every layer/),
    });
    const words: string[] = [];
    const onProgress = (said: string) => void words.push(said);
    const { rows } = await compareMethods(LOAM, { ...matching, whatCan: true, onProgress });
    expect(rows.map(({ method }) => method)).toEqual(["magnitude"]);
    expect(words.join("\n")).toMatch(/left out: matched: .*a file of Grams holds none/);
    const said = await physarium(["compare", LOAM, "--text", other, "--calibration", grams, "--samples", "4"]);
    expect([said.status, said.stderr]).toEqual([2, expect.stringMatching(/--samples choose what calibrates/)]);
  });

  test.each<[string, SurgeryOptions, string, RegExp]>([
    ["norms for v2", { calibration: norms }, "USAGE_CALIBRATION", /norms only/],
    [
      "samples of what was collected",
      { calibration: grams, samples: 4, seed: 1 },
      "USAGE_PARAM",
      /--samples, --seed say/,
    ],
    ["a pass over the text", { calibration: grams, allocation: "owl" }, "USAGE_PARAM", /--allocation owl runs/],
    [
      "weights under that name",
      { calibration: join(LOAM, "model-00001-of-00004.safetensors") },
      "DONOR_GRAM_FORMAT",
      /no file of Gram/,
    ],
  ])("refused: %s", async (name, more, code, message) => {
    const run = operateOn(LOAM, join(folder, name), { ...V2, ...more });
    await expect(run).rejects.toMatchObject({ code, message: expect.stringMatching(message) });
  });

  test("refused: the Grams of another model", async () => {
    const stranger = join(folder, "stranger");
    cpSync(LOAM, stranger, { recursive: true });
    const { shards } = await openDonor(stranger);
    const path = join(stranger, shards[0].file);
    const bytes = readFileSync(path);
    bytes[shards[0].tensors[1].byteOffset] ^= 1;
    writeFileSync(path, bytes);
    await expect(operateOn(stranger, join(folder, "x"), { ...V2, calibration: grams })).rejects.toMatchObject({
      code: "DONOR_GRAM_MISMATCH",
    });
    await expect(
      compareMethods(stranger, {
        text: other,
        calibration: grams,
        methods: chooseMethods(["wanda"]),
        targets: [{ kind: "sparsity", sparsity: 0.5 }],
        protocol: { protocol: "wikitext", window: 32 },
        samples: 1,
        seed: 0,
      }),
    ).rejects.toMatchObject({ code: "DONOR_GRAM_MISMATCH" });
  });
});

/** The sequences that `calibrate` chose. */
async function sequencesOf() {
  const { chooseSequences } = await import("../../dist/calibration/grams/collect.js");
  const { prepareText } = await import("../../dist/probe/text/protocols.js");
  const { openTextFile } = await import("../../dist/probe/text/text-file.js");
  const { TextTokenizer } = await import("../../dist/probe/text/tokenizer.js");
  const file = await openTextFile(text);
  const prepared = await TextTokenizer.with(LOAM, {}, (tokenizer) =>
    prepareText(file.read(), tokenizer, 512, { protocol: "wikitext", window: 64 }),
  );
  return { sequences: chooseSequences(prepared.sequences, 8, 0) };
}
