import { existsSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { chooseSequences, collectGrams, writeGrams } from "../../dist/calibration/grams/collect.js";
import { GramAccumulator, GramProduct } from "../../dist/calibration/grams/gram.js";
import { GramFile, modelFingerprint } from "../../dist/calibration/grams/gram-file.js";
import { openDonor } from "../../dist/checkpoint/donor.js";
import { Engine } from "../../dist/engine/session.js";
import { STEPS } from "../../dist/model/steps.js";
import { LayerRunner } from "../../dist/probe/forward/layer-runner.js";
import { hasEngine, LOAM } from "../probe/engine-present.js";
import { randomNumbers, temporaryFolder, writeTinyModel } from "../probe/tiny-model.js";

const MODEL = { config: { model_type: "qwen3", num_hidden_layers: 2 }, headNorms: true };

function sequencesOf(count: number, lengths: (at: number) => number): number[][] {
  const random = randomNumbers(9);
  return Array.from({ length: count }, (_, at) => Array.from({ length: lengths(at) }, () => Math.floor(random() * 97)));
}

/** Largest difference relative to the diagonal: |Δ_ij| / √(G_ii G_jj). */
function relativeDifference(a: ArrayLike<number>, b: ArrayLike<number>, width: number): number {
  expect(a.length).toBe(b.length);
  let largest = 0;
  for (let row = 0; row < width; row++) {
    for (let col = 0; col < width; col++) {
      const scale = Math.sqrt(a[row * width + row] * a[col * width + col]);
      const difference = Math.abs(a[row * width + col] - b[row * width + col]) / scale;
      if (!(difference <= largest)) largest = difference;
    }
  }
  return largest;
}

/** E[x xᵀ] as it is defined, in f64. */
function plainGram(rows: readonly Float32Array[], width: number): Float64Array {
  const gram = new Float64Array(width * width);
  for (const row of rows) {
    for (let i = 0; i < width; i++) for (let j = 0; j < width; j++) gram[i * width + j] += row[i] * row[j];
  }
  return gram.map((value) => value / rows.length);
}

describe.skipIf(!hasEngine)("Gram sums", () => {
  test("equal the definition, however the tokens are batched, past the 2048 of one product", async () => {
    const engine = await Engine.open();
    const product = await GramProduct.open(engine);
    const random = randomNumbers(4);
    const width = 19;
    // Unequal channels and a common offset, as activations have them: the sums cancel little and grow large.
    const data = Float32Array.from({ length: 5000 * width }, (_, at) => (0.2 + random()) * (1 + (at % width)));
    const rows = Array.from({ length: 5000 }, (_, row) => data.subarray(row * width, (row + 1) * width));
    const expected = plainGram(rows, width);
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: 1, max: 5000 }), async (batch) => {
        const gram = new GramAccumulator(width, "gram", product);
        const norms = new GramAccumulator(width, "norms");
        for (let start = 0; start < 5000; start += batch) {
          const part = data.subarray(start * width, Math.min(start + batch, 5000) * width);
          const inputs = { data: part, batch: 1, tokens: part.length / width, width };
          await gram.add(inputs);
          await norms.add(inputs);
        }
        expect(gram.tokenCount).toBe(5000);
        const mean = gram.mean();
        expect(relativeDifference(expected, mean, width)).toBeLessThan(1e-6);
        norms.mean().forEach((value, channel) => {
          expect(Math.abs(value / expected[channel * width + channel] - 1)).toBeLessThan(1e-6);
        });
        for (let i = 0; i < width; i++)
          for (let j = 0; j < i; j++) expect(mean[i * width + j]).toBe(mean[j * width + i]);
      }),
      { numRuns: 12, examples: [[1], [5000]] },
    );
    await product.close();
  });

  test("are those of the inputs a plain pass shows, whatever the batch, padding left out", async () => {
    const folder = writeTinyModel(temporaryFolder(), MODEL);
    const sequences = sequencesOf(9, (at) => 5 + 3 * at);
    const runner = await LayerRunner.open(folder);
    const rows = new Map<string, Float32Array[]>();
    for (const ids of sequences) {
      let residual = await runner.embed([ids]);
      for (let layer = 0; layer < runner.layerCount; layer++) {
        residual = await runner.forwardLayer(layer, residual, {
          onInput: (step, { data, tokens, width }) => {
            const all = rows.get(`${layer}.${step}`) ?? [];
            for (let at = 0; at < tokens; at++) all.push(data.slice(at * width, (at + 1) * width));
            rows.set(`${layer}.${step}`, all);
          },
        });
      }
    }
    const seen: string[] = [];
    for (const batchTokens of [1, 64, 10_000]) {
      for await (const { layer, step, width, mean, tokenCount } of collectGrams(runner, sequences, { batchTokens })) {
        const expected = plainGram(rows.get(`${layer}.${step}`)!, width);
        expect(tokenCount).toBe(rows.get(`${layer}.${step}`)!.length);
        expect(relativeDifference(expected, mean, width)).toBeLessThan(1e-5);
        seen.push(`${layer}.${step}`);
      }
    }
    expect(seen.slice(0, 8)).toEqual([0, 1].flatMap((layer) => STEPS.map((step) => `${layer}.${step}`)));
    expect(seen).toHaveLength(24);
    await runner.close();
  });
});

