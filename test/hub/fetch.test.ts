import { existsSync, lstatSync, mkdtempSync, readdirSync, readFileSync, readlinkSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { parseHubAddress } from "../../dist/hub/address.js";
import { fetchModel } from "../../dist/hub/fetch-model.js";
import { HubClient } from "../../dist/hub/hub-client.js";
import { physarium } from "../physarium.js";
import { LOAM } from "../shared.js";
import { FakeHub, gitHash, type HostileMode, sha256 } from "./fake-hub.js";
import { COMMIT, filesOf } from "./models.js";

let hub: FakeHub;
let cacheFolder: string;

beforeEach(async () => {
  hub = await FakeHub.start();
  cacheFolder = mkdtempSync(join(tmpdir(), "physarium-test-hub-"));
  hub.repositories.set("org/loam", { commit: COMMIT, files: filesOf(LOAM) });
});
afterEach(async () => {
  await hub.stop();
  rmSync(cacheFolder, { recursive: true, force: true });
});

function client(more: { token?: string; offline?: boolean; stallMs?: number; signal?: AbortSignal } = {}): HubClient {
  const { token, offline = false, ...http } = more;
  return new HubClient({ endpoint: hub.endpoint, token, cacheFolder, offline }, { firstDelayMs: 5, tries: 4, ...http });
}

const fetchLoam = (more: Parameters<typeof client>[0] = {}) =>
  fetchModel(parseHubAddress("hf://org/loam"), {
    client: client(more),
    ...(more.signal === undefined ? {} : { signal: more.signal }),
  });

describe("a fetched model", () => {
  test("lies in the cache as Python's client lays it out, byte for byte", async () => {
    const { folder, commit, bytesFetched, bytesTotal } = await fetchLoam();
    expect(commit).toBe(COMMIT);
    expect(bytesFetched).toBe(bytesTotal);
    const repository = join(cacheFolder, "models--org--loam");
    expect(folder).toBe(join(repository, "snapshots", COMMIT));
    expect(readFileSync(join(repository, "refs", "main"), "utf8")).toBe(COMMIT);
    for (const [name, bytes] of filesOf(LOAM)) {
      expect(Buffer.compare(readFileSync(join(folder, name)), bytes), name).toBe(0);
      const hash = bytes.byteLength < 4096 ? gitHash(bytes) : sha256(bytes);
      expect(lstatSync(join(folder, name)).isSymbolicLink()).toBe(true);
      expect(readlinkSync(join(folder, name))).toBe(join("..", "..", "blobs", hash));
    }
    expect(readdirSync(join(repository, "blobs")).filter((name) => name.endsWith(".incomplete"))).toEqual([]);
  });

  test("is not fetched again, and serves offline", async () => {
    await fetchLoam();
    expect((await fetchLoam()).bytesFetched).toBe(0);
    const before = hub.requests.length;
    const { folder } = await fetchLoam({ offline: true });
    expect(existsSync(join(folder, "config.json"))).toBe(true);
    expect(hub.requests.length).toBe(before);
  });

  test("comes whole over many pages of its tree", async () => {
    hub.pageSize = 2;
    expect((await fetchLoam()).files).toBe(filesOf(LOAM).size);
  });

  test("leaves out weights in other formats", async () => {
    const files = filesOf(LOAM);
    files.set("pytorch_model.bin", new Uint8Array(10));
    files.set("onnx/model.onnx", new Uint8Array(10));
    hub.repositories.set("org/loam", { commit: COMMIT, files });
    expect((await fetchLoam()).files).toBe(files.size - 2);
  });

  test("is stopped and gone on with at the byte where it stood", async () => {
    const stop = new AbortController();
    hub.turn("slow drip", 8);
    const running = fetchLoam({ signal: stop.signal });
    setTimeout(() => stop.abort(), 300);
    await expect(running).rejects.toMatchObject({ code: "STOPPED" });
    hub.turn("slow drip", 0);
    hub.requests.length = 0;
    await fetchLoam();
    expect(hub.requests.some(({ range }) => range?.startsWith("bytes=1-"))).toBe(true);
  });
});

test("Ctrl-C of the command says what is kept, and the next one goes on", async () => {
  hub.turn("slow drip", 8);
  const env = { HF_ENDPOINT: hub.endpoint, HF_HUB_CACHE: cacheFolder, HF_TOKEN: "" };
  // The first line of progress comes with the first bytes.
  const onStderr = (_: string, child: { kill(name: "SIGINT"): boolean }) => void child.kill("SIGINT");
  const stopped = await physarium(["fetch", "hf://org/loam"], { env, onStderr });
  expect(stopped.stderr).toMatch(
    /stopped; what has come is kept in the cache, and the same command goes on from there/,
  );
  hub.turn("slow drip", 0);
  expect((await physarium(["fetch", "hf://org/loam", "--quiet"], { env })).status).toBe(0);
});

test("two runs on one model wait for each other: each byte comes once", async () => {
  const env = { HF_ENDPOINT: hub.endpoint, HF_HUB_CACHE: cacheFolder, HF_TOKEN: "" };
  const runs = await Promise.all([1, 2].map(() => physarium(["fetch", "hf://org/loam", "--json"], { env })));
  for (const { status, stderr } of runs) expect(status, stderr).toBe(0);
  const asked = hub.requests.filter(({ range, origin }) => range !== undefined && origin === "storage");
  const large = [...filesOf(LOAM).values()].filter(({ byteLength }) => byteLength >= 4096);
  expect(asked.length).toBe(large.length);
});

test("commands take an address where they take a folder; the donor's folder may be one for verify, too", async () => {
  const env = { HF_ENDPOINT: hub.endpoint, HF_HUB_CACHE: cacheFolder, HF_TOKEN: "" };
  const output = join(cacheFolder, "operated");
  const local = join(cacheFolder, "local");
  for (const args of [
    ["surgery", "hf://org/loam", output, "--quiet"],
    ["verify", "hf://org/loam", output],
    ["surgery", LOAM, local, "--quiet"],
  ]) {
    const { status, stderr } = await physarium(args, { env });
    expect(status, stderr).toBe(0);
  }
  for (const name of readdirSync(local).filter((each) => each !== "physarium" && each !== "README.md")) {
    expect(Buffer.compare(readFileSync(join(output, name)), readFileSync(join(local, name))), name).toBe(0);
  }
  const wrong = await physarium(["surgery", "hf://org/nothing", join(cacheFolder, "x")], { env });
  expect(wrong.status).toBe(5);
  expect(wrong.stderr).toContain("[HUB_NOT_FOUND]");
});

test("flags are refused before anything is asked of the Hub", async () => {
  const env = { HF_ENDPOINT: hub.endpoint, HF_HUB_CACHE: cacheFolder, HF_TOKEN: "" };
  const { status } = await physarium(["surgery", "hf://org/loam", join(cacheFolder, "x"), "--beta", "1"], { env });
  expect(status).toBe(2);
  expect(hub.requests).toEqual([]);
});

test("a file that cannot be had ends the others, and its own reason is told", { timeout: 20_000 }, async () => {
  // Waiting for the one that drips would take a minute.
  const files = new Map([
    ["a.safetensors", new Uint8Array(9000)],
    ["b.safetensors", new Uint8Array(9001)],
  ]);
  hub.repositories.set("org/half", { commit: COMMIT, files });
  hub.turn("slow drip", 1);
  hub.turn("flip a byte", 1000);
  const address = parseHubAddress("hf://org/half");
  await expect(fetchModel(address, { client: client({ stallMs: 60_000 }) })).rejects.toMatchObject({
    code: "HUB_HASH",
  });
});

describe("what goes wrong on the way is mended", () => {
  test.each<HostileMode>(["drop mid-range", "flip a byte", "too many requests", "expired address", "server error"])(
    "%s",
    async (mode) => {
      hub.turn(mode);
      const { folder } = await fetchLoam();
      for (const [name, bytes] of filesOf(LOAM)) {
        expect(Buffer.compare(readFileSync(join(folder, name)), bytes), name).toBe(0);
      }
    },
  );
});

describe("what cannot be mended gets its code", () => {
  test.each<[HostileMode, string]>([
    ["flip a byte", "HUB_HASH"],
    ["ignore range", "HUB_RANGE"],
    ["slow drip", "HUB_STALLED"],
    ["too many requests", "HUB_RATE"],
    ["server error", "HUB_UNREACHABLE"],
    ["path escape", "HUB_PATH"],
  ])("%s: %s", async (mode, code) => {
    hub.turn(mode, 1000);
    await expect(fetchLoam({ stallMs: 200 })).rejects.toMatchObject({ code });
    const blobs = join(cacheFolder, "models--org--loam", "blobs");
    const named = existsSync(blobs) ? readdirSync(blobs).filter((name) => !name.endsWith(".incomplete")) : [];
    const known = new Set([...filesOf(LOAM).values()].flatMap((bytes) => [sha256(bytes), gitHash(bytes)]));
    for (const name of named) expect(known.has(name)).toBe(true);
  });

  test("another etag in the middle of a file: HUB_RANGE", async () => {
    const reader = client();
    const snapshot = await reader.snapshot(parseHubAddress("hf://org/loam"));
    const file = snapshot.files.find(({ byteLength }) => byteLength > 4096)!;
    const take = async (pieces: AsyncIterable<Uint8Array>) => {
      for await (const _ of pieces);
    };
    await reader.range(snapshot, file, 0, 100, take);
    hub.turn("wrong etag");
    await expect(reader.range(snapshot, file, 100, 200, take)).rejects.toMatchObject({ code: "HUB_RANGE" });
  });

  test("gated, private, no such repository, no such revision", async () => {
    hub.repositories.set("org/gated", { commit: COMMIT, files: new Map(), gated: true, token: "right" });
    hub.repositories.set("org/private", { commit: COMMIT, files: new Map(), token: "right" });
    const open = (address: string) => fetchModel(parseHubAddress(address), { client: client() });
    await expect(open("hf://org/gated")).rejects.toMatchObject({ code: "HUB_GATED" });
    await expect(open("hf://org/private")).rejects.toMatchObject({ code: "HUB_NOT_FOUND" });
    await expect(open("hf://org/nothing")).rejects.toMatchObject({ code: "HUB_NOT_FOUND" });
    await expect(open("hf://org/loam@gone")).rejects.toMatchObject({ code: "HUB_NOT_FOUND" });
  });

  test("offline without a copy: HUB_OFFLINE, and nothing is asked", async () => {
    await expect(fetchLoam({ offline: true })).rejects.toMatchObject({ code: "HUB_OFFLINE" });
    expect(hub.requests).toEqual([]);
  });
});

test("the token goes to the endpoint and to no other origin", async () => {
  hub.repositories.set("org/loam", { commit: COMMIT, files: filesOf(LOAM), token: "hf_secret" });
  await fetchLoam({ token: "hf_secret" });
  const storage = hub.requests.filter(({ origin }) => origin === "storage");
  expect(storage.length).toBeGreaterThan(0);
  expect(storage.filter(({ authorization }) => authorization !== undefined)).toEqual([]);
  expect(hub.requests.filter(({ origin }) => origin === "hub").every((each) => each.authorization !== undefined)).toBe(
    true,
  );
});

test("addresses", () => {
  expect(parseHubAddress("hf://datasets/a/b@refs%2Fpr%2F1/c/d")).toEqual({
    kind: "dataset",
    repository: "a/b",
    revision: "refs/pr/1",
    subfolder: "c/d",
  });
  for (const wrong of [
    "hf://",
    "hf://a",
    "hf://a/b/../c",
    "hf://-a/b",
    "hf://a/b@",
    "hf://a/b@..%2F..%2Fx",
    "https://a/b",
  ]) {
    expect(() => parseHubAddress(wrong), wrong).toThrow(expect.objectContaining({ code: "USAGE_HUB_ADDRESS" }));
  }
});
