import { spawn } from "node:child_process";
import { openDonor } from "../checkpoint/donor.js";
import type { ModelSource } from "../checkpoint/model-source.js";
import { memoryLimitBytes } from "../probe/memory.js";
import { endNow, listen } from "./stop-signal.js";

/**
 * glibc keeps freed blocks of up to 32 MiB for itself and splits them; a forward pass that casts each matrix in turn
 * then grows by an f32 copy of the whole model: 1235 MiB beside the mapping for Gemma 3 270M, where 109 MiB are in use.
 * With this setting blocks of a mebibyte and more go back to the system when they are freed. It costs some 15 % of the
 * time, and it is read when a process starts.
 */
const SETTING = "MALLOC_MMAP_THRESHOLD_";
const THRESHOLD = "1048576";

/** Node, engine and activations beside that. */
const BESIDE_BYTES = 512 << 20;

/**
 * Where a machine or container has no room for such growth, run this very command again in a process with that setting
 * and end with it; else return. Comes before anything is loaded or written.
 */
export async function leaveRoom(models: readonly ModelSource[]): Promise<void> {
  if (process.platform !== "linux" || process.env[SETTING] !== undefined) return;
  let copies = 0;
  for (const model of models) copies += 4 * (await openDonor(model)).modelWeights;
  if (memoryLimitBytes() >= copies + BESIDE_BYTES) return;
  const child = spawn(process.execPath, [...process.execArgv, ...process.argv.slice(1)], {
    env: { ...process.env, [SETTING]: THRESHOLD },
    // The channel alone ties the two: a process whose parent was killed hears that it is gone (below).
    stdio: ["inherit", "inherit", "inherit", "ipc"],
  });
  // A terminal signals both; a signal to this process alone is passed on. What is said of it the other one says.
  listen((name) => child.kill(name));
  await new Promise<void>((resolve, reject) => {
    child.on("error", reject);
    child.on("exit", (code, signal) => {
      if (signal === null) process.exit(code ?? 70);
      endNow(signal);
      resolve();
    });
  });
}

/** In the process that was started: end with the one that started it. */
if (process.env[SETTING] !== undefined && process.channel !== undefined) {
  process.on("disconnect", () => process.exit(130));
  process.channel.unref();
}
