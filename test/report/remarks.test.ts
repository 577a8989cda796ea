import { describe, expect, test } from "vitest";
import { layerGrid, shortProjection, sortProjections } from "../../dist/report/layer-grid.js";
import { remarkTexts } from "../../dist/report/layers-section.js";
import { remarksOf } from "../../dist/report/remarks.js";
import { plain } from "../../dist/report/report-text.js";
import { loamLike, moeLike, qwenLike, reportOf } from "./fixtures.js";

describe("remarks", () => {
  test("in a model like the seed's, layers 1, 0 and 2 stand out in that order, and the rest is a band", () => {
    const report = qwenLike();
    const remarks = remarksOf(report);
    expect(remarks.standOut.map(({ layer }) => layer)).toEqual([1, 0, 2]);
    for (const { layer, sparsity, difference } of remarks.standOut) {
      const row = report.per_layer.find((r) => r.layer === layer)!;
      expect(sparsity).toBe(row.sparsity);
      expect(difference).toBe(row.sparsity - remarks.medianLayer!);
    }
    expect(remarks.standOut[0].projections.every(({ projection }) => projection.startsWith("mlp."))).toBe(true);
    expect(remarks.band).toMatchObject({ fromLayer: 3, toLayer: 27, layerCount: 25, contiguous: true });
    const inBand = report.per_tensor.filter(({ layer }) => layer >= 3).map(({ sparsity }) => sparsity);
    expect(remarks.band?.tensorLow).toBe(Math.min(...inBand));
    expect(remarks.band?.tensorHigh).toBe(Math.max(...inBand));
    const texts = remarkTexts(remarks).map(plain);
    expect(texts[0]).toMatch(/^Layer 1 stands out: 4\d\.\d\d % of its target weights are zero, 2\d\.\d\d points above/);
    expect(texts[3]).toMatch(/^Layers 3 to 27 settle in a band/);
  });

  test("four alike layers: none stands out", () => {
    const remarks = remarksOf(loamLike());
    expect(remarks.standOut).toEqual([]);
    expect(remarks.band).toMatchObject({ fromLayer: 0, toLayer: 3, layerCount: 4 });
  });

  test("a layer far below the others is told too", () => {
    const report = qwenLike();
    const row = report.per_layer.find((r) => r.layer === 20)!;
    row.sparsity = 0.05;
    const remarks = remarksOf(report);
    expect(remarks.standOut.find(({ layer }) => layer === 20)?.difference).toBeLessThan(0);
    expect(remarks.band?.contiguous).toBe(false);
    expect(remarkTexts(remarks).map(plain).join("\n")).toMatch(/Layer 20 stands out: 5\.00 % .* points below/);
  });

  test("most and least pruned tensor", () => {
    const report = moeLike(4);
    const { mostPruned, leastPruned } = remarksOf(report);
    expect(mostPruned?.sparsity).toBe(report.totals.max_sparsity);
    expect(leastPruned?.sparsity).toBe(report.totals.min_sparsity);
  });

  test("one layer, no layers", () => {
    const one = reportOf({
      name: "one",
      layers: 1,
      hidden: 64,
      intermediate: 96,
      keyRows: 32,
      vocabulary: 128,
      tied: true,
      shards: 1,
      sparsity: () => 0.22,
      secondsPerGigabyte: 1,
    });
    expect(remarkTexts(remarksOf(one)).map(plain)[0]).toMatch(/^There is one layer, 0: 2\d\.\d\d %/);
    const none = { ...one, per_tensor: one.per_tensor.map((row) => ({ ...row, layer: -1 })), per_layer: [] };
    expect(remarksOf(none).tensorsWithoutLayer).toBe(7);
    expect(remarkTexts(remarksOf(none)).map(plain)[0]).toMatch(/no target tensor has a layer/i);
  });
});

describe("the grid of layers and projections", () => {
  test("experts of a layer are pooled, and the sums are the rows'", () => {
    const report = moeLike(5);
    const grid = layerGrid(report.per_tensor);
    const position = grid.projections.indexOf("mlp.experts.gate_proj");
    const rows = report.per_tensor.filter((r) => r.layer === 7 && r.projection === "mlp.experts.gate_proj");
    const killed = rows.reduce((sum, row) => sum + row.killed, 0);
    const weights = rows.reduce((sum, row) => sum + row.weights, 0);
    expect(grid.cells[position][7]).toEqual({ tensors: 5, weights, dead: killed, sparsity: killed / weights });
  });

  test("projections stand in the order of a decoder layer", () => {
    const shuffled = [
      "mlp.down_proj",
      "self_attn.o_proj",
      "mlp.experts.up_proj",
      "zz",
      "mlp.gate_proj",
      "self_attn.q_proj",
    ];
    expect(sortProjections(shuffled)).toEqual([
      "self_attn.q_proj",
      "self_attn.o_proj",
      "mlp.gate_proj",
      "mlp.down_proj",
      "mlp.experts.up_proj",
      "zz",
    ]);
    expect(["self_attn.q_proj", "mlp.experts.up_proj", "x"].map(shortProjection)).toEqual(["q", "experts.up", "x"]);
  });

  test("a donor with thousands of layers and projections is cut, and says by how much", () => {
    const [row] = loamLike().per_tensor;
    const rows = Array.from({ length: 3000 }, (_, i) => ({ ...row, layer: i, projection: `p${i % 100}` }));
    const grid = layerGrid(rows);
    expect([grid.layers.length, grid.projections.length]).toEqual([256, 24]);
    expect([grid.leftOutLayers, grid.leftOutProjections]).toEqual([3000 - 256, 76]);
  });
});
