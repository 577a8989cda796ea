import { Worker } from "node:worker_threads";
import { PhysariumError, toPlainError } from "../../errors.js";
import type { BodySpec } from "./engine.js";
import { residentBytes } from "./process-memory.js";
import type { Call, Driver, FromChild, ToChild } from "./protocol.js";

/** A body's process: an engine's native code may crash or run out of memory here without taking the farm along. */

const answers = new Map<number, AbortController>();
let driver: Driver | undefined;
/** When the farm first said something: what a body's load is counted from. */
let begunAt: number | undefined;

function say(message: FromChild): void {
  process.send?.(message, undefined, undefined, () => {});
}

// A child dies with its parent, also while native code holds this thread.
process.on("disconnect", () => process.exit(0));
new Worker(
  `const parent = ${process.ppid};
   setInterval(() => { if (process.ppid !== parent) process.kill(process.pid, "SIGKILL"); }, 1000);`,
  { eval: true },
).unref();
// The farm decides when a body ends; a Ctrl-C in its terminal reaches the whole group.
for (const name of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(name, () => {});

process.on("message", (message: ToChild) => {
  begunAt ??= performance.now();
  if (message.kind === "prepare") void prepare(message.spec).catch(() => {});
  else if (message.kind === "load") void load(message.spec);
  else if (message.kind === "cancel") answers.get(message.id)?.abort();
  else void answer(message);
});

async function load(spec: BodySpec): Promise<void> {
  try {
    driver = await openDriver(spec);
    const { otherBytes } = await driver.memory();
    const ramBytes = (await residentBytes(process.pid)) + otherBytes;
    say({ kind: "loaded", loaded: { ...driver.loaded, seconds: (performance.now() - begunAt!) / 1000, ramBytes } });
  } catch (error) {
    say({ kind: "failed", error: toPlainError(error) });
    // Let the message out.
    setTimeout(() => process.exit(1), 100);
  }
}

/** The library takes longer than a small model; what fails here fails again, and is told, when the body is loaded. */
async function prepare(spec: BodySpec): Promise<void> {
  if (spec.engine.kind === "node-llama-cpp") await (await import("./llama-driver.js")).openLibrary(spec);
}

async function openDriver(spec: BodySpec): Promise<Driver> {
  if (spec.engine.kind === "fake") return (await import("./fake-driver.js")).FakeDriver.load(spec);
  if (spec.engine.kind === "llama-server") {
    const { ServerDriver } = await import("./server-driver.js");
    return ServerDriver.load(spec, (pid) => say({ kind: "started", pid }));
  }
  return (await import("./llama-driver.js")).LlamaDriver.load(spec);
}

async function answer(message: Extract<ToChild, { id: number }>): Promise<void> {
  const { id } = message;
  const controller = new AbortController();
  answers.set(id, controller);
  try {
    if (driver === undefined) throw new PhysariumError("INTERNAL", "the body was asked before it was loaded");
    if (message.kind === "ask") {
      const onPiece = (text: string): void => say({ kind: "piece", id, text });
      say({ kind: "answered", id, answered: await driver.ask(message.ask, onPiece, controller.signal) });
    } else if (message.kind === "call") say({ kind: "result", id, result: await run(driver, message.call) });
  } catch (error) {
    const stopped = new PhysariumError("STOPPED", "the answer was given up on request");
    say({ kind: "failed", id, error: toPlainError(controller.signal.aborted ? stopped : error) });
  } finally {
    answers.delete(id);
  }
}

async function run(driver: Driver, call: Call): Promise<unknown> {
  switch (call.what) {
    case "tokens":
      return driver.tokens(call.prompt);
    case "distributions":
      return driver.distributions(call.ids, call.from);
    case "greedy":
      return driver.greedy(call.ids, call.count);
    case "speed":
      return driver.speed(call.threads);
    case "memory": {
      const { otherBytes, vramBytes } = await driver.memory();
      return { ramBytes: (await residentBytes(process.pid)) + otherBytes, vramBytes };
    }
  }
}
