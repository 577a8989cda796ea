import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { physarium } from "../physarium.js";
import { LOAM } from "../shared.js";
import { FakeHub } from "./fake-hub.js";
import { COMMIT, filesOf } from "./models.js";

let hub: FakeHub;
let folder: string;
let env: Record<string, string>;

beforeEach(async () => {
  hub = await FakeHub.start();
  folder = mkdtempSync(join(tmpdir(), "physarium-test-hub-plan-"));
  hub.repositories.set("org/loam", { commit: COMMIT, files: filesOf(LOAM) });
  env = { HF_ENDPOINT: hub.endpoint, HF_HUB_CACHE: join(folder, "cache"), HF_TOKEN: "" };
});
afterEach(async () => {
  await hub.stop();
  rmSync(folder, { recursive: true, force: true });
});

test("a plan of an address reads config, index and headers, and nothing else", async () => {
  const { status, stdout, stderr } = await physarium(["plan", "hf://org/loam", "--json"], { env });
  expect(status, stderr).toBe(0);
  const plan = JSON.parse(stdout);
  const here = JSON.parse((await physarium(["plan", LOAM, "--json"])).stdout);
  expect(plan.tensors).toEqual(here.tensors);
  expect(plan.side_files).toEqual(here.side_files);
  const files = filesOf(LOAM);
  const bytes = [...files.values()].reduce((sum, each) => sum + each.byteLength, 0);
  expect(plan.hub).toMatchObject({ commit: COMMIT, bytes_to_fetch: bytes, bytes_cached: 0, nothing_downloaded: true });
  expect(existsSync(join(folder, "cache"))).toBe(false);
  // Ranges end with the header; config and index are read whole, and nothing else is touched.
  const shards = [...files].filter(([name]) => name.endsWith(".safetensors"));
  const headerOf = new Map(shards.map(([name, all]) => [name, 8 + Number(Buffer.from(all).readBigUInt64LE(0))]));
  const read = ["config.json", "model.safetensors.index.json"].filter((name) => files.has(name));
  const asked = hub.requests.flatMap(({ url, range }) =>
    range === undefined ? [] : [[decodeURIComponent(url), range]],
  );
  expect(asked.length).toBeGreaterThan(0);
  for (const [url, range] of asked) {
    const name = [...files.keys()].filter((each) => url.includes(`/${each}`) || url.includes(`=${each}`)).at(-1)!;
    const end = Number(/-(\d+)$/.exec(range)![1]) + 1;
    expect(end, `${url} ${range}`).toBeLessThanOrEqual(headerOf.get(name) ?? files.get(name)!.byteLength);
    expect(headerOf.has(name) || read.includes(name), url).toBe(true);
  }
  const sizes = [...headerOf.values(), ...read.map((name) => files.get(name)!.byteLength)];
  expect(plan.hub.bytes_read).toBe(sizes.reduce((sum, size) => sum + size, 0));
});

test("in words it says what is to fetch, where, and that nothing was downloaded", async () => {
  const { stdout } = await physarium(["plan", "hf://org/loam"], { env });
  expect(stdout).toContain("nothing downloaded");
  expect(stdout).toContain(`at commit ${COMMIT}`);
  expect(stdout).toMatch(/about .* to fetch at the measured rate/);
  await physarium(["fetch", "hf://org/loam", "--quiet"], { env });
  const again = JSON.parse((await physarium(["plan", "hf://org/loam", "--json"], { env })).stdout);
  expect(again.hub.bytes_to_fetch).toBe(0);
});

test("a header that does not end is refused over the wire as it is here", async () => {
  const files = filesOf(LOAM);
  const shard = [...files.keys()].find((name) => name.endsWith(".safetensors"))!;
  files.set(shard, files.get(shard)!.slice(0, 9000));
  hub.repositories.set("org/short", { commit: COMMIT, files });
  const { status, stderr } = await physarium(["plan", "hf://org/short"], { env });
  expect(status, stderr).toBe(3);
  expect(stderr).toMatch(/DONOR_HEADER/);
});
