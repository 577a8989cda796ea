import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { DRIVE_BINS, driveBin, driveBinEdge } from "../../dist/flow/drive-histogram.js";
import { Dynamic, driveThreshold } from "../../dist/flow/dynamic.js";
import { BandKernel } from "../../dist/flow/kernels.js";
import { magnitudeFormat, weightPatterns } from "../../dist/flow/magnitudes.js";
import { DEFAULT_PARAMS, type FlowParams } from "../../dist/flow/params.js";
import { type DataFreeFlow, deadInMatrix } from "../../dist/flow/reference.js";
import { addToTileSum } from "../../dist/flow/tile-mean.js";
import type { FloatDtype } from "../../dist/safetensors/dtypes.js";
import { loadKernelModule } from "../../dist/wasm.js";
import { gaussian, randomNumbers, toWeights } from "../donors.js";
import { deadByKernel, type KernelResult } from "./by-kernel.js";

const DTYPES: FloatDtype[] = ["BF16", "F16", "F32"];

/** How many patterns fit; the union of typed arrays has no common `reduce`. */
function countOf(patterns: Uint16Array | Uint32Array, fits: (pattern: number) => boolean): number {
  let count = 0;
  for (const pattern of patterns) if (fits(pattern)) count++;
  return count;
}

/** The kernel's output is the reference's: survivors keep their bits, the dead are +0, counts are right. */
function expectSame(
  flow: DataFreeFlow,
  weights: Uint8Array,
  dtype: FloatDtype,
  rows: number,
  cols: number,
  params: FlowParams,
  rowsAtOnce?: number,
): KernelResult {
  const before = weightPatterns(weights, dtype);
  const dead = deadInMatrix(flow, before, dtype, rows, cols, params);
  const kernel = deadByKernel(flow, weights, dtype, rows, cols, params, rowsAtOnce);
  const after = weightPatterns(kernel.output, dtype);
  const { magnitudeMask, infinity } = magnitudeFormat(dtype);
  const expected = before.map((pattern, i) => (dead[i] === 1 ? 0 : pattern));
  if (
    Buffer.compare(Buffer.from(expected.buffer), Buffer.from(after.buffer, after.byteOffset, after.byteLength)) !== 0
  ) {
    const first = expected.findIndex((pattern, i) => pattern !== after[i]);
    throw new Error(
      `${flow} ${dtype} ${rows}×${cols}: element ${first} is ${after[first]}, the reference gives ${expected[first]}`,
    );
  }
  expect(kernel.dead).toBe(dead.reduce((sum, flag) => sum + flag, 0));
  expect(kernel.zeros).toBe(countOf(before, (pattern) => (pattern & magnitudeMask) === 0));
  expect(kernel.nonFinite).toBe(countOf(before, (pattern) => (pattern & magnitudeMask) >= infinity));
  return kernel;
}

describe.each(["magnitude", "balanced"] as const)("%s: kernel = reference on every weight", (flow) => {
  test.each(DTYPES)("%s, every width 1…200", (dtype) => {
    const normal = gaussian(randomNumbers(11));
    for (let cols = 1; cols <= 200; cols++) {
      const rows = 1 + (cols % 5);
      expectSame(flow, toWeights(dtype, rows * cols, normal), dtype, rows, cols, { ...DEFAULT_PARAMS, blockSize: 64 });
    }
  });

  test("random tiles, parameters, dtypes and scales, in any row ranges", () => {
    const bits = fc.constantFrom("normal", "tiny", "huge", "equal", "any bits", "sparse");
    const beta = fc.oneof(fc.constant(2), fc.double({ min: 1.001, max: 16, noNaN: true }));
    const params = fc.record({
      blockSize: fc.integer({ min: 1, max: 70 }),
      nIter: fc.integer({ min: 1, max: 40 }),
      beta,
      survival: fc.double({ min: 1e-3, max: 5, noNaN: true }),
    });
    fc.assert(
      fc.property(
        fc.constantFrom(...DTYPES),
        bits,
        fc.integer({ min: 1, max: 40 }),
        fc.integer({ min: 1, max: 90 }),
        params,
        fc.nat(),
        fc.option(fc.integer({ min: 1, max: 41 }), { nil: undefined }),
        (dtype, kind, rows, cols, chosen, seed, rowsAtOnce) => {
          const random = randomNumbers(seed);
          const normal = gaussian(random);
          const scale = {
            normal: 0.02,
            tiny: dtype === "F16" ? 3e-7 : 1e-39,
            huge: dtype === "F16" ? 2e4 : 8e37,
            equal: 1,
            sparse: 1,
            "any bits": 1,
          }[kind];
          const draw = () =>
            kind === "equal"
              ? 0.75 * Math.sign(random() - 0.5)
              : kind === "sparse" && random() < 0.5
                ? -0
                : normal() * scale;
          const weights = toWeights(dtype, rows * cols, draw);
          if (kind === "any bits") for (let i = 0; i < weights.length; i++) weights[i] = Math.floor(random() * 256);
          expectSame(flow, weights, dtype, rows, cols, chosen, rowsAtOnce);
        },
      ),
      { numRuns: 300 },
    );
  });

  test.each(DTYPES)("%s: all zero, −0 and lone weights", (dtype) => {
    const cases: [number, number, (i: number) => number][] = [
      [5, 9, () => 0],
      [5, 9, () => -0],
      [1, 300, (i) => (i === 299 ? 1 : 0)],
      [300, 1, (i) => (i === 0 ? -1 : 0)],
      [1, 1, () => 3],
    ];
    for (const [rows, cols, value] of cases)
      expectSame(flow, toWeights(dtype, rows * cols, value), dtype, rows, cols, DEFAULT_PARAMS);
  });

  test("tiles wider than any lane counter", () => {
    const normal = gaussian(randomNumbers(3));
    const cols = 300_000;
    expectSame(flow, toWeights("BF16", cols, normal), "BF16", 1, cols, { ...DEFAULT_PARAMS, blockSize: 65_536 });
  });
});

