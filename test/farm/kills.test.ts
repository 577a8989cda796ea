import { type ChildProcess, spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { chmodSync, cpSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { expect, test } from "vitest";
import { exportGguf } from "../../dist/export/gguf/export.js";
import { revertBody } from "../../dist/farm/admit/revert.js";
import { readFarm } from "../../dist/farm/config/read-config.js";
import type { BodySpec, Engine } from "../../dist/farm/engine/engine.js";
import { residentBytes } from "../../dist/farm/engine/process-memory.js";
import { budgetOf } from "../../dist/farm/plan/machine.js";
import { examineFarm } from "../../dist/farm/serve/doctor.js";
import { provenEngine } from "../../dist/farm/serve/proven-engine.js";
import { Journal, readJournal } from "../../dist/farm/state/journal.js";
import { StateFolder, tie } from "../../dist/farm/state/state-folder.js";
import { LOAM } from "../shared.js";
import { temporaryFolder } from "../temporary.js";
import { admittedFolder, fakeEngine, LEDGER, startFarm } from "./fake-service.js";

const FARM = {
  bodies: { a: { source: "loam", context: 128, sequences: 2 } },
  organs: [{ name: "echo", body: "a", tier: "RAM" }],
};

/** A server in a process of its own, so that it can be killed. */
async function serverProcess(folder: string): Promise<{ child: ChildProcess; address: string }> {
  const script = new URL("./serve-fake.mjs", import.meta.url).pathname;
  const child = spawn(process.execPath, [script, folder], { stdio: ["ignore", "pipe", "inherit"] });
  const address = await new Promise<string>((resolve, reject) => {
    child.stdout!.setEncoding("utf8").once("data", (text: string) => resolve(text.trim()));
    child.once("exit", (code) => reject(new Error(`the server ended with ${code}`)));
  });
  return { child, address };
}

const complete = (address: string, prompt: string) =>
  fetch(`${address}/v1/completions`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ model: "a", prompt, max_tokens: 200 }),
  });

const stateOf = (folder: string) => JSON.parse(readFileSync(join(folder, "farm-state/tier_state.json"), "utf8"));

async function gone(pid: number): Promise<boolean> {
  for (let tries = 0; tries < 300; tries++) {
    if ((await residentBytes(pid)) === 0) return true;
    await sleep(10);
  }
  return false;
}

test("kill -9 of the farm: its children end with it, every acknowledged answer is in the journal, the next farm serves", async () => {
  const folder = admittedFolder(temporaryFolder(), FARM);
  for (let round = 0; round < 3; round++) {
    const { child, address } = await serverProcess(folder);
    let acknowledged = 0;
    const load = Array.from({ length: 6 }, async (_, at) => {
      for (let times = 0; times < 50; times++) {
        const response = await complete(address, `round ${round} client ${at} ${times}`).catch(() => undefined);
        if (response?.status !== 200 || (await response.json().catch(() => undefined)) === undefined) return;
        acknowledged++;
      }
    });
    while (acknowledged < 5) await sleep(5);
    const pids = stateOf(folder).children.map(({ pid }: { pid: number }) => pid);
    expect(pids).toHaveLength(1);
    const before = (await readJournal(join(folder, "farm-state/journal.jsonl"))).filter(
      ({ event }) => event === "answer",
    ).length;
    expect(before).toBeGreaterThan(0);
    child.kill("SIGKILL");
    await Promise.all(load);
    const answers = (await readJournal(join(folder, "farm-state/journal.jsonl"))).filter(
      ({ event, body }) => event === "answer" && body === "a",
    );
    expect(answers.length).toBeGreaterThanOrEqual(acknowledged);
    for (const pid of pids) expect(await gone(pid)).toBe(true);
  }
});

test("kill -9 of a child in the middle: who got nothing is served by the next one, nobody waits for ever", async () => {
  const folder = admittedFolder(temporaryFolder(), FARM);
  const farm = await startFarm(folder, fakeEngine({ tokenMs: 3, loadMs: 100 }));
  try {
    await complete(farm.address, "warm");
    const answers = Array.from({ length: 6 }, (_, at) => complete(farm.address, `${"word ".repeat(60)}${at}`));
    await sleep(50);
    const { pid } = farm.service.runtime.homes.get("a")!.running!;
    process.kill(pid!, "SIGKILL");
    const killedAt = Date.now();
    const statuses = (await Promise.all(answers)).map(({ status }) => status);
    // Two were half written and say so; the rest is answered by the next process.
    expect(statuses.filter((status) => status === 200).length).toBeGreaterThanOrEqual(4);
    expect(statuses.every((status) => status === 200 || status === 503)).toBe(true);
    expect(Date.now() - killedAt).toBeLessThan(20_000);
    expect(await gone(pid!)).toBe(true);
    expect((await complete(farm.address, "after")).status).toBe(200);
  } finally {
    await farm.close();
  }
});

