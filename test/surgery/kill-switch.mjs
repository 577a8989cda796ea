// Loaded before the command line: kills the process with SIGKILL at one file system call of its main thread.
// PHYSARIUM_KILL is "ledger:N" (after the N-th ledger record), "half:N" (in the middle of it) or "call:N" (before the
// N-th call that changes something); "count" only counts and prints the counts at the end.
import fs from "node:fs/promises";
import { syncBuiltinESMExports } from "node:module";
import { isMainThread } from "node:worker_threads";

const [mode, number] = (process.env.PHYSARIUM_KILL ?? "").split(":");
const at = Number(number);
let calls = 0;
let records = 0;

const die = () => {
  process.kill(process.pid, "SIGKILL");
  // The signal is delivered at once, but not within this call.
  for (;;);
};
const beforeCall = () => {
  calls++;
  if (mode === "call" && calls === at) die();
};

if (isMainThread && mode !== "") {
  const { open } = fs;
  fs.open = async (path, ...rest) => {
    const writes = rest[0] !== undefined && typeof rest[0] === "string" && rest[0] !== "r";
    if (writes) beforeCall();
    const file = await open(path, ...rest);
    if (!writes) return file;
    const isLedger = String(path).endsWith("/ledger.jsonl");
    const { write } = file;
    file.write = async (buffer, offset, length, position) => {
      beforeCall();
      if (isLedger) records++;
      if (isLedger && mode === "half" && records === at) {
        await write.call(file, buffer, offset, length >> 1, position);
        die();
      }
      const result = await write.call(file, buffer, offset, length, position);
      if (isLedger && mode === "ledger" && records === at) die();
      return result;
    };
    for (const name of ["sync", "truncate"]) {
      const original = file[name];
      file[name] = async (...args) => {
        beforeCall();
        return original.apply(file, args);
      };
    }
    return file;
  };
  for (const name of ["rename", "rm", "mkdir"]) {
    const original = fs[name];
    fs[name] = async (...args) => {
      beforeCall();
      return original(...args);
    };
  }
  syncBuiltinESMExports();
  if (mode === "count")
    process.on("exit", () => process.stderr.write(`${JSON.stringify({ event: "counts", calls, records })}\n`));
}
