import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { openDonor } from "../../dist/checkpoint/donor.js";
import { packModel } from "../../dist/pack/pack-model.js";
import { openPacked } from "../../dist/pack/packed-model.js";
import { estimateWorth, summariseWorth, worthOfPacked } from "../../dist/pack/worth.js";
import { scratchFolder } from "./folder.js";

describe("what the zeros are worth", () => {
  it("adds up: kinds to the model, formats by their bits, memories by their bytes", async () => {
    const donor = await openDonor("examples/donors/loam");
    const worth = await estimateWorth(donor);
    expect(worth.weights).toBe(donor.modelWeights);
    expect(worth.size_now).toBe(donor.totalSize);
    for (const field of ["weights", "zero_weights", "size_now", "size_packed", "tensors"] as const) {
      const sum = worth.by_kind.reduce((total, kind) => total + kind[field], 0);
      expect(sum).toBe(field === "tensors" ? donor.tensorCount : worth[field]);
    }
    expect(worth.size_entropy_bound).toBeLessThan(worth.size_packed);
    expect(worth.packed_fraction).toBeGreaterThan(0.6);
    expect(worth.packed_fraction).toBeLessThan(0.685);
    expect(worth.memories.map((memory) => memory.gigabytes)).toEqual([8, 12, 16, 24]);
  });

  it("estimates what packing then gives, and reads it off a packed folder", async () => {
    const scratch = await scratchFolder();
    const result = await packModel("examples/donors/loam", join(scratch, "packed"), { workers: 0 });
    const worth = await estimateWorth(await openDonor("examples/donors/loam"));
    expect(Math.abs(worth.size_packed / result.packedBytes - 1)).toBeLessThan(0.01);
    const model = await openPacked(join(scratch, "packed"));
    const exact = await worthOfPacked(model);
    await model.close();
    expect(exact.packed_is).toBe("exact");
    expect(exact.size_now).toBe(worth.size_now);
    expect(exact.size_entropy_bound).toBe(worth.size_entropy_bound);
    // Tables and headers are not tensor data.
    expect(exact.size_packed).toBeLessThan(result.packedBytes);
    expect(exact.size_packed).toBeGreaterThan(0.99 * result.packedBytes);
  });

  it("knows the sizes of a 7B model in GGUF's types", () => {
    const tensor = {
      name: "model.layers.0.mlp.down_proj.weight",
      dtype: "BF16",
      shape: [2 ** 16, 2 ** 16],
      byteOffset: 0,
    };
    const byteLength = 2 ** 33;
    const row = {
      tensor: { ...tensor, byteLength },
      zeroWeights: 0,
      packedByteLength: 5 * 2 ** 30,
      boundByteLength: 0,
    };
    const worth = summariseWorth([{ ...row, sampledWeights: 0 }], "estimated");
    const bits = Object.fromEntries(worth.formats.map((format) => [format.format, format.bits_per_weight]));
    expect(bits).toEqual({ as_is: 16, packed: 10, F16: 16, BF16: 16, Q8_0: 8.5, Q6_K: 6.5625, Q4_K: 4.5, Q4_0: 4.5 });
    // 8 GiB of weights leave nothing of 8 GB free, and fit into 12.
    expect(worth.memories[0].fits).toEqual(["packed", "Q8_0", "Q6_K", "Q4_K", "Q4_0"]);
    expect(worth.memories[1].fits).toContain("as_is");
    expect(worth.by_kind[0].kind).toBe("mlp.down_proj");
  });
});
