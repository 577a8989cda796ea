import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, utimesSync, writeFileSync } from "node:fs";
import { cp } from "node:fs/promises";
import { hostname } from "node:os";
import { join } from "node:path";
import { beforeAll, describe, expect, test } from "vitest";
import { nodeFiles } from "../../dist/checkpoint/file-layer.js";
import { exitCodeOf, PhysariumError } from "../../dist/errors.js";
import { finishParts } from "../../dist/parts/finish.js";
import { runPart } from "../../dist/parts/part-run.js";
import { isWorthRetrying } from "../../dist/parts/retry.js";
import { partsStatus } from "../../dist/parts/status.js";
import { type Ended, eventsOf, physarium } from "../physarium.js";
import { filesOf, operateOn } from "../surgery/operate.js";
import { temporaryFolder } from "../temporary.js";
import { prepare, recordsOf, writeMixedDonor } from "./parts.js";

const KILL_SWITCH = new URL("../surgery/kill-switch.mjs", import.meta.url);
/** Kills of a run and of a finish in CI; PHYSARIUM_KILLS for more by hand. */
const KILLS = Number(process.env.PHYSARIUM_KILLS ?? 5);

const folder = temporaryFolder();
const donor = join(folder, "donor");
const one = join(folder, "one");
let outputs = 0;
const fresh = () => join(folder, `output-${outputs++}`);
const code = (promise: Promise<unknown>) =>
  promise.then(
    () => "no error",
    (error: unknown) => (error instanceof PhysariumError ? error.code : error),
  );

beforeAll(async () => {
  writeMixedDonor(donor);
  await operateOn(donor, one, { workers: 0 });
});

function expectWhole(output: string): void {
  expect(filesOf(output)).toEqual(filesOf(one));
  expect(recordsOf(output).sort()).toEqual(recordsOf(one).sort());
  expect(existsSync(`${output}.parts`)).toBe(false);
}

/** Run what is not done, then finish. */
async function completeIt(output: string): Promise<void> {
  const { parts } = await partsStatus(output);
  for (const { part, state } of parts) if (state !== "done") await runPart(output, part, { workers: 0 });
  await finishParts(output, { workers: 0 });
  expectWhole(output);
}

const killed = (args: string[], at: string): Promise<Ended> =>
  physarium([...args, "--json", "--workers", "0"], { preload: KILL_SWITCH, env: { PHYSARIUM_KILL: at } });

/** How many calls that change something a command makes. */
async function countCalls(args: string[]): Promise<number> {
  const { status, stderr } = await killed(args, "count");
  expect(status, stderr).toBe(0);
  return eventsOf(stderr).find(({ event }) => event === "counts")!.calls as number;
}

describe("kill -9", () => {
  test(`of a part before any of its calls, ${KILLS} times: the next run goes on, the output is one machine's`, async () => {
    const counted = fresh();
    await prepare(donor, counted, 3);
    const calls = await countCalls(["parts", "run", counted, "--part", "1"]);
    const output = fresh();
    await prepare(donor, output, 3);
    let resumed = 0;
    for (let kill = 0; kill < KILLS; kill++) {
      const at = 1 + Math.floor(((kill + 0.5) * calls) / KILLS);
      const { signal } = await killed(["parts", "run", output, "--part", String(kill % 3)], `call:${at}`);
      expect(signal === "SIGKILL" || existsSync(join(`${output}.parts`, `part-${kill % 3}.done.json`))).toBe(true);
      const { parts } = await partsStatus(output);
      expect(parts[kill % 3].state).toMatch(/missing|done/);
      if (parts[kill % 3].why !== undefined) resumed++;
    }
    expect(resumed).toBeGreaterThan(0);
    await completeIt(output);
  });

  test(`of finish before any of its calls, ${KILLS} times in a row: it is run again`, async () => {
    const counted = fresh();
    const output = fresh();
    await prepare(donor, counted, 12);
    await prepare(donor, output, 12);
    for (const each of [counted, output]) {
      for (const { part } of (await partsStatus(each)).parts) await runPart(each, part, { workers: 0 });
    }
    const calls = await countCalls(["parts", "finish", counted, "--no-card"]);
    for (let kill = 0; kill < KILLS; kill++) {
      const at = 1 + Math.floor(((kill + 0.5) * calls) / KILLS);
      const { signal, status, stderr } = await killed(["parts", "finish", output, "--no-card"], `call:${at}`);
      if (signal !== "SIGKILL") expect(status, stderr).toBe(0);
      if (existsSync(output)) expect(filesOf(output)).toEqual(filesOf(one));
    }
    const { state } = await finishParts(output, { workers: 0 });
    expect(state).toMatch(/finished/);
    expectWhole(output);
    expect((await partsStatus(output)).state).toBe("joined");
    expect((await runPart(output, 3)).state).toBe("joined");
    expect((await finishParts(output)).state).toBe("already finished");
  });

  test("of prepare: it is run again, with and without other parts in its way", async () => {
    const counted = fresh();
    const calls = await countCalls(["parts", "prepare", donor, counted, "--max-parts", "4"]);
    for (const at of [2, Math.ceil(calls / 2), calls - 2]) {
      const output = fresh();
      await killed(["parts", "prepare", donor, output, "--max-parts", "4"], `call:${at}`);
      const { plan } = await prepare(donor, output, 4);
      expect(plan.part_count).toBe(4);
    }
  });
});

