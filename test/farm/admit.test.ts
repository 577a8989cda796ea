import { type ChildProcess, spawn } from "node:child_process";
import { cpSync, existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import { residentBytes } from "../../dist/farm/engine/process-memory.js";
import { physarium } from "../physarium.js";
import { LOAM } from "../shared.js";
import { temporaryFolder } from "../temporary.js";

const MAIN = fileURLToPath(new URL("../../dist/cli/main.js", import.meta.url));
const SERVER = fileURLToPath(new URL("./llama-server.mjs", import.meta.url));

async function eventually(holds: () => boolean | Promise<boolean>): Promise<void> {
  for (let tries = 0; tries < 600; tries++) {
    if (await holds()) return;
    await sleep(25);
  }
  throw new Error("in 15 s it did not come true");
}

test("a killed admission leaves no process, and the next one sweeps what it left; a stopped one leaves nothing", async () => {
  const folder = temporaryFolder();
  cpSync(LOAM, join(folder, "loam"), { recursive: true });
  cpSync(SERVER, join(folder, "llama-server.mjs"));
  const pidFile = join(folder, "pid");
  const write = (args: string[]) => {
    const engine = { kind: "llama-server", path: "./llama-server.mjs", args };
    const bodies = { a: { source: "loam", forms: ["q8_0"], context: 64 } };
    writeFileSync(join(folder, "organ_farm.json"), JSON.stringify({ version: 1, engine, bodies, organs: [] }));
  };
  const state = join(folder, "farm-state/bodies/a");
  const generations = () => (existsSync(state) ? readdirSync(state).filter((name) => /^\d+$/.test(name)) : []);
  /** An admission whose engine never has its model, once its form is written and the engine runs. */
  const hanging = async (): Promise<{ child: ChildProcess; engine: number }> => {
    rmSync(pidFile, { force: true });
    const child = spawn(process.execPath, [MAIN, "farm", "admit", "a", "--file", folder, "--quiet"], {
      stdio: "ignore",
    });
    await eventually(() => existsSync(pidFile));
    expect(readdirSync(join(state, generations()[0]))).toContain("q8_0.gguf");
    return { child, engine: Number(readFileSync(pidFile, "utf8")) };
  };
  const end = async ({ child, engine }: Awaited<ReturnType<typeof hanging>>, signal: NodeJS.Signals) => {
    const ended = new Promise((resolve) => child.once("exit", (code, by) => resolve(code ?? by)));
    child.kill(signal);
    const how = await ended;
    await eventually(async () => (await residentBytes(engine)) === 0);
    return how;
  };

  write(["--hang", pidFile]);
  expect(await end(await hanging(), "SIGKILL")).toBe("SIGKILL");
  expect(generations()).toEqual(["1"]);
  expect(existsSync(join(state, "1/admission.json"))).toBe(false);

  // The next one begins by taking that away; stopped, it takes its own away as well.
  writeFileSync(join(state, "1/left.txt"), "of the killed one");
  const second = await hanging();
  expect(generations()).toEqual(["1"]);
  expect(existsSync(join(state, "1/left.txt"))).toBe(false);
  expect(await end(second, "SIGINT")).toBe(130);
  expect(generations()).toEqual([]);

  expect(await end(await hanging(), "SIGKILL")).toBe("SIGKILL");
  write([]);
  // It comes to its end: this engine cuts text into letters, so nothing of it passes, and that is on record.
  const { status, stdout } = await physarium(["farm", "admit", "a", "--file", folder, "--json"]);
  expect([status, JSON.parse(stdout).accepted]).toEqual([4, false]);
  expect(generations()).toEqual(["1"]);
  expect(JSON.parse(readFileSync(join(state, "1/admission.json"), "utf8")).forms[0].rejected).toMatch(/^tokens: /);
  const left = readdirSync(state, { recursive: true }).map(String);
  expect(left.filter((name) => /gguf$|partial|lock/.test(name))).toEqual([]);
}, 60_000);
