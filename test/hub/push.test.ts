import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { HubClient } from "../../dist/hub/hub-client.js";
import { filesToPush } from "../../dist/hub/push/push-files.js";
import { PushSession } from "../../dist/hub/push/push-session.js";
import { physarium } from "../physarium.js";
import { LOAM } from "../shared.js";
import { FakeHub, type HostileMode, sha256 } from "./fake-hub.js";
import { COMMIT, filesOf } from "./models.js";

let hub: FakeHub;
let root: string;
let folder: string;
let env: Record<string, string>;

beforeEach(async () => {
  hub = await FakeHub.start();
  root = mkdtempSync(join(tmpdir(), "physarium-test-hub-push-"));
  folder = join(root, "model");
  mkdirSync(join(folder, "physarium"), { recursive: true });
  // One in parts, one whole, small ones for the commit itself.
  writeFileSync(join(folder, "model.safetensors"), patterned(700_001));
  writeFileSync(join(folder, "tokenizer.json"), patterned(9_000));
  writeFileSync(join(folder, "config.json"), "{}");
  writeFileSync(join(folder, "physarium", "run.log"), "a line");
  writeFileSync(join(folder, "empty.txt"), "");
  env = { HF_ENDPOINT: hub.endpoint, HF_HUB_CACHE: join(root, "cache"), HF_TOKEN: "hf_write" };
});
afterEach(async () => {
  await hub.stop();
  rmSync(root, { recursive: true, force: true });
});

function patterned(byteLength: number): Uint8Array {
  return Uint8Array.from({ length: byteLength }, (_, at) => (at * 31 + (at >> 8)) & 255);
}

const journalPath = () => join(root, "model.push.jsonl");

async function push(more: { token?: string | undefined; isPullRequest?: boolean; isPrivate?: boolean } = {}) {
  const { token = "hf_write", ...options } = more;
  const environment = { endpoint: hub.endpoint, token, cacheFolder: root, offline: false };
  const client = new HubClient(environment, { firstDelayMs: 5, tries: 3, stallMs: 2000 });
  const session = await PushSession.open({ repository: "me/out", journalPath: journalPath(), client, ...options });
  for (const file of await filesToPush(folder)) await session.add(file);
  return session.finish("a test");
}

function expectPushed(): void {
  const { files } = hub.repositories.get("me/out")!;
  for (const { path, localPath } of [
    { path: "model.safetensors", localPath: join(folder, "model.safetensors") },
    { path: "tokenizer.json", localPath: join(folder, "tokenizer.json") },
    { path: "config.json", localPath: join(folder, "config.json") },
    { path: "physarium/run.log", localPath: join(folder, "physarium", "run.log") },
    { path: "empty.txt", localPath: join(folder, "empty.txt") },
  ]) {
    expect(Buffer.compare(files.get(path)!, readFileSync(localPath)), path).toBe(0);
  }
}

const puts = () => hub.requests.filter(({ method }) => method === "PUT").length;

describe("a push", () => {
  test("makes the repository, sends large files by their hash, one commit on the head, reads back", async () => {
    const { commit, bytesSent } = await push({ isPrivate: true });
    expectPushed();
    expect(hub.repositories.get("me/out")).toMatchObject({ commit, private: true });
    expect(bytesSent).toBe(709_001);
    expect(hub.uploads.commits).toMatchObject([{ parentCommit: "1".repeat(40), isPullRequest: false }]);
    expect(existsSync(journalPath())).toBe(false);
    // The token goes to the endpoint and to no other origin.
    const storage = hub.requests.filter(({ origin }) => origin === "storage");
    expect(storage.length).toBe(4);
    expect(storage.filter(({ authorization }) => authorization !== undefined)).toEqual([]);
  });

  test("sends nothing twice: storage has it, or the journal says so", async () => {
    await push();
    const before = puts();
    await push();
    expect(puts()).toBe(before);
  });

  test("as a pull request leaves the head alone", async () => {
    hub.repositories.set("me/out", { commit: COMMIT, files: new Map() });
    const { url } = await push({ isPullRequest: true });
    expect(url).toContain("/discussions/1");
    expect(hub.repositories.get("me/out")!.commit).toBe(COMMIT);
  });

  test("that broke goes on: what is up stays up", async () => {
    const environment = { endpoint: hub.endpoint, token: "hf_write", cacheFolder: root, offline: false };
    const client = new HubClient(environment, { firstDelayMs: 5 });
    const session = await PushSession.open({ repository: "me/out", journalPath: journalPath(), client });
    const files = await filesToPush(folder);
    await session.add(files.find(({ path }) => path === "model.safetensors")!);
    expect(readFileSync(journalPath(), "utf8")).toContain(sha256(readFileSync(join(folder, "model.safetensors"))));
    hub.requests.length = 0;
    await push();
    expectPushed();
    expect(puts()).toBe(1);
  });
});

