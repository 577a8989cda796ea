import { existsSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { threadPool } from "../../dist/threads/pool.js";
import { runJobs } from "../../dist/threads/run-jobs.js";
import { gaussianTensor, writeDonor } from "../donors.js";
import { physarium } from "../physarium.js";
import { filesOf } from "../surgery/operate.js";
import { temporaryFolder } from "../temporary.js";

const WORKER = new URL("./dying-worker.mjs", import.meta.url);

describe("a worker thread that dies is an error with its cause, not a hang", () => {
  test.each([
    ["exit", /ended unexpectedly with code 7/],
    ["throw", /thrown outside a job/],
    ["reject", /the job failed/],
    ["no answer can be sent", /could not be cloned/],
  ])("%s", async (job, cause) => {
    const pool = await threadPool<string, unknown>(WORKER, undefined, 2, 2);
    // Other jobs never end by themselves: they must fail with the worker, too.
    const jobs = ["wait", "wait", job, "wait", "wait"].map((each) => ({ job: each, done: () => {} }));
    await expect(runJobs(jobs, pool)).rejects.toThrow(cause);
    await expect(pool.run("fine")).rejects.toThrow(cause);
    await pool.close();
  });

  test("that cannot start fails the pool's making", async () => {
    await expect(threadPool(WORKER, "cannot start", 2, 2)).rejects.toThrow(/no room to start/);
  });

  test("an abort does not wait for jobs that never end", async () => {
    const pool = await threadPool<string, unknown>(WORKER, undefined, 1, 2);
    const controller = new AbortController();
    const running = runJobs([{ job: "wait", done: () => {} }], pool, controller.signal);
    controller.abort();
    await expect(running).rejects.toMatchObject({ code: "STOPPED" });
    await pool.close();
  });
});

test("surgery whose worker dies says so with exit code 70, and resumes", async () => {
  const folder = temporaryFolder();
  const donor = writeDonor(join(folder, "donor"), [
    [0, 1, 2, 3, 4].map((layer) => gaussianTensor(`model.layers.${layer}.mlp.up_proj.weight`, "BF16", [64, 64], layer)),
  ]);
  const args = ["surgery", donor, join(folder, "output"), "--workers", "1"];
  const { status, stderr } = await physarium(args, {
    preload: new URL("./worker-preload.mjs", import.meta.url),
    env: { PHYSARIUM_WORKER_DIES_AT: "3" },
  });
  expect(status).toBe(70);
  expect(stderr).toContain("a worker thread ended unexpectedly with code 3");
  expect(existsSync(join(folder, "output"))).toBe(false);
  expect((await physarium([...args, "--resume"])).status).toBe(0);
  expect((await physarium(["surgery", donor, join(folder, "undisturbed")])).status).toBe(0);
  expect(filesOf(join(folder, "output"))).toEqual(filesOf(join(folder, "undisturbed")));
});