describe.skipIf(!hasEngine)("Gram files", () => {
  const provenance = {
    modelName: "tiny",
    textName: "none",
    textSha256: "0".repeat(64),
    protocol: "{}",
    seed: 3,
    physariumVersion: "0.0.0",
  };

  test("hold every matrix and where it comes from, and know their model", async () => {
    const folder = writeTinyModel(temporaryFolder(), MODEL);
    const sequences = sequencesOf(4, () => 12);
    const fingerprint = await modelFingerprint(await openDonor(folder));
    for (const kind of ["gram", "norms"] as const) {
      const path = join(temporaryFolder(), "grams.safetensors");
      await writeGrams(folder, sequences, path, { ...provenance, modelFingerprint: fingerprint }, { kind });
      expect(existsSync(`${path}.new`)).toBe(false);
      const file = await GramFile.open(path, fingerprint);
      expect(file.metadata.get("kind")).toBe(kind);
      expect(file.metadata.get("sequences")).toBe("4");
      expect(file.metadata.get("tokens")).toBe("48");
      expect(file.metadata.get("text_sha256")).toBe(provenance.textSha256);
      const runner = await LayerRunner.open(folder);
      for await (const { layer, step, mean } of collectGrams(runner, sequences, { kind })) {
        expect(await file.read(layer, step)).toEqual(mean);
      }
      await runner.close();
      await file.close();
      await expect(GramFile.open(path, "another")).rejects.toMatchObject({ code: "DONOR_GRAM_MISMATCH" });
    }
  });

  test("an operated model has another fingerprint than its donor, a copy the same", async () => {
    const [one, same, other] = await Promise.all(
      [1, 1, 2].map(async (seed) => modelFingerprint(await openDonor(writeTinyModel(temporaryFolder(), MODEL, seed)))),
    );
    expect(same).toBe(one);
    expect(other).not.toBe(one);
  });

  test("a model is no Gram file; a failed collection leaves nothing behind", async () => {
    await expect(GramFile.open(join(LOAM, "model-00001-of-00004.safetensors"))).rejects.toMatchObject({
      code: "DONOR_GRAM_FORMAT",
    });
    const folder = writeTinyModel(temporaryFolder(), MODEL);
    const path = join(temporaryFolder(), "grams.safetensors");
    const broken = writeGrams(folder, [[1, 2, 500]], path, { ...provenance, modelFingerprint: "" });
    await expect(broken).rejects.toMatchObject({ code: "DONOR_TOKEN" });
    expect(existsSync(path) || existsSync(`${path}.new`)).toBe(false);
  });
});

test("sequences are chosen by seed, without repetition, in the order of the text", () => {
  const all = Array.from({ length: 40 }, (_, at) => ({ ids: [at, at], scoreFrom: 1 }));
  const chosen = chooseSequences(all, 10, 5).map(([id]) => id);
  expect(chosen).toEqual([...new Set(chosen)].sort((a, b) => a - b));
  expect(chosen).toHaveLength(10);
  expect(chooseSequences(all, 10, 5).map(([id]) => id)).toEqual(chosen);
  expect(chooseSequences(all, 10, 6).map(([id]) => id)).not.toEqual(chosen);
  expect(chooseSequences(all, 100, 1)).toHaveLength(40);
  // Every sequence gets its turn.
  const counts = new Array<number>(40).fill(0);
  for (let seed = 0; seed < 400; seed++) for (const [id] of chooseSequences(all, 10, seed)) counts[id]++;
  expect(Math.min(...counts)).toBeGreaterThan(50);
  expect(Math.max(...counts)).toBeLessThan(150);
});
