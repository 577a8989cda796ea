import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { weightPatterns } from "../../dist/flow/magnitudes.js";
import { deadInMatrix } from "../../dist/flow/reference.js";
import type { FloatDtype } from "../../dist/safetensors/dtypes.js";
import { readHeader } from "../../dist/safetensors/header.js";
import { memorySource } from "../../dist/safetensors/source.js";
import { FIXTURES, hasShared, SHARED } from "../shared.js";
import { deadByKernel } from "./by-kernel.js";

interface GoldenCase {
  block_size: number;
  n_iter: number;
  beta: number;
  survival: number;
  dead: number;
  already_zero: number;
  mask_sha256: string;
}

/** Reference and kernel both give the mask that other code gave. */
function check(weights: Uint8Array, dtype: FloatDtype, [rows, cols]: number[], golden: GoldenCase): void {
  const params = { blockSize: golden.block_size, nIter: golden.n_iter, beta: golden.beta, survival: golden.survival };
  const sha256 = (mask: Uint8Array) => createHash("sha256").update(mask).digest("hex");
  const reference = deadInMatrix("magnitude", weightPatterns(weights, dtype), dtype, rows, cols, params);
  expect(sha256(reference)).toBe(golden.mask_sha256);
  expect(reference.reduce((sum, flag) => sum + flag, 0)).toBe(golden.dead);
  const byKernel = deadByKernel("magnitude", weights, dtype, rows, cols, params);
  expect(sha256(byKernel.mask)).toBe(golden.mask_sha256);
  expect(byKernel.dead).toBe(golden.dead);
  expect(byKernel.zeros).toBe(golden.already_zero);
}

const { tensors } = JSON.parse(readFileSync(join(FIXTURES, "flow-golden.json"), "utf8")) as {
  tensors: { name: string; dtype: FloatDtype; shape: number[]; weights_base64: string; cases: GoldenCase[] }[];
};

describe("masks made by other code (fixtures of our own)", () => {
  test.each(tensors)("$name", ({ dtype, shape, weights_base64, cases }) => {
    const weights = new Uint8Array(Buffer.from(weights_base64, "base64"));
    expect(cases.length).toBe(8);
    for (const golden of cases) check(weights, dtype, shape, golden);
  });
});

describe.skipIf(!hasShared)("masks of ../shared/golden", () => {
  test("all 77", async () => {
    const bytes = new Uint8Array(readFileSync(join(SHARED, "golden/v1_golden.safetensors")));
    const header = await readHeader(memorySource(bytes), "golden");
    const { cases } = JSON.parse(readFileSync(join(SHARED, "golden/v1_golden.json"), "utf8")) as {
      cases: (GoldenCase & { tensor: string })[];
    };
    expect(cases).toHaveLength(77);
    for (const golden of cases) {
      const { byteOffset, byteLength, dtype, shape } = header.tensors.find(({ name }) => name === golden.tensor)!;
      check(bytes.slice(byteOffset, byteOffset + byteLength), dtype as FloatDtype, [...shape], golden);
    }
  });
});