describe("hostile", () => {
  test("a part is rejected once: it is sent again", async () => {
    hub.turn("rejected part");
    await push();
    expectPushed();
  });

  test.each<[HostileMode, number, string]>([
    ["rejected part", 1000, "HUB_UPLOAD"],
    ["lost upload", 1000, "HUB_UPLOAD"],
    ["parent moves", 1, "HUB_CONFLICT"],
    ["other bytes afterwards", 1, "HUB_READ_BACK"],
    ["server error", 1000, "HUB_UNREACHABLE"],
  ])("%s: its code, and no commit of half a model", async (mode, times, code) => {
    hub.repositories.set("me/out", { commit: COMMIT, files: new Map([["old.txt", Buffer.from("old")]]) });
    hub.turn(mode, times);
    await expect(push()).rejects.toMatchObject({ code });
    if (code !== "HUB_READ_BACK") expect(hub.uploads.commits).toEqual([]);
  });

  test("a token that may only read, none at all, one that is withdrawn midway: HUB_TOKEN_SCOPE", async () => {
    await expect(push({ token: "hf_read" })).rejects.toMatchObject({ code: "HUB_TOKEN_SCOPE" });
    const none = await physarium(["push", folder, "me/out"], { env: { ...env, HF_TOKEN: "", HF_HOME: root } });
    expect(none.stderr).toContain("[HUB_TOKEN_SCOPE]");
    hub.repositories.set("me/out", { commit: COMMIT, files: new Map() });
    const environment = { endpoint: hub.endpoint, token: "hf_write", cacheFolder: root, offline: false };
    const client = new HubClient(environment, { firstDelayMs: 5 });
    const session = await PushSession.open({ repository: "me/out", journalPath: journalPath(), client });
    const [first, ...rest] = await filesToPush(folder);
    await session.add(first);
    hub.turn("token refused", 1);
    const add = async () => {
      for (const file of rest) await session.add(file);
    };
    await expect(add()).rejects.toMatchObject({ code: "HUB_TOKEN_SCOPE", message: expect.not.stringContaining("hf_") });
    await push();
    expectPushed();
  });
});

test("--dry-run prints what would go and asks nothing", async () => {
  const { status, stdout } = await physarium(["push", folder, "me/out", "--dry-run", "--json"], { env });
  expect(status).toBe(0);
  expect(JSON.parse(stdout)).toMatchObject({ dry_run: true, bytes: 709_009, repository: "me/out" });
  expect(hub.requests).toEqual([]);
  expect((await physarium(["push", folder, "out"], { env })).stderr).toContain("[USAGE_PUSH]");
});

test("surgery --push: shards as they finish, a card, the records; the pushed model verifies", async () => {
  const donor = filesOf(LOAM);
  const readme = "---\nlicense: apache-2.0\nlanguage:\n- en\ntags: [tiny, stories]\n---\n# loam\n";
  donor.set("README.md", Buffer.from(readme));
  hub.repositories.set("org/loam", { commit: COMMIT, files: donor });
  const output = join(root, "operated");
  hub.bytesPerSecond = 6e6;
  const args = ["surgery", "hf://org/loam", output, "--stream", "--push", "me/loam", "--json"];
  const { status, stdout, stderr } = await physarium(args, { env });
  expect(status, stderr).toBe(0);
  const { commit, files } = hub.repositories.get("me/loam")!;
  expect(JSON.parse(stdout).push).toMatchObject({ commit });
  for (const name of readdirSync(output).filter((each) => each !== "physarium")) {
    expect(Buffer.compare(files.get(name)!, readFileSync(join(output, name))), name).toBe(0);
  }
  const card = Buffer.from(files.get("README.md")!).toString();
  for (const part of [
    "base_model: org/loam",
    "license: apache-2.0",
    "- stories",
    "- physarium",
    "of the target projection weights",
    "of the full model",
    `physarium verify hf://org/loam@${COMMIT} FOLDER`,
    "no forward pass was run",
    "| Base model proven | sha256 of every shard |",
  ]) {
    expect(card, part).toContain(part);
  }
  expect(Buffer.from(files.get("README.donor.md")!).toString()).toBe(readme);
  // Shards went up as they finished: before the donor was read for the last time.
  const reads = hub.requests.flatMap(({ method, origin }, at) =>
    origin === "storage" && method === "GET" ? [at] : [],
  );
  expect(hub.requests.findIndex(({ method }) => method === "PUT")).toBeLessThan(reads.at(-1)!);
  expect(hub.uploads.commits).toHaveLength(1);
  expect(existsSync(`${output}.push.jsonl`)).toBe(false);
});

test("a packed model that was pushed unpacks and verifies: no file of it was written anew", async () => {
  const donor = join(root, "donor");
  cpSync(LOAM, donor, { recursive: true });
  writeFileSync(join(donor, "README.md"), "---\nlicense: mit\n---\n");
  for (const more of [[], ["--no-card"]]) {
    const [operated, packed, fetched, unpacked] = ["o", "p", "f", "u"].map((name) =>
      join(root, `${name}${more.length}`),
    );
    expect((await physarium(["surgery", donor, operated, "--quiet", ...more], { env })).status).toBe(0);
    const { status, stderr } = await physarium(["pack", operated, packed, "--push", `me/packed${more.length}`], {
      env,
    });
    expect(status, stderr).toBe(0);
    for (const [name, bytes] of hub.repositories.get(`me/packed${more.length}`)!.files) {
      mkdirSync(dirname(join(fetched, name)), { recursive: true });
      writeFileSync(join(fetched, name), bytes);
    }
    const end = await physarium(["unpack", fetched, unpacked, "--quiet"], { env });
    expect(end.status, end.stderr).toBe(0);
    expect((await physarium(["verify", donor, unpacked, "--quiet"], { env })).status).toBe(0);
  }
});
