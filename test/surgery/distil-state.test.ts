import { existsSync, mkdirSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { nodeFiles } from "../../dist/checkpoint/file-layer.js";
import {
  hasDistilState,
  loadDistilState,
  removeDistilState,
  saveDistilState,
} from "../../dist/surgery/distil-state.js";
import { temporaryFolder } from "../temporary.js";

const folder = temporaryFolder();
mkdirSync(join(folder, "physarium"));

test("a state comes back as it was saved, and a disk that does not answer is not taken for none", async () => {
  expect(await loadDistilState(folder, nodeFiles)).toBeUndefined();
  const weights = Float32Array.of(0, 1.5, 0, -2, 0, 0, 0, 0, 3);
  const first = Float32Array.of(1, 2, 3);
  const state = {
    made: 7,
    begunAt: 4,
    lookedAt: 6,
    rate: 0.002,
    heldOutBefore: 0.25,
    best: { step: 4, loss: 0.125, living: new Map([["w", Float32Array.of(1, -2, 4)]]) },
    tensors: new Map([["w", { weights, first, second: first.map((mean) => -mean), size: 2 }]]),
  };
  await saveDistilState(folder, state, nodeFiles);
  expect(await hasDistilState(folder, nodeFiles)).toBe(true);
  expect(await loadDistilState(folder, nodeFiles)).toEqual(state);

  const fails = () => Promise.reject(Object.assign(new Error("EIO"), { code: "EIO" }));
  const broken = { ...nodeFiles, lstat: fails, stat: fails };
  await expect(loadDistilState(folder, broken)).rejects.toMatchObject({ code: "IO_FAILED" });

  await removeDistilState(folder, nodeFiles);
  expect(existsSync(join(folder, "physarium", "distil.state"))).toBe(false);
});
