import type { ChildProcess } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeEach, describe, expect, test } from "vitest";
import { checkOptions } from "../../dist/surgery/options.js";
import { needsDonorTwice } from "../../dist/surgery/stream-plan.js";
import { physarium } from "../physarium.js";
import { LOAM } from "../shared.js";
import { FakeHub } from "./fake-hub.js";
import { COMMIT, filesOf } from "./models.js";

let hub: FakeHub;
let folder: string;
let env: Record<string, string>;

beforeEach(async () => {
  hub = await FakeHub.start();
  folder = mkdtempSync(join(tmpdir(), "physarium-test-hub-stream-"));
  hub.repositories.set("org/loam", { commit: COMMIT, files: filesOf(LOAM) });
  env = { HF_ENDPOINT: hub.endpoint, HF_HUB_CACHE: join(folder, "cache"), HF_TOKEN: "" };
});
afterEach(async () => {
  await hub.stop();
  rmSync(folder, { recursive: true, force: true });
});

const stream = (output: string, ...more: string[]) =>
  physarium(["surgery", "hf://org/loam", join(folder, output), "--stream", ...more], { env });

const locals = mkdtempSync(join(tmpdir(), "physarium-test-hub-local-"));
afterAll(() => rmSync(locals, { recursive: true, force: true }));

/** The local run's output, made once a flow. */
async function local(flow = "magnitude"): Promise<string> {
  const output = join(locals, flow);
  if (existsSync(output)) return output;
  const { status, stderr } = await physarium(["surgery", LOAM, output, "--quiet", "--flow", flow]);
  expect(status, stderr).toBe(0);
  return output;
}

/**
 * Every file outside `physarium/`, byte for byte, and every record of a tensor. The model card says where the donor came
 * from, so of all files it alone differs.
 */
function expectSame(one: string, other: string): void {
  const names = readdirSync(one).sort();
  expect(readdirSync(other).sort()).toEqual(names);
  for (const name of names.filter((each) => each !== "physarium" && each !== "README.md")) {
    expect(Buffer.compare(readFileSync(join(one, name)), readFileSync(join(other, name))), name).toBe(0);
  }
  expect(readFileSync(join(other, "README.md"), "utf8")).toContain(`physarium verify hf://org/loam@`);
  expect(tensorsOf(one)).toEqual(tensorsOf(other));
}

function recordsOf(output: string): Record<string, unknown>[] {
  const lines = readFileSync(join(output, "physarium", "ledger.jsonl"), "utf8")
    .trimEnd()
    .split("\n");
  return lines.map((line) => JSON.parse(line));
}

function tensorsOf(output: string) {
  const records = recordsOf(output).filter(
    ({ kind, made }) => kind === "tensor" || (kind === "side_file" && made === undefined),
  );
  return new Map(records.map(({ at: _, ...record }) => [record.name ?? record.file, record]));
}