test("an orphan of a killed farm is ended by the next one, by pid and start; a process that got its pid is let alone", async () => {
  const folder = admittedFolder(temporaryFolder(), FARM);
  const idle = () => spawn(process.execPath, ["-e", "setInterval(() => {}, 1000)"], { stdio: "ignore" });
  const [orphan, stranger] = [idle(), idle()];
  await sleep(100);
  const startOf = (pid: number): string => {
    const fields = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ")[1].split(" ");
    return `${readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim()} ${fields[19]}`;
  };
  const state = {
    version: 1,
    at: "",
    server: null,
    children: [
      { body: "a", pid: orphan.pid, started: startOf(orphan.pid!) },
      { body: "a", pid: stranger.pid, started: `${startOf(stranger.pid!)}0` },
    ],
    bodies: {},
    organs: {},
  };
  writeFileSync(join(folder, "farm-state/tier_state.json"), JSON.stringify(state));
  const ended = new Promise((resolve) => orphan.once("exit", (_, signal) => resolve(signal)));
  const farm = await startFarm(folder, fakeEngine());
  try {
    expect(await ended).toBe("SIGKILL");
    expect(stranger.exitCode).toBe(null);
    expect((await readJournal(join(folder, "farm-state/journal.jsonl"))).map(({ event }) => event)).toContain(
      "orphan_ended",
    );
  } finally {
    stranger.kill();
    await farm.close();
  }
});

test("kill -9 of farm and child: the llama-server that is left is ended by the next farm, by pid and start", async () => {
  const folder = admittedFolder(temporaryFolder(), {
    ...FARM,
    engine: { kind: "llama-server", path: "./llama-server.mjs" },
  });
  cpSync(new URL("./llama-server.mjs", import.meta.url).pathname, join(folder, "llama-server.mjs"));
  chmodSync(join(folder, "llama-server.mjs"), 0o755);
  const generation = join(folder, "farm-state/bodies/a/1");
  const file = join(generation, "q8_0.gguf");
  rmSync(file);
  await exportGguf(LOAM, file, { type: "Q8_0" });
  const admission = JSON.parse(readFileSync(join(generation, "admission.json"), "utf8"));
  const sha256 = createHash("sha256").update(readFileSync(file)).digest("hex");
  Object.assign(admission.forms[0], { sha256, tied: tie(LEDGER, "q8_0", sha256), byte_length: statSync(file).size });
  writeFileSync(join(generation, "admission.json"), JSON.stringify(admission));

  const { child, address } = await serverProcess(folder);
  const response = await complete(address, "abc");
  expect(response.status, await response.text()).toBe(200);
  const pids: number[] = stateOf(folder).children.map(({ pid }: { pid: number }) => pid);
  const isServer = (pid: number) => readFileSync(`/proc/${pid}/cmdline`, "utf8").includes("llama-server.mjs");
  const [server, ...more] = pids.filter(isServer);
  expect([server, more.length, pids.length]).toEqual([expect.any(Number), 0, 2]);
  child.kill("SIGKILL");
  for (const pid of pids) if (pid !== server) process.kill(pid, "SIGKILL");
  for (const pid of pids) if (pid !== server) expect(await gone(pid)).toBe(true);
  expect(await residentBytes(server)).toBeGreaterThan(0);

  const farm = await startFarm(folder, fakeEngine());
  try {
    expect(await gone(server)).toBe(true);
    const journal = await readJournal(join(folder, "farm-state/journal.jsonl"));
    expect(journal.filter(({ event }) => event === "orphan_ended")).toMatchObject([{ body: "a", pid: server }]);
  } finally {
    await farm.close();
  }
});

test("gpu_layers reaches the engine as the file says it; what does not fit answers with the reason", async () => {
  const specs: BodySpec[] = [];
  const engine: Engine = {
    start(spec, onStart) {
      specs.push(spec);
      return fakeEngine().start(spec, onStart);
    },
  };
  const start = (VRAM: string) => {
    const file = {
      budget: { VRAM, RAM: "1GiB" },
      bodies: { a: { ...FARM.bodies.a, gpu_layers: 2 } },
      organs: [{ name: "echo", body: "a", tier: "VRAM" }],
    };
    return startFarm(admittedFolder(temporaryFolder(), file), engine);
  };
  const farm = await start("400MiB");
  await farm.service.runtime.load("a");
  expect(specs.map(({ gpuLayers }) => gpuLayers)).toEqual([2]);
  await farm.close();
  // The GPU's driver alone takes more.
  const small = await start("100MiB");
  expect(small.service.unavailable("a")?.message).toMatch(
    /no form of it fits; gpu_layers is 2: with so many q8_0 needs .* VRAM/,
  );
  const response = await complete(small.address, "x");
  expect([response.status, (await response.json()).error.message]).toEqual([
    503,
    small.service.unavailable("a")!.message,
  ]);
  await small.close();
});

