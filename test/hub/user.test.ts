import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { parseHubAddress } from "../../dist/hub/address.js";
import { fetchFileAt, fetchModel } from "../../dist/hub/fetch-model.js";
import { HubClient } from "../../dist/hub/hub-client.js";
import { HubSource } from "../../dist/hub/hub-source.js";
import { physarium } from "../physarium.js";
import { hasEngine } from "../probe/engine-present.js";
import { LOAM } from "../shared.js";
import { FakeHub } from "./fake-hub.js";
import { COMMIT, filesOf } from "./models.js";
import { TunnelProxy } from "./proxy.js";

let hub: FakeHub;
let folder: string;
let env: Record<string, string>;

beforeEach(async () => {
  hub = await FakeHub.start();
  folder = mkdtempSync(join(tmpdir(), "physarium-test-hub-user-"));
  hub.repositories.set("org/loam", { commit: COMMIT, files: filesOf(LOAM) });
  env = { HF_ENDPOINT: hub.endpoint, HF_HUB_CACHE: join(folder, "cache"), HF_TOKEN: "" };
});
afterEach(async () => {
  await hub.stop();
  rmSync(folder, { recursive: true, force: true });
});

function client(more: { token?: string; offline?: boolean } = {}): HubClient {
  const { token, offline = false } = more;
  const environment = { endpoint: hub.endpoint, token, cacheFolder: join(folder, "cache"), offline };
  return new HubClient(environment, { firstDelayMs: 5, tries: 3 });
}

describe("proxies", () => {
  test("all goes through HTTP_PROXY, the token inside the tunnel alone; NO_PROXY goes past it", async () => {
    const proxy = await TunnelProxy.start();
    try {
      hub.repositories.set("org/loam", { commit: COMMIT, files: filesOf(LOAM), token: "hf_secret" });
      const proxied = { ...env, HF_TOKEN: "hf_secret", HTTP_PROXY: proxy.address, http_proxy: proxy.address };
      const none = { NO_PROXY: "", no_proxy: "" };
      const through = await physarium(["plan", "hf://org/loam", "--json"], { env: { ...proxied, ...none } });
      expect(through.status, through.stderr).toBe(0);
      const hosts = new Set(proxy.asked.map(({ target }) => target.split(":")[0]));
      expect(hosts).toEqual(new Set(["127.0.0.1", "localhost"]));
      expect(JSON.stringify(proxy.asked)).not.toContain("hf_secret");
      const before = proxy.asked.length;
      const past = { NO_PROXY: "127.0.0.1,localhost", no_proxy: "127.0.0.1,localhost" };
      const direct = await physarium(["plan", "hf://org/loam", "--json"], { env: { ...proxied, ...past } });
      expect(direct.status, direct.stderr).toBe(0);
      expect(proxy.asked.length).toBe(before);
    } finally {
      await proxy.stop();
    }
  });

  test("HTTPS_PROXY is asked for an endpoint by https, and its refusal is told without the token", async () => {
    const proxy = await TunnelProxy.start();
    try {
      const code = `
        const { HubClient } = await import(${JSON.stringify(new URL("../../dist/hub/hub-client.js", import.meta.url).href)});
        const environment = { endpoint: "https://hub.invalid", token: "hf_secret", cacheFolder: "x", offline: false };
        const client = new HubClient(environment, { firstDelayMs: 1, tries: 2 });
        const address = { kind: "model", repository: "a/b", revision: "main", subfolder: "" };
        await client.commitOf(address).catch((error) => console.log(JSON.stringify([error.code, error.message])));`;
      const { execFile } = await import("node:child_process");
      const out = await new Promise<string>((resolve, reject) => {
        const proxies = { HTTPS_PROXY: proxy.address, https_proxy: proxy.address, NO_PROXY: "", no_proxy: "" };
        const options = { env: { ...process.env, ...proxies } };
        execFile(process.execPath, ["--input-type=module", "-e", code], options, (error, stdout) =>
          error === null ? resolve(stdout) : reject(error),
        );
      });
      expect(JSON.parse(out)[0]).toBe("HUB_UNREACHABLE");
      expect(out).not.toContain("hf_secret");
      expect(proxy.asked.map(({ target }) => target)).toContain("hub.invalid:443");
      expect(JSON.stringify(proxy.asked)).not.toContain("hf_secret");
    } finally {
      await proxy.stop();
    }
  });
});

test("a branch that moves while a model comes: what is fetched is the commit of the beginning", async () => {
  hub.turn("branch moves");
  const { folder: fetched, commit } = await fetchModel(parseHubAddress("hf://org/loam"), { client: client() });
  expect(commit).toBe(COMMIT);
  expect(hub.repositories.get("org/loam")!.commit).not.toBe(COMMIT);
  for (const [name, bytes] of filesOf(LOAM)) {
    expect(Buffer.compare(readFileSync(join(fetched, name)), bytes), name).toBe(0);
  }
});

