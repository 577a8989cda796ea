import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { cp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { type FileLayer, nodeFiles } from "../../dist/checkpoint/file-layer.js";
import { packModel } from "../../dist/pack/pack-model.js";
import { unpackModel } from "../../dist/pack/unpack-model.js";
import { digests, scratchFolder } from "./folder.js";
import { writeOddDonor } from "./odd-donor.js";

/** Every third call by default; 1 tries them all. */
const STRIDE = Number(process.env.PHYSARIUM_FAULT_STRIDE ?? 3);

const options = { bandElements: 1000, workers: 0 };
let scratch: string;
let packed: Record<string, string>;
let original: Record<string, string>;
const at = (name: string) => join(scratch, name);

beforeAll(async () => {
  scratch = await scratchFolder();
  await writeOddDonor(at("odd"));
  await packModel(at("odd"), at("packed"), options);
  packed = await digests(at("packed"));
  original = await digests(at("odd"));
});

/** A file layer that dies at its n-th writing call, and stays dead: what a killed process leaves on the disk. */
function dyingFiles(fatalCall: number): { files: FileLayer; calls: () => number } {
  let calls = 0;
  const step = <T>(call: () => Promise<T>): Promise<T> =>
    ++calls >= fatalCall ? Promise.reject(new Error("killed")) : call();
  const files: FileLayer = {
    ...nodeFiles,
    mkdir: ((...args: Parameters<FileLayer["mkdir"]>) => step(() => nodeFiles.mkdir(...args))) as FileLayer["mkdir"],
    rename: (...args) => step(() => nodeFiles.rename(...args)),
    rm: (...args) => step(() => nodeFiles.rm(...args)),
    open: async (path, flags, mode) => {
      const writes = typeof flags === "string" ? flags !== "r" : (flags & 3) !== 0;
      const file = writes
        ? await step(() => nodeFiles.open(path, flags, mode))
        : await nodeFiles.open(path, flags, mode);
      const write = file.write.bind(file) as (...args: unknown[]) => ReturnType<typeof file.write>;
      const truncate = file.truncate.bind(file);
      file.write = ((...args: unknown[]) => step(() => write(...args))) as typeof file.write;
      file.truncate = (length) => step(() => truncate(length));
      return file;
    },
  };
  return { files, calls: () => calls };
}

async function countCalls(run: (files: FileLayer) => Promise<unknown>): Promise<number> {
  const counted = dyingFiles(Number.POSITIVE_INFINITY);
  await run(counted.files);
  return counted.calls();
}

describe("a run that is killed at any of its writing calls", () => {
  it.each(["fresh", "over an older output"])("packs to the same files when resumed (%s)", async (mode) => {
    const overwrite = mode !== "fresh";
    const run = (files: FileLayer) => packModel(at("odd"), at("target"), { ...options, files, overwrite });
    const prepare = async () => {
      await rm(at("target"), { recursive: true, force: true });
      if (overwrite) await packModel(at("odd"), at("target"), { ...options, bandElements: 64 });
    };
    await prepare();
    const total = await countCalls(run);
    expect(total).toBeGreaterThan(20);
    for (let fatal = 1; fatal <= total; fatal += STRIDE) {
      await prepare();
      await expect(run(dyingFiles(fatal).files)).rejects.toThrow();
      await releaseLock();
      await packModel(at("odd"), at("target"), { ...options, resume: true, overwrite });
      expect(await digests(at("target"))).toEqual(packed);
    }
    expect((await readdir(scratch)).sort()).toEqual(["odd", "packed", "target"]);
  });

  it("unpacks to the same files when resumed", async () => {
    const run = (files: FileLayer) => unpackModel(at("packed"), at("back"), { workers: 0, files });
    const total = await countCalls(run);
    for (let fatal = 1; fatal <= total; fatal += STRIDE) {
      await rm(at("back"), { recursive: true, force: true });
      await expect(run(dyingFiles(fatal).files)).rejects.toThrow();
      await releaseLock();
      await unpackModel(at("packed"), at("back"), { workers: 0, resume: true });
      expect(await digests(at("back"))).toEqual(original);
    }
    expect((await readdir(scratch)).filter((name) => name.includes("partial"))).toEqual([]);
  });

  /** The process that would have been killed is this one and lives on; its lock must look like a dead one's. */
  async function releaseLock(): Promise<void> {
    for (const name of ["target", "back"]) {
      const lock = at(`${name}.partial.lock`);
      if (existsSync(lock)) await writeFile(lock, "999999999");
    }
  }
});

describe("resuming", () => {
  it("keeps finished shards and does damaged ones again", async () => {
    const total = await countCalls((files) => packModel(at("odd"), at("a"), { ...options, files }));
    await expect(packModel(at("odd"), at("b"), { ...options, files: dyingFiles(total - 9).files })).rejects.toThrow();
    await rm(at("b.partial.lock"), { force: true });
    const kept = await packModel(at("odd"), at("b"), { ...options, resume: true });
    expect(kept.resumedShards).toBe(2);

    await expect(packModel(at("odd"), at("c"), { ...options, files: dyingFiles(total - 9).files })).rejects.toThrow();
    await rm(at("c.partial.lock"), { force: true });
    await writeFile(at("c.partial/model-00001-of-00002.physarium.safetensors"), "damaged");
    expect((await packModel(at("odd"), at("c"), { ...options, resume: true })).resumedShards).toBe(1);
    expect(await digests(at("c"))).toEqual(packed);

    // One byte of coded weights, in a file of its length: its bands do not decode to their checksums any more.
    await expect(packModel(at("odd"), at("l"), { ...options, files: dyingFiles(total - 9).files })).rejects.toThrow();
    await rm(at("l.partial.lock"), { force: true });
    const shard = at("l.partial/model-00001-of-00002.physarium.safetensors");
    const bytes = await readFile(shard);
    bytes[bytes.byteLength - 100] ^= 1;
    await writeFile(shard, bytes);
    expect((await packModel(at("odd"), at("l"), { ...options, resume: true })).resumedShards).toBe(1);
    expect(await digests(at("l"))).toEqual(packed);
  });

  it("is refused for other settings, and asked for where a stopped run lies", async () => {
    await expect(packModel(at("odd"), at("d"), { ...options, files: dyingFiles(12).files })).rejects.toThrow();
    await rm(at("d.partial.lock"), { force: true });
    await expect(packModel(at("odd"), at("d"), options)).rejects.toMatchObject({ code: "USAGE_UNFINISHED" });
    await expect(packModel(at("odd"), at("d"), { ...options, bandElements: 64, resume: true })).rejects.toMatchObject({
      code: "USAGE_RESUME_MISMATCH",
    });
    await packModel(at("odd"), at("d"), { ...options, overwrite: true });
    expect(await digests(at("d"))).toEqual(packed);
  });

  it("keeps what was made of a donor that was copied or touched, after a look; not of one whose weights changed", async () => {
    const total = await countCalls((files) => packModel(at("odd"), at("g"), { ...options, files }));
    const stop = async (name: string) => {
      const { files } = dyingFiles(total - 9);
      await expect(packModel(at("odd"), at(name), { ...options, files })).rejects.toThrow();
      await rm(at(`${name}.partial.lock`), { force: true });
    };
    await stop("h");
    await cp(at("odd"), at("copy"), { recursive: true });
    expect((await packModel(at("copy"), at("h"), { ...options, resume: true })).resumedShards).toBe(2);
    expect(await digests(at("h"))).toEqual(packed);

    await stop("i");
    const shard = at("copy/model-00001-of-00002.safetensors");
    const bytes = await readFile(shard);
    bytes[bytes.byteLength - 1] ^= 1;
    await writeFile(shard, bytes);
    expect((await packModel(at("copy"), at("i"), { ...options, resume: true })).resumedShards).toBe(1);
    await packModel(at("copy"), at("changed"), options);
    expect(await digests(at("i"))).toEqual(await digests(at("changed")));

    await stop("j");
    await writeFile(at("copy/config.json"), "{}");
    await expect(packModel(at("copy"), at("j"), { ...options, resume: true })).rejects.toMatchObject({
      code: "USAGE_RESUME_MISMATCH",
    });
  });

  it("goes on after a stop on request", async () => {
    const controller = new AbortController();
    const onProgress = ({ bytesDone }: { bytesDone: number }) => bytesDone > 30_000 && controller.abort();
    const { signal } = controller;
    await expect(packModel(at("odd"), at("e"), { ...options, signal, onProgress })).rejects.toMatchObject({
      code: "STOPPED",
    });
    await packModel(at("odd"), at("e"), { ...options, resume: true });
    expect(await digests(at("e"))).toEqual(packed);
    await expect(unpackModel(at("e"), at("f"), { workers: 0, signal })).rejects.toMatchObject({ code: "STOPPED" });
    await unpackModel(at("e"), at("f"), { workers: 0, resume: true });
    expect(await digests(at("f"))).toEqual(original);
  });

  it("works after kill -9 of the whole process", async () => {
    const script = `
      import { packModel } from ${JSON.stringify(new URL("../../dist/pack/pack-model.js", import.meta.url).href)};
      console.log("ready");
      await packModel(process.argv[1], process.argv[2], { bandElements: 16, workers: 0, resume: true });
    `;
    const args = ["--input-type=module", "-e", script, at("odd"), at("killed")];
    for (const milliseconds of [60, 120, 250, 400]) {
      const child = spawn(process.execPath, args, { stdio: ["ignore", "pipe", "ignore"] });
      const closed = new Promise((resolve) => child.once("close", resolve));
      await new Promise((resolve) => child.stdout.once("data", resolve));
      await new Promise((resolve) => setTimeout(resolve, milliseconds));
      child.kill("SIGKILL");
      await closed;
      if (existsSync(at("killed"))) break;
    }
    if (!existsSync(at("killed")))
      await packModel(at("odd"), at("killed"), { ...options, bandElements: 16, resume: true });
    await packModel(at("odd"), at("undisturbed"), { ...options, bandElements: 16 });
    expect(await digests(at("killed"))).toEqual(await digests(at("undisturbed")));
  });
});
