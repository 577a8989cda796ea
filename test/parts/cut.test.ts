import * as fc from "fast-check";
import { expect, test } from "vitest";
import { type CuttableShard, cutIntoParts } from "../../dist/parts/cut.js";
import { rangesOf } from "../../dist/parts/few.js";

function shard(file: number, lengths: readonly number[], names?: readonly string[]): CuttableShard {
  const dataByteOffset = 100;
  let byteOffset = dataByteOffset;
  const tensors = lengths.map((byteLength, at) => {
    const tensor = { name: names?.[at] ?? `t.${file}.${at}`, byteOffset, byteLength };
    byteOffset += byteLength;
    return tensor;
  });
  return { file: `${file}`, byteLength: byteOffset, dataByteOffset, tensors };
}

const models = fc
  .array(fc.array(fc.integer({ min: 0, max: 5000 }), { minLength: 1, maxLength: 30 }), { minLength: 1, maxLength: 12 })
  .map((shards) => shards.map((lengths, file) => shard(file, lengths)));

test("every tensor is in exactly one part, parts are at most as many as asked, and always the same", () => {
  fc.assert(
    fc.property(models, fc.integer({ min: 1, max: 60 }), (shards, maxParts) => {
      const parts = cutIntoParts(shards, maxParts);
      expect(parts.length).toBeLessThanOrEqual(maxParts);
      const seen = parts.flatMap((slices) =>
        slices.flatMap(({ shard: at, first, end }) =>
          Array.from({ length: end - first }, (_, tensor) => `${at}.${first + tensor}`),
        ),
      );
      expect(seen.sort()).toEqual(shards.flatMap(({ tensors }, at) => tensors.map((_, i) => `${at}.${i}`)).sort());
      // Files of slices are named by their first byte: no two of a shard may begin at the same one.
      const begins = parts.flatMap((slices) =>
        slices.map(({ shard: at, first }) => `${at}:${shards[at].tensors[first].byteOffset}`),
      );
      expect(new Set(begins).size).toBe(begins.length);
      for (const slices of parts) expect(slices.length).toBeGreaterThan(0);
      expect(cutIntoParts(shards, maxParts)).toEqual(parts);
    }),
    { numRuns: 300 },
  );
});

test("parts are alike where tensors are small: none has over 1.6 times its share", () => {
  const lengths = (seed: number) => Array.from({ length: 400 }, (_, at) => 900 + ((at * seed) % 200));
  const shards = [shard(0, lengths(7)), shard(1, lengths(11)), shard(2, lengths(13))];
  const total = shards.reduce((sum, { byteLength }) => sum + byteLength, 0);
  for (const maxParts of [1, 2, 3, 4, 5, 7, 16, 50, 100]) {
    const parts = cutIntoParts(shards, maxParts);
    const most = Math.max(...parts.map((slices) => slices.reduce((sum, { byteLength }) => sum + byteLength, 0)));
    expect(most / (total / maxParts), `${maxParts} parts`).toBeLessThan(1.6);
  }
});

test("whole shards stay whole where there are enough of them", () => {
  const shards = Array.from({ length: 200 }, (_, file) => shard(file, [5_000, 4_000 + file]));
  const parts = cutIntoParts(shards, 64);
  expect(parts.length).toBe(64);
  expect(parts.flat().every(({ isWhole }) => isWhole)).toBe(true);
});

test("a tensor larger than a part leaves the rest to the others", () => {
  const parts = cutIntoParts([shard(0, [10, 100_000, ...Array.from({ length: 40 }, () => 1_000)])], 5);
  expect(parts.length).toBe(5);
  expect(parts.slice(1).every(([{ byteLength }]) => byteLength >= 8_000 && byteLength <= 12_000)).toBe(true);
});

test("an expert is not cut apart", () => {
  const names = [0, 1, 2, 3].flatMap((expert) =>
    ["gate", "up", "down"].map((kind) => `model.layers.0.mlp.experts.${expert}.${kind}_proj.weight`),
  );
  const parts = cutIntoParts(
    [
      shard(
        0,
        names.map(() => 1000),
        names,
      ),
    ],
    12,
  );
  expect(parts.map(([{ first, end }]) => [first, end])).toEqual([
    [0, 3],
    [3, 6],
    [6, 9],
    [9, 12],
  ]);
});

test("numbers as ranges", () => {
  expect(rangesOf([0, 1, 2, 5, 7, 8])).toBe("0-2,5,7-8");
  expect(rangesOf([])).toBe("");
});
