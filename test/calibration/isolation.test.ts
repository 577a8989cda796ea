import { expect, test } from "vitest";
import { plainEngine } from "../../dist/engine/products.js";
import { blockedFactor } from "../../dist/methods/algebra/blocked-factor.js";
import { cholesky, inverseDiagonal, invertFromCholesky } from "../../dist/methods/algebra/cholesky.js";
import { scaleGram } from "../../dist/methods/algebra/damped.js";
import { energiesOf, isolationOf } from "../../dist/methods/algebra/isolation.js";
import { bindShiftedInverse } from "../../dist/methods/baselines/alps.js";
import { inverseFactor } from "../../dist/methods/baselines/sparsegpt.js";
import { correlatedInputs, meanProduct } from "./synthetic.js";

test.each([
  [30, 7],
  [64, 16],
  [45, 45],
  [41, 64],
])("blocks give the plain diagonal of the inverse (n = %d, blocks of %d)", async (n, block) => {
  const inputs = correlatedInputs(n, 3 * n, 81);
  const { coupling } = scaleGram(meanProduct(inputs, inputs, n), n);
  const plain = inverseDiagonal(cholesky(coupling, n), n);
  const factor = await blockedFactor(coupling, n, plainEngine, { block });
  const blocked = energiesOf(factor, n);
  for (let at = 0; at < n; at++) expect(Math.abs(blocked[at] / plain[at] - 1)).toBeLessThan(1e-3);
  const whole = invertFromCholesky(cholesky(coupling, n), n);
  const scale = Math.max(...plain);
  const product = await plainEngine.multiplyTransposed(factor, factor, n, n, n);
  for (let at = 0; at < n * n; at++) expect(Math.abs(product[at] - whole[at])).toBeLessThan(1e-3 * scale);
});

test("SparseGPT's factor and ALPS's inverse are the same in blocks as in plain loops", async () => {
  // More than one block of 128.
  const n = 150;
  const inputs = correlatedInputs(n, 3 * n, 81);
  const gram = meanProduct(inputs, inputs, n);
  const [plain, blocked] = await Promise.all(
    [n, 0].map((limit) => inverseFactor(gram, n, { engine: plainEngine }, limit)),
  );
  const largest = Math.max(...Float64Array.from(plain, Math.abs));
  for (let at = 0; at < n * n; at++) expect(Math.abs(blocked[at] - plain[at])).toBeLessThan(1e-3 * largest);

  const identity = Float32Array.from({ length: n * n }, (_, at) => (at % (n + 1) === 0 ? 1 : 0));
  const inverses = await Promise.all(
    [n, 0].map(async (limit) => {
      const factor = await bindShiftedInverse({ engine: plainEngine }, scaleGram(gram, n), 0.1, limit);
      const out = new Float32Array(n * n);
      await factor.multiply(identity, n, out);
      return out;
    }),
  );
  for (let at = 0; at < n * n; at++) expect(Math.abs(inverses[0][at] - inverses[1][at])).toBeLessThan(1e-3);
});

test("a factor that takes long ends on a signal", async () => {
  const identity = Float32Array.from({ length: 16 }, (_, at) => (at % 5 === 0 ? 1 : 0));
  const stopped = blockedFactor(identity, 4, plainEngine, { block: 2, signal: AbortSignal.abort() });
  await expect(stopped).rejects.toMatchObject({ code: "STOPPED" });
});

test("inputs that say the same, to the last bit, have an answer too", async () => {
  const n = 12;
  const coupling = new Float32Array(n * n).fill(1);
  const isolation = await isolationOf(coupling, n, plainEngine);
  for (const value of isolation) {
    expect(value).toBeGreaterThan(0);
    expect(value).toBeLessThanOrEqual(1.000001);
  }
});
