import { readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { isPhysariumError } from "../../dist/errors.js";
import { packModel } from "../../dist/pack/pack-model.js";
import { openPacked } from "../../dist/pack/packed-model.js";
import { unpackModel } from "../../dist/pack/unpack-model.js";
import { digests, scratchFolder } from "./folder.js";
import { writeOddDonor } from "./odd-donor.js";
import { seededRandom } from "./random-bands.js";

const DAMAGES = Number(process.env.PHYSARIUM_DAMAGES ?? 300);
let scratch: string;
const at = (name: string) => join(scratch, name);

beforeAll(async () => {
  scratch = await scratchFolder();
  await writeOddDonor(at("odd"));
  await packModel(at("odd"), at("packed"), { bandElements: 1000, workers: 0 });
});

/** The weights of a packed folder, or the code of the error that refuses them. */
async function readAll(folder: string): Promise<string> {
  try {
    const model = await openPacked(folder);
    try {
      const shards: string[] = [];
      for (const shard of model.donor.shards) {
        const source = model.shardSource(shard.file);
        shards.push(Buffer.from(await source.read(0, source.byteLength)).toString("base64"));
      }
      return shards.join("\n");
    } finally {
      await model.close();
    }
  } catch (error) {
    if (isPhysariumError(error, "DONOR_")) return error.code;
    throw error;
  }
}

describe("a damaged packed folder", () => {
  it("never gives a wrong weight: any byte changed or cut off is an error or does not matter", async () => {
    const intact = await readAll(at("packed"));
    expect(intact.length).toBeGreaterThan(10_000);
    const random = seededRandom(0xdead);
    const files = (await readdir(at("packed"))).filter((name) => /safetensors$|^physarium-pack/.test(name));
    const seen = new Map<string, number>();
    for (let i = 0; i < DAMAGES; i++) {
      const path = join(at("packed"), files[i % files.length]);
      const bytes = new Uint8Array(await readFile(path));
      const damaged = bytes.slice();
      // Headers and tables, where a byte does most, are hit as often as the bands.
      const hit = Math.floor(random() * (random() < 0.5 ? Math.min(8000, bytes.byteLength) : bytes.byteLength));
      if (random() < 0.8) damaged[hit] ^= 1 << Math.floor(random() * 8);
      else damaged[hit] = Math.floor(random() * 256);
      await writeFile(path, random() < 0.05 ? damaged.subarray(0, hit) : damaged);
      const outcome = await readAll(join(scratch, "packed"));
      await writeFile(path, bytes);
      if (outcome !== intact) {
        expect(outcome).toMatch(/^DONOR_/);
        seen.set(outcome, (seen.get(outcome) ?? 0) + 1);
      }
    }
    expect(await readAll(at("packed"))).toBe(intact);
    for (const code of ["DONOR_PACK_CHECKSUM", "DONOR_PACK_LAYOUT", "DONOR_HEADER_JSON"]) {
      expect(seen.get(code), `${code} among ${[...seen.keys()]}`).toBeGreaterThan(0);
    }
  });

  it("is not unpacked: the output folder does not appear, and nothing else is left but a stopped run", async () => {
    const file = join(at("packed"), "model-00002-of-00002.physarium.safetensors");
    const bytes = await readFile(file);
    const damaged = Uint8Array.from(bytes);
    damaged[bytes.byteLength - 2000] ^= 4;
    await writeFile(file, damaged);
    const before = await digests(at("packed"));
    await expect(unpackModel(at("packed"), at("back"), { workers: 2 })).rejects.toMatchObject({
      code: expect.stringMatching(/^DONOR_PACK_/),
    });
    expect(await readdir(scratch)).not.toContain("back");
    expect(await digests(at("packed"))).toEqual(before);

    // The file is replaced; the run goes on where it stood. (Its time changed: start anew.)
    await writeFile(file, bytes);
    await unpackModel(at("packed"), at("back"), { overwrite: true });
    expect(await digests(at("back"))).toEqual(await digests(at("odd")));
  });

  it("with a damaged side file is not unpacked either", async () => {
    const file = join(at("packed"), "config.json");
    const bytes = await readFile(file, "utf8");
    await writeFile(file, bytes.replace("odd", "odx"));
    await expect(unpackModel(at("packed"), at("side"), { workers: 0 })).rejects.toMatchObject({
      code: "DONOR_PACK_CHECKSUM",
    });
    await writeFile(file, bytes);
  });

  it("of another version, or no packed folder at all, is refused by name", async () => {
    await expect(openPacked(at("odd"))).rejects.toMatchObject({ code: "DONOR_NOT_PACKED" });
    const file = join(at("packed"), "model-00001-of-00002.physarium.safetensors");
    const bytes = await readFile(file);
    const text = Buffer.from(bytes);
    text.write('"physarium_pack_version":"2"', text.indexOf('"physarium_pack_version":"1"'));
    await writeFile(file, text);
    await expect(openPacked(at("packed"))).rejects.toMatchObject({ code: "DONOR_PACK_VERSION" });
    await writeFile(file, bytes);
  });
});