describe("a part that is run again", () => {
  test("done and unchanged is left alone; damaged since, finish says so and it is done again", async () => {
    const output = fresh();
    const { plan } = await prepare(donor, output, 3);
    for (const part of [0, 1, 2]) expect((await runPart(output, part, { workers: 0 })).state).toBe("done");
    const { part } = plan.parts.find(({ shards }) => shards.every(({ whole }) => whole))!;
    const before = readFileSync(join(`${output}.parts`, `part-${part}.done.json`), "utf8");
    expect((await runPart(output, part, { workers: 0 })).state).toBe("already done");
    expect(readFileSync(join(`${output}.parts`, `part-${part}.done.json`), "utf8")).toBe(before);
    const { tensors } = JSON.parse(before);
    const target = tensors.find(({ role }: { role: string }) => role === "target");
    const path = join(`${output}.parts`, "output", target.shard);
    const bytes = readFileSync(path);
    bytes[target.byte_offset + 10] ^= 0x40;
    writeFileSync(path, bytes);
    expect(await code(finishParts(output, { workers: 0 }))).toBe("VERIFY_PART");
    // finish has said so to everybody.
    const { parts, missing } = await partsStatus(output);
    expect([missing, parts[part].state]).toEqual([1, "missing"]);
    await completeIt(output);
  });

  test("a damaged stretch of a cut shard is found, done again and put into the joined one", async () => {
    const output = fresh();
    await prepare(donor, output, 12);
    for (const { part } of (await partsStatus(output)).parts) await runPart(output, part, { workers: 0 });
    const [slice] = readdirSync(join(`${output}.parts`, "slices"));
    const path = join(`${output}.parts`, "slices", slice);
    const bytes = readFileSync(path);
    bytes[5] ^= 1;
    writeFileSync(path, bytes);
    expect(await code(finishParts(output, { workers: 0 }))).toBe("VERIFY_PART");
    await completeIt(output);
  });

  test("a note that was edited is none", async () => {
    const output = fresh();
    await prepare(donor, output, 2);
    await runPart(output, 0, { workers: 0 });
    writeFileSync(join(`${output}.parts`, "part-0.done.json"), "{}");
    expect((await partsStatus(output)).parts[0]).toMatchObject({ state: "missing" });
    expect(await code(finishParts(output))).toBe("USAGE_PARTS_OPEN");
    await completeIt(output);
  });

  test.each([
    ["SIGINT", 130],
    ["SIGTERM", 75],
  ])("%s at the beginning of prepare, run and finish ends them with %i", async (name, status) => {
    // The signal comes as soon as somebody listens for it.
    const preload = new URL(
      `data:text/javascript,process.on("newListener", (event) => {
        if (event === "${name}") setImmediate(() => process.emit(event));
      });`,
    );
    const [target, output] = [fresh(), fresh()];
    await prepare(donor, output, 1);
    const flags = ["--max-parts", "2", "--target-sparsity", "0.5"];
    const prepared = await physarium(["parts", "prepare", donor, target, ...flags, "--quiet"], { preload });
    expect([prepared.status, prepared.stderr]).toEqual([status, expect.stringContaining("[STOPPED]")]);
    const run = await physarium(["parts", "run", output, "--part", "0", "--quiet"], { preload });
    expect([run.status, run.stderr]).toEqual([status, expect.stringContaining("[STOPPED]")]);
    await runPart(output, 0, { workers: 0 });
    const finished = await physarium(["parts", "finish", output, "--quiet"], { preload });
    expect([finished.status, finished.stderr]).toEqual([status, expect.stringContaining("[STOPPED]")]);
    await completeIt(output);
  });

  test("SIGTERM ends it with 75, and status says why; the next run goes on", async () => {
    const output = fresh();
    await prepare(donor, output, 1);
    let isSent = false;
    const ended = await physarium(["parts", "run", output, "--part", "0", "--json", "--workers", "1"], {
      onStderr: (text, child) => {
        if (!isSent && text.includes(`"event":"tensor"`)) isSent = child.kill("SIGTERM");
      },
    });
    if (ended.status !== 0) {
      expect([ended.status, eventsOf(ended.stderr).at(-1)?.code]).toEqual([75, "STOPPED"]);
      expect((await partsStatus(output)).parts[0]).toMatchObject({ state: "failed", code: "STOPPED", retry: true });
    }
    await completeIt(output);
  });
});