test("signed addresses are used again until they expire, then asked for once more", async () => {
  const source = await HubSource.open(parseHubAddress("hf://org/loam"), client());
  const shard = [...filesOf(LOAM).keys()].find((name) => name.endsWith(".safetensors"))!;
  const file = await source.open(shard);
  const whole = filesOf(LOAM).get(shard)!;
  const resolves = () => hub.requests.filter(({ url }) => url.includes("/resolve/")).length;
  for (const begin of [1000, 2000]) {
    expect(Buffer.compare(await file.read(begin, begin + 500), whole.subarray(begin, begin + 500))).toBe(0);
  }
  expect(resolves()).toBe(1);
  hub.generation++;
  expect(Buffer.compare(await file.read(3000, 3500), whole.subarray(3000, 3500))).toBe(0);
  expect(resolves()).toBe(2);
});

test("a small file that comes damaged over the wire comes once more, then it is HUB_HASH", async () => {
  const read = async () => {
    const source = await HubSource.open(parseHubAddress("hf://org/loam"), client());
    const file = await source.open("config.json");
    return file.read(0, file.byteLength);
  };
  hub.turn("flip a byte");
  expect(Buffer.compare(await read(), filesOf(LOAM).get("config.json")!)).toBe(0);
  hub.turn("flip a byte", 1000);
  await expect(read()).rejects.toMatchObject({ code: "HUB_HASH" });
});

describe("texts of a dataset", () => {
  const story = readFileSync(new URL("../../examples/texts/loam-stories.txt", import.meta.url));
  beforeEach(() => {
    hub.repositories.set("datasets/org/texts", {
      commit: COMMIT,
      files: new Map([
        ["data/stories.txt", Uint8Array.from(story)],
        ["README.md", Buffer.from("texts")],
      ]),
    });
  });

  test("an address of a file gives that file, from the cache when offline", async () => {
    const address = parseHubAddress("hf://datasets/org/texts/data/stories.txt");
    const path = await fetchFileAt(address, { client: client() });
    expect(Buffer.compare(readFileSync(path), story)).toBe(0);
    expect(path).toContain("datasets--org--texts");
    expect(await fetchFileAt(address, { client: client({ offline: true }) })).toBe(path);
    const at = (text: string) => fetchFileAt(parseHubAddress(text), { client: client() });
    await expect(at("hf://datasets/org/texts")).rejects.toMatchObject({ code: "USAGE_HUB_ADDRESS" });
    await expect(at("hf://datasets/org/texts/data/none.txt")).rejects.toMatchObject({ code: "HUB_NOT_FOUND" });
  });

  test.skipIf(!hasEngine)("eval takes model, donor and text from the Hub", async () => {
    const text = "hf://datasets/org/texts/data/stories.txt";
    const args = ["eval", LOAM, "--against", "hf://org/loam", "--text", text, "--limit", "1", "--json"];
    const { status, stdout, stderr } = await physarium(args, { env });
    expect(status, stderr).toBe(0);
    const { quality = JSON.parse(stdout) } = JSON.parse(stdout);
    expect(quality.text.name).toBe("stories.txt");
    expect(quality.divergence.kl_mean).toBeLessThan(1e-9);
  });
});

test("a bare org/name that is no path: did you mean hf://org/name", async () => {
  const text = join(folder, "text.txt");
  writeFileSync(text, "a text");
  for (const args of [
    ["surgery", "org/loam", join(folder, "out")],
    ["plan", "org/loam"],
    ["eval", LOAM, "--text", text, "--against", "org/loam"],
    ["fetch", "org/loam"],
  ]) {
    const { status, stderr } = await physarium(args, { env });
    expect(status, args[0]).not.toBe(0);
    expect(stderr, args[0]).toContain("did you mean hf://org/loam");
  }
  expect(existsSync(join(folder, "out"))).toBe(false);
  expect(hub.requests).toEqual([]);
});

test("plan, surgery and --stream offline: HUB_OFFLINE, or what the cache holds", async () => {
  const offline = { ...env, HF_HUB_OFFLINE: "1" };
  const without = await physarium(["surgery", "hf://org/loam", join(folder, "a"), "--stream"], { env: offline });
  expect(without.stderr).toContain("[HUB_OFFLINE]");
  await fetchModel(parseHubAddress("hf://org/loam"), { client: client() });
  hub.requests.length = 0;
  const plan = await physarium(["plan", "hf://org/loam", "--json"], { env: offline });
  expect(plan.status, plan.stderr).toBe(0);
  expect(hub.requests).toEqual([]);
});
