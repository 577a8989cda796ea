import { appendFile, readFile } from "node:fs/promises";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { verify } from "../../dist/audit/verify.js";
import { openDonor } from "../../dist/checkpoint/donor.js";
import { FileSource } from "../../dist/checkpoint/file-layer.js";
import { packModel } from "../../dist/pack/pack-model.js";
import { unpackedView } from "../../dist/pack/packed-files.js";
import { operate } from "../../dist/surgery/operation.js";
import { checkOptions } from "../../dist/surgery/options.js";
import { planSurgery } from "../../dist/surgery/plan.js";
import { scratchFolder } from "./folder.js";

const LOAM = "examples/donors/loam";
let scratch: string;
const at = (name: string) => join(scratch, name);

beforeAll(async () => {
  scratch = await scratchFolder();
  const plan = planSurgery(await openDonor(LOAM), checkOptions({ workers: 0 }));
  await operate(plan, { outputPath: at("operated") });
  await packModel(at("operated"), at("packed"), { workers: 0 });
});

describe("a packed folder seen as if it were unpacked", () => {
  it("opens as a donor with the same shards, tensors and side files", async () => {
    const view = await unpackedView(at("packed"));
    const seen = await openDonor(at("packed"), view.files);
    const real = await openDonor(at("operated"));
    const plain = (donor: typeof real) => ({
      ...donor,
      source: undefined,
      path: "",
      shards: donor.shards.map((shard) => ({ ...shard, modifiedNs: 0n })),
      sideFiles: donor.sideFiles.map((file) => ({ ...file, modifiedNs: 0n })),
    });
    expect(plain(seen)).toEqual(plain(real));
    for (const { file } of real.shards) {
      const source = await FileSource.open(join(at("packed"), file), view.files);
      const bytes = await readFile(join(at("operated"), file));
      expect(Buffer.compare(await source.read(0, source.byteLength), bytes)).toBe(0);
      await expect(source.read(0, source.byteLength + 1)).rejects.toMatchObject({ code: "IO_SHORT_READ" });
      await source.close();
    }
    await expect(view.files.open(join(at("packed"), real.shards[0].file), "r+")).rejects.toMatchObject({
      code: "EROFS",
    });
    await view.close();
  });

  it("is verified like the folder it stands for", async () => {
    const view = await unpackedView(at("packed"));
    const result = await verify(at("packed"), { donorPath: LOAM, files: view.files, workers: 0 });
    expect(result.differences).toEqual([]);
    expect(result.ok).toBe(true);
    await appendFile(at("packed/config.json"), " ");
    // The view was opened before the damage; verify sees it.
    expect((await verify(at("packed"), { donorPath: LOAM, files: view.files, workers: 0 })).ok).toBe(false);
    await view.close();
  });
});