describe("a streamed operation", () => {
  test.each(["magnitude", "balanced"])("%s: the bytes of the local run, no donor on the disk, proven", async (flow) => {
    const { status, stdout, stderr } = await stream("streamed", "--flow", flow);
    expect(status, stderr).toBe(0);
    expect(stdout).toContain("donor proven, sha256");
    expectSame(await local(flow), join(folder, "streamed"));
    expect(existsSync(join(folder, "cache"))).toBe(false);
    const report = JSON.parse(readFileSync(join(folder, "streamed", "physarium", "surgery.json"), "utf8"));
    expect(report.donor).toMatchObject({ commit: COMMIT, proven: "sha256", path: `hf://org/loam@${COMMIT}` });
    expect(report.figures).toEqual(
      JSON.parse(readFileSync(join(locals, flow, "physarium/surgery.json"), "utf8")).figures,
    );
    expect(readFileSync(join(folder, "streamed", "physarium", "REPORT.md"), "utf8")).toContain("Donor proven");
    const proofs = recordsOf(join(folder, "streamed")).filter(({ kind }) => kind === "donor_proof");
    expect(proofs.length).toBe(4);
    // Each shard came in one range: a small shard is less than a range.
    const shards = hub.requests.filter(({ origin, url }) => origin === "storage" && /model-0000/.test(url));
    for (const [name, bytes] of filesOf(LOAM)) {
      if (!name.endsWith(".safetensors")) continue;
      const asked = shards.filter(({ url }) => url.includes(name)).map(({ range }) => range);
      expect(
        asked.some((range) => range?.endsWith(`-${bytes.byteLength - 1}`)),
        asked.join(" "),
      ).toBe(true);
    }
    const verified = await physarium(["verify", "hf://org/loam", join(folder, "streamed")], { env });
    expect(verified.status, verified.stdout).toBe(0);
  });

  test.each(["activation", "matched"])("%s needs the donor twice, and is called by its name", (flow) => {
    expect(needsDonorTwice(checkOptions({ flow, targetSparsity: 0.5 }))).toBe(`--flow ${flow} runs the donor`);
  });

  test("what needs the donor twice says so and goes through the cache", async () => {
    const { status, stderr } = await stream("half", "--target-sparsity", "0.5");
    expect(status, stderr).toBe(0);
    expect(stderr).toMatch(/--target-sparsity reads every target twice.*cache/);
    expect(existsSync(join(folder, "cache"))).toBe(true);
    expect((await physarium(["surgery", LOAM, join(folder, "x"), "--stream"])).stderr).toContain("[USAGE_STREAM]");
  });
});

describe("the wire damages a shard", () => {
  test("once: it comes once more, and the output is the local run's", async () => {
    hub.damaged.set("model-00002-of-00004.safetensors", 1);
    const { status, stderr } = await stream("streamed");
    expect(status, stderr).toBe(0);
    expect(stderr).toContain("trying once more");
    expectSame(await local(), join(folder, "streamed"));
  });

  test("always: HUB_HASH, and the output does not get its name", async () => {
    hub.damaged.set("model-00002-of-00004.safetensors", 1000);
    const { status, stderr } = await stream("streamed", "--workers", "0");
    expect(status).toBe(5);
    expect(stderr).toContain("[HUB_HASH]");
    expect(existsSync(join(folder, "streamed"))).toBe(false);
    hub.damaged.clear();
    const resumed = await stream("streamed", "--resume");
    expect(resumed.status, resumed.stderr).toBe(0);
    expectSame(await local(), join(folder, "streamed"));
  });

  test("connections break: each goes on at its byte", async () => {
    hub.turn("drop mid-range", 6);
    const { status, stderr } = await stream("streamed");
    expect(status, stderr).toBe(0);
    expectSame(await local(), join(folder, "streamed"));
  });
});

test("a branch that moved: a stopped run is not gone on with at another commit", async () => {
  hub.bytesPerSecond = 5e5;
  const ledger = join(folder, "out.partial", "physarium", "ledger.jsonl");
  const onStart = (child: ChildProcess): void => {
    const look = setInterval(() => {
      if (!existsSync(ledger)) return;
      clearInterval(look);
      child.kill("SIGKILL");
    }, 20);
  };
  await physarium(["surgery", "hf://org/loam", join(folder, "out"), "--stream", "--quiet"], { env, onStart });
  hub.bytesPerSecond = 0;
  const files = new Map(filesOf(LOAM));
  files.set("README.md", Buffer.from("moved"));
  const moved = hub.commit("org/loam", files);
  const again = await stream("out", "--resume");
  expect(again.stderr).toContain("[USAGE_RESUME_MISMATCH]");
  expect(again.stderr).toContain(moved);
  const pinned = await physarium(
    ["surgery", `hf://org/loam@${COMMIT}`, join(folder, "out"), "--stream", "--resume", "--quiet"],
    { env },
  );
  expect(pinned.status, pinned.stderr).toBe(0);
  expectSame(await local(), join(folder, "out"));
});
