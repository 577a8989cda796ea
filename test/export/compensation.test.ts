import { describe, expect, it } from "vitest";
import type { CompensatedType } from "../../dist/export/block-levels.js";
import { compensate, type Multiply } from "../../dist/export/compensation.js";
import { dequantise } from "../../dist/export/dequantise.js";
import { Compensation } from "../../dist/export/gguf/compensated.js";
import { type Link, link } from "../../dist/export/gguf/links.js";
import type { LocatedTensor, ModelFolder } from "../../dist/export/model-folder.js";
import { QUANTISED_TYPES, Quantiser } from "../../dist/export/quantiser.js";
import { inverseFactor } from "../../dist/export/statistics.js";
import { generator } from "./random-donor.js";

const multiply: Multiply = async (left, right, m, k, n) => {
  const out = new Float32Array(m * n);
  for (let row = 0; row < m; row++) {
    for (let inner = 0; inner < k; inner++) {
      const scale = left[row * k + inner];
      for (let col = 0; col < n; col++) out[row * n + col] += scale * right[inner * n + col];
    }
  }
  return out;
};

const ROWS = 24;
const COLS = 512;
const random = generator(7);
const normal = (): number => random() + random() + random() + random() - 2;

/** Inputs that say much of each other: sixty hidden causes, and channels of very different strength. */
function gramOf(): Float32Array {
  const strength = Float64Array.from({ length: COLS }, () => Math.exp(normal()));
  const causes = Float64Array.from({ length: COLS * 60 }, normal);
  const gram = new Float32Array(COLS * COLS);
  for (let row = 0; row < COLS; row++) {
    for (let col = 0; col <= row; col++) {
      let sum = row === col ? 4 : 0;
      for (let cause = 0; cause < 60; cause++) sum += causes[row * 60 + cause] * causes[col * 60 + cause];
      gram[row * COLS + col] = gram[col * COLS + row] = sum * strength[row] * strength[col];
    }
  }
  return gram;
}

const gram = gramOf();
const upper = inverseFactor(gram, COLS);

/** Σ over rows of e G eᵀ: what the products with the inputs lose. */
function damage(weights: Float32Array, decoded: Float32Array): number {
  let sum = 0;
  for (let row = 0; row < ROWS; row++) {
    const errors = weights
      .subarray(row * COLS, (row + 1) * COLS)
      .map((weight, col) => weight - decoded[row * COLS + col]);
    for (let i = 0; i < COLS; i++) {
      let inner = 0;
      for (let j = 0; j < COLS; j++) inner += gram[i * COLS + j] * errors[j];
      sum += errors[i] * inner;
    }
  }
  return sum;
}

function matrix(sparsity: number): Float32Array {
  return Float32Array.from({ length: ROWS * COLS }, () => (random() < sparsity ? 0 : 0.05 * normal()));
}

const TYPES = QUANTISED_TYPES.filter((type): type is CompensatedType => type !== "IQ4_NL");

describe("rounding with errors passed on", () => {
  it.each(TYPES)("%s: products lose less than half of what plain rounding loses, at the same bits", async (type) => {
    const weights = matrix(0);
    const quantiser = new Quantiser();
    const plain = quantiser.quantise(type, weights);
    const task = { type, weights: weights.slice(), cols: COLS, upper, keepsZeros: false };
    const ours = await compensate(task, quantiser, multiply);
    expect(ours.length).toBe(plain.length);
    const ratio = damage(weights, dequantise(type, ours)) / damage(weights, dequantise(type, plain));
    expect(ratio).toBeLessThan(0.5);
  });

  it.each(TYPES)("%s: zeros of a pruned matrix stay zero, whatever the grid", async (type) => {
    const weights = matrix(0.5);
    const quantiser = new Quantiser();
    const task = { type, weights: weights.slice(), cols: COLS, upper, keepsZeros: true };
    const decoded = dequantise(type, await compensate(task, quantiser, multiply));
    expect(weights.filter((weight, at) => weight === 0 && decoded[at] !== 0).length).toBe(0);
    const plain = dequantise(type, quantiser.quantise(type, weights));
    expect(damage(weights, decoded)).toBeLessThan(damage(weights, plain));
  });

  it("inputs that never fire do no harm", async () => {
    const dead = gram.slice();
    for (let col = 0; col < COLS; col++)
      for (const at of [col, 100]) dead[100 * COLS + col] = dead[col * COLS + 100] = at * 0;
    const weights = matrix(0);
    const task = {
      type: "Q4_0",
      weights: weights.slice(),
      cols: COLS,
      upper: inverseFactor(dead, COLS),
      keepsZeros: false,
    } as const;
    const decoded = dequantise("Q4_0", await compensate(task, new Quantiser(), multiply));
    expect(decoded.every(Number.isFinite)).toBe(true);
  });

  it("no Gram is read to know which pieces can be rounded so: each expert's factor is made once", async () => {
    const reads: string[] = [];
    const known = (to: Link): string | undefined => (to.matrix < 2 ? `expert ${to.matrix}` : undefined);
    const statistics = {
      importance: async () => undefined,
      compensation: {
        inputsOf: known,
        multiply,
        gram: async (to: Link) => {
          reads.push(known(to)!);
          return Float32Array.from({ length: 32 * 32 }, (_, at) => (at % 33 === 0 ? 1 : 0));
        },
      },
    };
    const located = { info: { dtype: "F32" } } as LocatedTensor;
    const folder = { read: async (_: LocatedTensor, from: number, to: number) => new Uint8Array(to - from) };
    const pieces = [0, 1, 2].map((matrix) => {
      const shape = [3, 64, 32];
      const place = { matrix, ggufRow: 64 * matrix, rowCount: 64 };
      return { located, link: link({ name: "x", ggufName: "x", shape, ...place }) };
    });
    const compensation = new Compensation(folder as unknown as ModelFolder, statistics, new Quantiser());
    expect(pieces.map((piece) => compensation.reaches(piece))).toEqual([true, true, false]);
    expect(reads).toEqual([]);
    for (const piece of pieces.slice(0, 2)) {
      for await (const { bytes } of compensation.round(piece, "Q8_0")) expect(bytes.length).toBe(64 * 34);
    }
    expect(reads).toEqual(["expert 0", "expert 1"]);
  });
});
