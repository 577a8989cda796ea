import { describe, expect, it } from "vitest";
import { chooseTypes, type MixContext, type ShapedTensor } from "../../dist/export/gguf/tensor-types.js";

const dense: MixContext = { architecture: "llama", layerCount: 30, headCount: 9, kvHeadCount: 3, expertCount: 0 };

/** Matrices of a model with `hidden` channels and 1536 neurons, tied unless `head`. */
function matrices(layers: number, hidden: number, options: { head?: boolean; fused?: boolean } = {}): ShapedTensor[] {
  const list: ShapedTensor[] = [{ name: "token_embd.weight", shape: [1000, hidden] }];
  for (let layer = 0; layer < layers; layer++) {
    for (const name of options.fused ? ["attn_qkv"] : ["attn_q", "attn_k", "attn_v"]) {
      list.push({ name: `blk.${layer}.${name}.weight`, shape: [hidden, hidden] });
    }
    list.push({ name: `blk.${layer}.attn_norm.weight`, shape: [hidden] });
    list.push({ name: `blk.${layer}.attn_output.weight`, shape: [hidden, hidden] });
    list.push({ name: `blk.${layer}.ffn_up.weight`, shape: [1536, hidden] });
    list.push({ name: `blk.${layer}.ffn_down.weight`, shape: [hidden, 1536] });
  }
  if (options.head) list.push({ name: "output.weight", shape: [1000, hidden] });
  return list;
}

const layersOf = (types: ReturnType<typeof chooseTypes>, name: string, type: string): number[] =>
  [...types]
    .filter(([key, chosen]) => key.endsWith(`.${name}.weight`) && chosen.type === type)
    .map(([key]) => Number(key.split(".")[1]));

describe("mixtures give what llama.cpp's quantize gave SmolLM2-135M", () => {
  // Read from the files that llama.cpp (node-llama-cpp 3.22.1's library) made of it: 30 layers, rows of 576 and 1536.
  const more = [0, 1, 2, 5, 8, 11, 14, 17, 20, 23, 26, 27, 28, 29];

  it("Q4_K_M", () => {
    const types = chooseTypes("Q4_K_M", matrices(30, 576), dense);
    expect(types.get("token_embd.weight")?.type).toBe("Q8_0");
    expect(layersOf(types, "attn_v", "Q8_0")).toEqual(more);
    expect(layersOf(types, "attn_v", "Q5_0").length).toBe(16);
    expect(layersOf(types, "ffn_down", "Q6_K")).toEqual(more);
    expect(layersOf(types, "ffn_down", "Q4_K").length).toBe(16);
    expect(layersOf(types, "ffn_up", "Q5_0").length).toBe(30);
    expect(types.get("blk.0.attn_norm.weight")).toEqual({ type: "F32", fallback: undefined });
  });

  it("Q4_K_S", () => {
    const types = chooseTypes("Q4_K_S", matrices(30, 576), dense);
    expect(layersOf(types, "attn_v", "Q5_1")).toEqual([0, 1, 2, 3]);
    expect(layersOf(types, "ffn_down", "Q5_K")).toEqual([0, 1, 2]);
  });

  it("Q5_K_M", () => {
    const types = chooseTypes("Q5_K_M", matrices(30, 576), dense);
    expect(layersOf(types, "attn_v", "Q8_0")).toEqual(more);
    expect(layersOf(types, "attn_v", "Q5_1").length).toBe(16);
    expect(layersOf(types, "ffn_down", "Q6_K")).toEqual(more);
  });
});

describe("rules of mixtures", () => {
  it("an output of its own leaves the embedding at the main type", () => {
    const types = chooseTypes("Q4_K_M", matrices(2, 512, { head: true }), { ...dense, layerCount: 2 });
    expect(types.get("output.weight")?.type).toBe("Q6_K");
    expect(types.get("token_embd.weight")?.type).toBe("Q4_K");
  });

  it("fused q, k, v count as values", () => {
    const types = chooseTypes("Q4_K_M", matrices(4, 512, { fused: true }), { ...dense, layerCount: 4 });
    expect(layersOf(types, "attn_qkv", "Q6_K")).toEqual([2, 3]);
  });

  it("eight experts: values and keys as Q8_0, the output of attention as Q5_K", () => {
    const types = chooseTypes("Q4_K_M", matrices(2, 512), { ...dense, layerCount: 2, expertCount: 8 });
    expect(layersOf(types, "attn_v", "Q8_0")).toEqual([0, 1]);
    expect(layersOf(types, "attn_k", "Q8_0")).toEqual([0, 1]);
    expect(layersOf(types, "attn_output", "Q5_K")).toEqual([0, 1]);
  });

  it("one type for all is pure, routers and learned positions aside", () => {
    const special: ShapedTensor[] = [
      { name: "blk.0.ffn_gate_inp.weight", shape: [8, 512] },
      { name: "position_embd.weight", shape: [100, 512] },
      { name: "blk.0.shortconv.conv.weight", shape: [512, 3] },
    ];
    const types = chooseTypes("Q4_K", [...matrices(1, 512, { head: true }), ...special], dense);
    for (const { name, shape } of matrices(1, 512, { head: true })) {
      expect(types.get(name)?.type, name).toBe(shape.length === 1 ? "F32" : "Q4_K");
    }
    for (const { name } of special) expect(types.get(name)?.type).toBe("F32");
  });

  it.each([
    ["Q4_K", 576, "Q5_0"],
    ["Q5_K", 576, "Q5_1"],
    ["Q6_K", 576, "Q8_0"],
    ["Q4_K", 100, "F16"],
    ["Q4_0", 100, "F16"],
    ["IQ4_NL", 100, "F16"],
  ] as const)("%s with rows of %i becomes %s", (type, rowLength, expected) => {
    const chosen = chooseTypes(type, [{ name: "blk.0.ffn_up.weight", shape: [4, rowLength] }], dense);
    expect(chosen.get("blk.0.ffn_up.weight")?.type).toBe(expected);
    expect(chosen.get("blk.0.ffn_up.weight")?.fallback).toContain(`rows of ${rowLength}`);
  });
});
