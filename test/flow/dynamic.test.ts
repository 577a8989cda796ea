import { describe, expect, test } from "vitest";
import { Dynamic, driveThreshold } from "../../dist/flow/dynamic.js";
import { weightPatterns } from "../../dist/flow/magnitudes.js";
import { checkParams, DEFAULT_PARAMS } from "../../dist/flow/params.js";
import { deadInMatrix } from "../../dist/flow/reference.js";
import { gaussian, randomNumbers, toWeights } from "../donors.js";

const threshold = (nIter: number, beta = 2, survival = 0.35) => driveThreshold(new Dynamic({ nIter, beta, survival }));

describe("the threshold in force", () => {
  test.each([
    [5, 0.3275],
    [10, 0.3414],
    [30, 0.3486],
    [100, 0.3498],
  ])("β = 2, s = 0.35, %i iterations: %d", (nIter, expected) => {
    expect(threshold(nIter)).toBeCloseTo(expected, 4);
  });

  test("near β = 1 it bites more", () => expect(threshold(30, 1.001, 1)).toBeCloseTo(0.848, 3));

  test("scales with the survival", () => {
    const tau = threshold(30, 2, 1);
    expect(tau).toBeCloseTo(0.99596, 5);
    for (const survival of [1e-6, 0.1, 0.355, 7, 100])
      expect(threshold(30, 2, survival) / survival).toBeCloseTo(tau, 12);
  });

  test("is where the reference changes its mind", () => {
    const dynamic = new Dynamic(DEFAULT_PARAMS);
    const at = driveThreshold(dynamic);
    expect(dynamic.starves(at)).toBe(false);
    expect(dynamic.starves(at * (1 - 2 ** -52))).toBe(true);
    expect(dynamic.starves(0)).toBe(true);
  });
});

describe("parameters", () => {
  test.each([
    [{ beta: 1 }, /β = 1 tubes shrink/],
    [{ beta: 0.5 }, /below 1 nobody starves/],
    [{ beta: Number.NaN }, /beta/],
    [{ beta: 16.1 }, /at most 16/],
    [{ survival: 0 }, /survival/],
    [{ survival: 100.5 }, /survival/],
    [{ nIter: 0 }, /n-iter/],
    [{ nIter: 10_001 }, /n-iter/],
    [{ nIter: 1.5 }, /n-iter/],
    [{ blockSize: 0 }, /block-size/],
    [{ blockSize: 65_537 }, /block-size/],
  ])("%j is refused", (change, message) => {
    expect(() => checkParams({ ...DEFAULT_PARAMS, ...change })).toThrow(
      expect.objectContaining({ code: "USAGE_PARAM", message: expect.stringMatching(message) }),
    );
  });

  test("limits themselves are accepted", () => {
    expect(checkParams({ blockSize: 1, nIter: 1, beta: 16, survival: 100 })).toBeTruthy();
    expect(checkParams({ blockSize: 65_536, nIter: 10_000, beta: 1.0001, survival: 1e-9 })).toBeTruthy();
  });
});

describe("what v1 kills with its defaults (DESIGN: 22.2, 17.7 and 29.8 %)", () => {
  const random = randomNumbers(7);
  const normal = gaussian(random);
  const laplace = () => Math.sign(random() - 0.5) * -Math.log(1 - random());
  test.each([
    ["Gaussian", normal, 0.222],
    ["uniform", () => 2 * random() - 1, 0.177],
    ["Laplace", laplace, 0.298],
  ])("%s", (_, draw, expected) => {
    const bytes = toWeights("BF16", 512 * 512, () => draw() * 0.02);
    const dead = deadInMatrix("magnitude", weightPatterns(bytes, "BF16"), "BF16", 512, 512, DEFAULT_PARAMS);
    const rate = dead.reduce((sum, flag) => sum + flag, 0) / dead.length;
    expect(Math.abs(rate - expected)).toBeLessThan(0.003);
  });
});