test("two servers on one farm: the second is refused", async () => {
  const folder = admittedFolder(temporaryFolder(), FARM);
  const farm = await startFarm(folder, fakeEngine());
  await expect(startFarm(folder, fakeEngine())).rejects.toMatchObject({ code: "USAGE_LOCKED" });
  await farm.close();
});

test("a form whose file was changed since its admission is not loaded", async () => {
  const folder = admittedFolder(temporaryFolder(), FARM);
  writeFileSync(join(folder, "farm-state/bodies/a/1/q8_0.gguf"), "another form");
  const farm = await startFarm(folder, fakeEngine());
  const response = await complete(farm.address, "x");
  expect(response.status).toBe(503);
  expect((await response.json()).error.message).toContain("admitted was");
  await farm.close();
});

test("a process is started while its file is proven, and told of the file only once it is", async () => {
  const file = join(temporaryFolder(), "form.gguf");
  writeFileSync(file, "a form");
  const told: string[] = [];
  const engine: Engine = {
    async start(spec, onStart) {
      told.push("started");
      await onStart(1);
      told.push("loaded");
      return { spec } as never;
    },
  };
  const digest = createHash("sha256").update("a form").digest("hex");
  const start = (expected: string) => provenEngine(engine, () => expected).start({ file } as BodySpec, async () => {});
  await start(digest);
  expect(told.splice(0)).toEqual(["started", "loaded"]);
  await expect(start("ab".repeat(32))).rejects.toMatchObject({ code: "VERIFY_FORM" });
  expect(told).toEqual(["started"]);
});

test("what is not admitted does not answer, and says what to do", async () => {
  const folder = admittedFolder(temporaryFolder(), FARM);
  writeFileSync(
    join(folder, "organ_farm.json"),
    JSON.stringify({ version: 1, ...FARM, bodies: { ...FARM.bodies, b: { source: "loam" } } }),
  );
  const farm = await startFarm(folder, fakeEngine());
  const response = await fetch(`${farm.address}/v1/completions`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ model: "b", prompt: "x" }),
  });
  expect(response.status).toBe(503);
  expect((await response.json()).error.message).toContain("physarium farm admit b");
  await farm.close();
});

test("a server of one's own that has admitted nothing yet says so, too", async () => {
  const folder = admittedFolder(temporaryFolder(), FARM);
  const engine = { kind: "llama-server", path: "llama-server" };
  const farm = { version: 1, engine, ...FARM, bodies: { ...FARM.bodies, b: { source: "loam" } } };
  writeFileSync(join(folder, "organ_farm.json"), JSON.stringify(farm));
  const { service, close } = await startFarm(folder, fakeEngine());
  expect(service.unavailable("b")?.code).toBe("FARM_NOT_ADMITTED");
  await close();
});

test("a server that runs elsewhere: doctor misses no admission that admit would refuse to make", async () => {
  const folder = temporaryFolder();
  cpSync(LOAM, join(folder, "loam"), { recursive: true });
  const engine = { kind: "llama-server", address: "http://127.0.0.1:9" };
  const file = { version: 1, engine, bodies: { a: { source: "loam" } }, organs: [] };
  writeFileSync(join(folder, "organ_farm.json"), JSON.stringify(file));
  const opened = await readFarm(join(folder, "organ_farm.json"));
  const state = new StateFolder(opened);
  const findings = await examineFarm(opened, state, await budgetOf(opened, {}, folder));
  expect(findings.filter(({ what }) => what.startsWith("body"))).toEqual([]);
  expect(findings.find(({ what }) => what === "placement")).toMatchObject({ ok: true });
});

test("what was served until now keeps its files beside the new generation, also after a revert", async () => {
  const folder = admittedFolder(temporaryFolder(), FARM);
  const state = new StateFolder({ folder });
  const first = (await state.admission("a", 1))!;
  for (const generation of [2, 3]) {
    cpSync(state.generation("a", 1), state.generation("a", generation), { recursive: true });
    await state.writeAdmission({ ...first, generation });
  }
  // 2 was served and reverted; 3 takes the place of 1.
  await state.keepForms("a", [3, 1]);
  await state.setCurrent("a", 3);
  expect((await state.accepted("a")).map(({ generation }) => generation)).toEqual([1, 3]);
  expect(await revertBody(state, "a")).toEqual({ from: 3, to: 1 });
});

test("a journal that ends in half a line goes on behind it", async () => {
  const path = join(temporaryFolder(), "journal.jsonl");
  const first = await Journal.open(path);
  await Promise.all([first.append("one"), first.append("two")]);
  await first.close();
  writeFileSync(path, `${readFileSync(path, "utf8")}{"event":"tor`);
  const second = await Journal.open(path);
  await second.append("three");
  await second.close();
  expect((await readJournal(path)).map(({ event }) => event)).toEqual(["one", "two", "three"]);
});
