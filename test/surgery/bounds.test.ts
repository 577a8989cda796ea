import { execFile } from "node:child_process";
import { closeSync, mkdirSync, openSync, writeFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { describe, expect, test } from "vitest";
import { gaussianTensor, writeDonor } from "../donors.js";
import { faultyFiles } from "../faults/faulty-files.js";
import { MAIN } from "../physarium.js";
import { temporaryFolder } from "../temporary.js";
import { filesOf, operateOn } from "./operate.js";

const run = promisify(execFile);
const folder = temporaryFolder();
const DONOR_MODULE = fileURLToPath(new URL("../../dist/checkpoint/donor.js", import.meta.url));

describe("200 shards", () => {
  const donor = join(folder, "donor");
  writeDonor(
    donor,
    Array.from({ length: 200 }, (_, i) => [
      gaussianTensor(`model.layers.${i}.mlp.up_proj.weight`, "BF16", [16, 16], i),
    ]),
  );

  test("few files are open at a time", async () => {
    const files = faultyFiles({ limit: (_call, n, byteLength) => Math.ceil(byteLength / (1 + (n % 3))) });
    await operateOn(donor, join(folder, "counted"), { workers: 0 }, { files });
    console.log(`200 shards: ${files.open_.most} files open at most`);
    expect(files.open_.most).toBeLessThan(32);
    expect(files.open_.now).toBe(0);
  });

  test.skipIf(process.platform === "win32")("a limit of 256 file handles is enough for 400 files", async () => {
    const output = join(folder, "limited");
    await run("sh", [
      "-c",
      'ulimit -n 256 && exec "$0" "$@"',
      process.execPath,
      MAIN,
      "surgery",
      donor,
      output,
      "--workers",
      "2",
      "--quiet",
      "--no-card",
    ]);
    expect(filesOf(output)).toEqual(filesOf(join(folder, "counted")));
  });
});

test("a header of 10^6 tensors is read right, in less than 512 MiB", async () => {
  const million = join(folder, "million");
  mkdirSync(million);
  const parts: string[] = [];
  for (let i = 0; i < 1_000_000; i++) parts.push(`"t${i}":{"dtype":"U8","shape":[1],"data_offsets":[${i},${i + 1}]}`);
  const json = Buffer.from(`{${parts.join(",")}}`);
  const prefix = Buffer.alloc(8);
  prefix.writeBigUInt64LE(BigInt(json.byteLength));
  const file = openSync(join(million, "model.safetensors"), "w");
  for (const bytes of [prefix, json, Buffer.alloc(1_000_000)]) writeSync(file, bytes);
  closeSync(file);
  const script = join(folder, "million.mjs");
  writeFileSync(
    script,
    `import { openDonor } from ${JSON.stringify(DONOR_MODULE)};
const donor = await openDonor(process.argv[2]);
const { tensors } = donor.shards[0];
const right = tensors.every(({ name, byteOffset, byteLength }, i) => name === "t" + i && byteLength === 1 && byteOffset === tensors[0].byteOffset + i);
console.log(JSON.stringify({ count: donor.tensorCount, right, peak: process.resourceUsage().maxRSS * 1024, seconds: process.uptime() }));`,
  );
  const { stdout } = await run(process.execPath, [script, million]);
  const { count, right, peak, seconds } = JSON.parse(stdout);
  console.log(
    `10^6 tensors, a header of ${json.byteLength} bytes: ${(peak / 2 ** 20).toFixed(0)} MiB, ${seconds.toFixed(1)} s`,
  );
  expect([count, right]).toEqual([1_000_000, true]);
  expect(peak).toBeLessThan(512 * 2 ** 20);
});