describe("refusals", () => {
  test("of another version, another operation, a donor that changed, before the first byte", async () => {
    const output = fresh();
    await prepare(donor, output, 3);
    const path = join(`${output}.parts`, "parts.json");
    const text = readFileSync(path, "utf8");
    writeFileSync(path, text.replaceAll(/"physarium_version": "[^"]*"/g, '"physarium_version": "0.0.1"'));
    expect(await code(runPart(output, 0))).toBe("USAGE_PARTS_MISMATCH");
    expect(await code(finishParts(output))).toBe("USAGE_PARTS_MISMATCH");
    writeFileSync(path, text);
    expect(await code(runPart(output, 3))).toBe("USAGE_PARTS_INDEX");
    expect(await code(runPart(output, -1))).toBe("USAGE_PARTS_INDEX");
    expect(await code(runPart(fresh(), 0))).toBe("USAGE_PARTS");
    await expect(prepare(donor, output, 3, { survival: 0.4 })).rejects.toMatchObject({
      code: "USAGE_PARTS_MISMATCH",
      message: expect.stringMatching(/otherwise: survival was [\d.]+ and is 0\.4; go on/),
    });
    expect(await code(prepare(donor, output, 4))).toBe("USAGE_PARTS_MISMATCH");
    expect((await prepare(donor, output, 3)).state).toBe("already prepared");
    expect(readdirSync(join(`${output}.parts`, "unfinished"))).toEqual([]);
    // The note of another operation is no part of this one.
    await runPart(output, 0, { workers: 0 });
    const note = readFileSync(join(`${output}.parts`, "part-0.done.json"), "utf8");
    await prepare(donor, output, 3, { survival: 0.4 }, { overwrite: true });
    writeFileSync(join(`${output}.parts`, "part-0.done.json"), note);
    expect(await code(runPart(output, 0))).toBe("USAGE_PARTS_MISMATCH");
    expect((await partsStatus(output)).done).toBe(0);
  });

  test("a donor touched since is refused by the part that reads it, and by finish", async () => {
    const copy = join(folder, "touched");
    await cp(donor, copy, { recursive: true, preserveTimestamps: true });
    const output = fresh();
    await prepare(copy, output, 3);
    await runPart(output, 0, { workers: 0 });
    for (const name of readdirSync(copy)) if (name.endsWith(".safetensors")) utimesSync(join(copy, name), 1, 1);
    for (const part of [0, 1]) expect(await code(runPart(output, part))).toBe("DONOR_CHANGED");
    expect((await partsStatus(output)).parts[1]).toMatchObject({
      state: "failed",
      code: "DONOR_CHANGED",
      retry: false,
    });
    expect(await code(finishParts(output))).toBe("DONOR_CHANGED");
  });

  test("of v2 with a sentence, of an output in the wrong place, of finish before its time", async () => {
    const { status, stderr } = await physarium([
      ...["parts", "prepare", donor, fresh(), "--max-parts", "2", "--flow", "activation", "--target-sparsity", "0.5"],
    ]);
    expect([status, stderr]).toEqual([2, expect.stringContaining("USAGE_PARTS_FLOW")]);
    expect(await code(prepare(donor, join(donor, "inside"), 2))).toBe("USAGE_OUTPUT_OVERLAP");
    expect(await code(prepare(donor, one, 2))).toBe("USAGE_OUTPUT_EXISTS");
    const output = fresh();
    await prepare(donor, output, 3);
    await runPart(output, 1, { workers: 0 });
    expect(await code(finishParts(output))).toBe("USAGE_PARTS_OPEN");
    mkdirSync(output);
    writeFileSync(join(output, "mine"), "");
    for (const part of [0, 2]) await runPart(output, part, { workers: 0 });
    expect(await code(finishParts(output))).toBe("USAGE_OUTPUT_EXISTS");
    rmSync(join(output, "mine"));
    await completeIt(output);
  });
});

describe("the lock of a part on a disk that machines share", () => {
  const heartbeat = { every_ms: 40, expires_ms: 400 };
  const foreign = (at: number, beat = heartbeat) => ({
    ...{ pid: at, host: "another-machine", started: "another-boot 1", namespace: "1" },
    ...{ heartbeat: beat, at: new Date().toISOString() },
  });

  test("of a machine that died expires by its heartbeat; one that beats is respected", async () => {
    const output = fresh();
    await prepare(donor, output, 2);
    const lock = join(`${output}.parts`, "locks/part-0.lock");
    writeFileSync(lock, JSON.stringify(foreign(7)));
    const beating = setInterval(() => writeFileSync(lock, JSON.stringify(foreign(7))), 20);
    expect(await code(runPart(output, 0, { workers: 0, heartbeat }))).toBe("USAGE_LOCKED");
    expect((await partsStatus(output)).parts[0]).toMatchObject({ state: "running", host: "another-machine" });
    clearInterval(beating);
    const started = performance.now();
    const { state } = await runPart(output, 0, { workers: 0, heartbeat });
    expect(state).toBe("done");
    expect(performance.now() - started).toBeGreaterThan(200);
    expect(existsSync(lock)).toBe(false);
  });

  test("a machine of the same name, but of another boot, is not taken for this one", async () => {
    const output = fresh();
    await prepare(donor, output, 2);
    const lock = join(`${output}.parts`, "locks/part-0.lock");
    const namespace = String(statSync("/proc/self/ns/pid", { bigint: true }).ino);
    writeFileSync(lock, JSON.stringify({ ...foreign(process.pid), host: hostname(), namespace }));
    expect(await code(runPart(output, 0, { workers: 0 }))).toBe("USAGE_LOCKED");
  });

  test("its time moves while it is held, and it is lost where another took it over", async () => {
    const { takeLock } = await import("../../dist/output/lock.js");
    const path = join(folder, "held");
    const lock = await takeLock(path, nodeFiles, heartbeat);
    const first = statSync(`${path}.lock`).mtimeMs;
    await new Promise((wake) => setTimeout(wake, 150));
    expect(statSync(`${path}.lock`).mtimeMs).toBeGreaterThan(first);
    rmSync(`${path}.lock`);
    writeFileSync(`${path}.lock`, "another's");
    await new Promise((wake) => setTimeout(wake, 150));
    expect(lock.lost?.aborted).toBe(true);
    await lock.release();
    expect(readFileSync(`${path}.lock`, "utf8")).toBe("another's");
  });
});

test("exit codes: what another try may get over ends with 75", () => {
  const error = (name: string, more = {}) => new PhysariumError(name, name, more);
  for (const name of ["IO_FAILED", "IO_SHORT_READ", "IO_NOT_FOUND", "IO_LOCK_LOST", "STOPPED", "USAGE_LOCKED"])
    expect(isWorthRetrying(error(name)), name).toBe(true);
  for (const name of ["IO_DISK_FULL", "IO_PERMISSION", "DONOR_CHANGED", "DONOR_NON_FINITE", "USAGE_PARTS_MISMATCH"])
    expect(isWorthRetrying(error(name)), name).toBe(false);
  expect(exitCodeOf(error("IO_FAILED", { retry: true }))).toBe(75);
  expect(exitCodeOf(error("IO_FAILED"))).toBe(5);
});
