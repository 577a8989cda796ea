import { existsSync } from "node:fs";
import { copyFile, mkdir, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { openDonor } from "../../dist/checkpoint/donor.js";
import { FileSource } from "../../dist/checkpoint/file-layer.js";
import { packModel } from "../../dist/pack/pack-model.js";
import { openPacked } from "../../dist/pack/packed-model.js";
import { unpackModel } from "../../dist/pack/unpack-model.js";
import { readHeader } from "../../dist/safetensors/header.js";
import { hasShared, LOAM, SHARED } from "../shared.js";
import { digests, scratchFolder } from "./folder.js";
import { writeOddDonor } from "./odd-donor.js";

let scratch: string;

beforeAll(async () => {
  scratch = await scratchFolder();
  await writeOddDonor(join(scratch, "odd"));
});

const at = (name: string) => join(scratch, name);

describe("packing and unpacking a folder", () => {
  it("gives loam back byte for byte, in two thirds of its size", async () => {
    const progress: number[] = [];
    const onProgress = ({ bytesDone, bytesTotal }: { bytesDone: number; bytesTotal: number }) =>
      progress.push(bytesDone / bytesTotal);
    const packed = await packModel(LOAM, at("loam-packed"), { onProgress, workers: 2 });
    expect(packed.packedFraction).toBeLessThan(0.685);
    expect(progress.at(-1)).toBe(1);
    expect(progress).toEqual([...progress].sort((a, b) => a - b));
    await unpackModel(at("loam-packed"), at("loam-back"));
    expect(await digests(at("loam-back"))).toEqual(await digests(LOAM));
    expect((await readdir(scratch)).filter((name) => name.includes("partial"))).toEqual([]);
  });

  it.each([16, 1000, 1 << 20])(
    "gives odd tensors and headers back with bands of at most %i elements, whatever the threads",
    async (bandElements) => {
      const packs: Record<string, string>[] = [];
      for (const workers of [0, 1, 3]) {
        await packModel(at("odd"), at("odd-packed"), { bandElements, workers, overwrite: true });
        packs.push(await digests(at("odd-packed")));
        await unpackModel(at("odd-packed"), at("odd-back"), { workers, overwrite: true });
        expect(await digests(at("odd-back"))).toEqual(await digests(at("odd")));
      }
      expect(packs[1]).toEqual(packs[0]);
      expect(packs[2]).toEqual(packs[0]);
    },
  );

  it("writes safetensors files that any reader opens, and that no loader takes for a model", async () => {
    await packModel(at("odd"), at("odd-container"), { bandElements: 1000 });
    for (const file of (await readdir(at("odd-container"))).filter((name) => name.endsWith(".safetensors"))) {
      const source = await FileSource.open(join(at("odd-container"), file));
      const header = await readHeader(source, file);
      await source.close();
      expect(header.metadata.get("format")).toBe("physarium-pack");
      for (const tensor of header.tensors) expect(tensor.byteOffset % 8).toBe(0);
      // Noise does not shrink: it lies there under its own dtype and shape; odd lengths are kept as bytes.
      const noise = header.tensors.find((tensor) => tensor.name === "data/noise");
      if (file.includes("00001")) expect(noise).toMatchObject({ dtype: "U8", shape: [2000] });
    }
    await expect(openDonor(at("odd-container"))).rejects.toMatchObject({ code: "DONOR_PACKED" });
    await expect(packModel(at("odd-container"), at("twice"))).rejects.toMatchObject({
      code: "USAGE_ALREADY_PACKED",
    });
  });

  it("packs a single file without an index, and every file that the format's conformance set accepts", async () => {
    const conformance = join(SHARED, "conformance/safetensors");
    const good = hasShared ? (await readdir(conformance)).filter((name) => name.startsWith("ok_")) : [];
    const files = [...good.map((name) => join(conformance, name)), join(at("odd"), "model-00002-of-00002.safetensors")];
    for (const [i, file] of files.entries()) {
      const donor = at(`single-${i}`);
      await mkdir(donor);
      await copyFile(file, join(donor, "model.safetensors"));
      await packModel(donor, `${donor}-packed`, { workers: 0 });
      await unpackModel(`${donor}-packed`, `${donor}-back`, { workers: 0 });
      expect(await digests(`${donor}-back`)).toEqual(await digests(donor));
    }
  });
});

describe("reading a packed folder", () => {
  it("reads tensors, row bands and shards as the donor's files hold them", async () => {
    await packModel(at("odd"), at("odd-read"), { bandElements: 1000 });
    const model = await openPacked(at("odd-read"));
    const donor = await openDonor(at("odd"));
    expect(model.donor.tensorCount).toBe(donor.tensorCount);
    expect(model.donor.modelWeights).toBe(donor.modelWeights);
    expect(model.donor.totalSize).toBe(donor.totalSize);
    for (const shard of donor.shards) {
      const bytes = new Uint8Array(await readFile(join(at("odd"), shard.file)));
      const source = model.shardSource(shard.file);
      expect(source.byteLength).toBe(bytes.byteLength);
      expect(Buffer.compare(await source.read(0, bytes.byteLength), bytes)).toBe(0);
      expect(Buffer.compare(await source.read(5, 4000), bytes.subarray(5, 4000))).toBe(0);
      for (const { name, shape, byteOffset, byteLength } of shard.tensors) {
        const raw = bytes.subarray(byteOffset, byteOffset + byteLength);
        expect(Buffer.compare(await model.readTensor(name), raw)).toBe(0);
        if (shape.length !== 2 || shape[0] < 3) continue;
        const rowBytes = byteLength / shape[0];
        const [first, last] = [1, shape[0] - 1];
        const band = await model.readBand(name, first, last);
        expect(Buffer.compare(band, raw.subarray(first * rowBytes, last * rowBytes))).toBe(0);
      }
    }
    const reads = await Promise.all(
      [0, 7, 90, 3].map((row) => model.readBand("model.layers.0.mlp.down_proj.weight", row, row + 5)),
    );
    expect(reads.map((read) => read.byteLength)).toEqual([1300, 1300, 1300, 1300]);
    await expect(model.readTensor("absent")).rejects.toMatchObject({ code: "DONOR_TENSOR_MISSING" });
    await model.close();
  });

  it("reads only the bands that a range needs", async () => {
    const { nodeFiles } = await import("../../dist/checkpoint/file-layer.js");
    let bytesRead = 0;
    const files = {
      ...nodeFiles,
      open: async (...args: Parameters<typeof nodeFiles.open>) => {
        const file = await nodeFiles.open(...args);
        const read = file.read.bind(file) as (...args: unknown[]) => Promise<{ bytesRead: number }>;
        file.read = (async (...readArgs: unknown[]) => {
          const result = await read(...readArgs);
          bytesRead += result.bytesRead;
          return result;
        }) as typeof file.read;
        return file;
      },
    };
    await packModel(LOAM, at("loam-counted"), { bandElements: 4096 });
    const model = await openPacked(at("loam-counted"), files);
    bytesRead = 0;
    // 16 rows of 256 make a band of 4096.
    await model.readBand("model.embed_tokens.weight", 160, 176);
    expect(bytesRead).toBeGreaterThan(4000);
    expect(bytesRead).toBeLessThan(8192);
    await model.close();
  });
});

describe("refusals before the first write", () => {
  it.each([
    ["the donor itself", "odd"],
    ["inside the donor", "odd/packed"],
    ["around the donor", "."],
  ])("an output that is %s", async (_, output) => {
    const before = await digests(at("odd"));
    await expect(packModel(at("odd"), at(output), { overwrite: true })).rejects.toMatchObject({
      code: "USAGE_OUTPUT_OVERLAP",
    });
    expect(await digests(at("odd"))).toEqual(before);
  });

  it("an output that holds something else, even with --overwrite", async () => {
    await mkdir(at("mine"));
    await writeFile(join(at("mine"), "precious.txt"), "x");
    for (const overwrite of [false, true]) {
      await expect(packModel(at("odd"), at("mine"), { overwrite })).rejects.toMatchObject({
        code: "USAGE_OUTPUT_EXISTS",
      });
      await expect(unpackModel(at("odd-container"), at("mine"), { overwrite })).rejects.toMatchObject({
        code: "USAGE_OUTPUT_EXISTS",
      });
    }
    expect(await readdir(at("mine"))).toEqual(["precious.txt"]);
  });

  it("a folder of the user's where a replaced output would wait", async () => {
    await packModel(at("odd"), at("again"), { workers: 0 });
    await mkdir(at("again.replaced"));
    await writeFile(at("again.replaced/precious.txt"), "x");
    await expect(packModel(at("odd"), at("again"), { workers: 0, overwrite: true })).rejects.toMatchObject({
      code: "USAGE_OUTPUT_EXISTS",
    });
    expect(await readdir(at("again.replaced"))).toEqual(["precious.txt"]);
    await mkdir(at("hollow"));
    await packModel(at("odd"), at("hollow"), { workers: 0 });
    expect(await readdir(at("hollow"))).toContain("physarium-pack.json");
  });

  it("a disk that is too small, a partial folder that is not ours, a run under way", async () => {
    const { nodeFiles } = await import("../../dist/checkpoint/file-layer.js");
    const full = {
      ...nodeFiles,
      statfs: (async () => ({ bavail: 1, bsize: 4096 })) as unknown as typeof nodeFiles.statfs,
    };
    const pack = (name: string, files = nodeFiles) => packModel(at("odd"), at(name), { files });
    await expect(pack("small", full)).rejects.toMatchObject({ code: "USAGE_DISK_SPACE" });
    expect(existsSync(at("small.partial"))).toBe(false);
    await mkdir(at("foreign.partial"));
    await writeFile(join(at("foreign.partial"), "x"), "x");
    await expect(pack("foreign")).rejects.toMatchObject({ code: "USAGE_OUTPUT_EXISTS" });
    await writeFile(at("notes.partial.jsonl"), '{"mine":1}');
    await expect(pack("notes")).rejects.toMatchObject({ code: "USAGE_OUTPUT_EXISTS" });
    await writeFile(at("busy.partial.lock"), String(process.ppid));
    await expect(pack("busy")).rejects.toMatchObject({ code: "USAGE_LOCKED" });
    await writeFile(at("busy.partial.lock"), "999999999");
    await pack("busy");
    await rm(at("busy"), { recursive: true });
  });
});