test.each(DTYPES)("%s: the mean is within 1e-6 of the exact one", (dtype) => {
  const normal = gaussian(randomNumbers(5));
  for (const scale of [1, 1e-4, 100]) {
    const weights = toWeights(dtype, 256 * 256, () => normal() * scale);
    const patterns = weightPatterns(weights, dtype);
    const format = magnitudeFormat(dtype);
    const total = { sum: 0, nonFinite: 0 };
    addToTileSum(total, patterns, dtype, 256, 256, 256, 0);
    let exact = 0;
    for (const pattern of patterns) exact += format.toNumber(pattern & format.magnitudeMask);
    expect(Math.abs(total.sum / exact - 1)).toBeLessThan(1e-6);
  }
});

describe("balanced tiles as a whole", () => {
  const tile = (dtype: FloatDtype, rows: number, cols: number, value: (i: number) => number, survival: number) =>
    expectSame("balanced", toWeights(dtype, rows * cols, value), dtype, rows, cols, {
      ...DEFAULT_PARAMS,
      blockSize: 256,
      survival,
    });

  test("the bound decides most of what weights look like, at any threshold", () => {
    const random = randomNumbers(21);
    const normal = gaussian(random);
    // Heavy tails, rows and columns of very different size, values with few bits.
    const shapes: ((i: number) => number)[] = [
      () => 0.02 * normal(),
      () => -0.01 * Math.log(1 - random()) * Math.sign(random() - 0.5),
      (i) => normal() * 3 ** ((i >> 8) % 4) * 2 ** ((i & 255) % 5),
      () => Math.round(normal() * 8) / 16 + 1 / 32,
    ];
    let whole = 0;
    let bounded = 0;
    for (const dtype of DTYPES) {
      for (const shape of shapes) {
        for (const survival of [0.05, 0.3, 0.5, 0.9]) {
          const { wholeTiles, boundedTiles } = tile(dtype, 256, 256, shape, survival);
          whole += wholeTiles;
          bounded += boundedTiles;
        }
      }
    }
    expect(whole).toBe(48);
    expect(bounded).toBeGreaterThan(30);
  });

  test("what no bound holds for is done by the contract: zeros, edges of f32, lone weights, near-equal drives", () => {
    const random = randomNumbers(22);
    const normal = gaussian(random);
    const cases: [number, number, (i: number) => number][] = [
      [256, 256, () => (random() < 0.9 ? 0 : normal())],
      [256, 256, (i) => (i % 256 === 7 ? 0 : normal())],
      [100, 256, (i) => (i % 3 === 0 ? 1e30 : 1e-30) * normal()],
      [3, 250, () => normal()],
      [256, 17, (i) => (i % 17 === 16 ? 1e-42 : normal())],
    ];
    for (const [rows, cols, value] of cases) tile("F32", rows, cols, value, DEFAULT_PARAMS.survival);
    // Every drive is 1 but for rounding, and the threshold lies there: the contract's last bit decides.
    const survival = 1 / driveThreshold(new Dynamic({ ...DEFAULT_PARAMS, survival: 1 }));
    const { boundedTiles } = tile("F32", 256, 256, (i) => 1 + (i % 3) * 1e-7, survival);
    expect(boundedTiles).toBe(0);
  });
});

test("the histogram of drives is that of a readable loop", () => {
  const normal = gaussian(randomNumbers(9));
  const [rows, cols] = [50, 130];
  const params = { ...DEFAULT_PARAMS, blockSize: 60 };
  const weights = toWeights("F32", rows * cols, (i) => (i % 17 === 0 ? 0 : normal()));
  const kernel = new BandKernel(
    loadKernelModule("surgery"),
    { slotCount: 1, slotByteLength: weights.byteLength, maxCols: cols },
    params,
    "magnitude",
    "count",
  );
  kernel.slot(0).set(weights);
  kernel.begin("F32", rows, cols);
  for (let pass = 0; pass < kernel.passCount; pass++) {
    kernel.run(pass, 0, 0, 0, rows);
    kernel.end(pass);
  }
  const counted = new Float64Array(DRIVE_BINS);
  kernel.takeHistogram(counted);
  const expected = new Float64Array(DRIVE_BINS);
  const values = new Float32Array(weights.buffer);
  for (let left = 0; left < cols; left += 60) {
    const width = Math.min(60, cols - left);
    const total = { sum: 0, nonFinite: 0 };
    addToTileSum(total, weightPatterns(weights, "F32"), "F32", rows, width, cols, left);
    const mean = total.sum / (rows * width);
    for (let row = 0; row < rows; row++) {
      for (let col = left; col < left + width; col++) {
        const value = Math.abs(values[row * cols + col]);
        if (value > 0) expected[driveBin(value / mean)]++;
      }
    }
  }
  expect(Buffer.compare(Buffer.from(counted.buffer), Buffer.from(expected.buffer))).toBe(0);
  expect(driveBin(driveBinEdge(1234))).toBe(1234);
  expect(kernel.slot(0)).toEqual(weights);
});
