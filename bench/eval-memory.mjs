// What `eval` does with little memory: one run in a memory cgroup of each size, made by hand (v1 or v2, as root).
//
//   node bench/eval-memory.mjs MODEL --text FILE [--limits 400,500,600,800] [more flags of eval]
//
// Prints for each limit: exit, perplexity or the refusal, the cgroup's peak, how often its limit was hit, seconds.
import { spawn } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, rmdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const MAIN = fileURLToPath(new URL("../dist/cli/main.js", import.meta.url));
const args = process.argv.slice(2);
const at = args.indexOf("--limits");
const limits = (at < 0 ? "400,500,600,800" : args.splice(at, 2)[1]).split(",").map(Number);

const isUnified = existsSync("/sys/fs/cgroup/cgroup.controllers");
const lines = readFileSync("/proc/self/cgroup", "utf8").split("\n");
const own = lines.find((line) => (isUnified ? line.startsWith("0::") : line.includes(":memory:"))).split(":")[2];
const root = isUnified ? "/sys/fs/cgroup" : "/sys/fs/cgroup/memory";
const names = isUnified
  ? { limit: "memory.max", peak: "memory.peak", hits: "memory.events" }
  : { limit: "memory.limit_in_bytes", peak: "memory.max_usage_in_bytes", hits: "memory.failcnt" };

function run(mebibytes) {
  // A child of our own group: the kernel counts pages of files for whoever read them first, so a fresh group each time.
  const base = existsSync(join(root, own)) ? join(root, own) : root;
  const group = join(isUnified ? dirname(base) : base, `physarium-${process.pid}-${mebibytes}`);
  mkdirSync(group);
  writeFileSync(join(group, names.limit), `${mebibytes * 2 ** 20}`);
  const started = performance.now();
  const child = spawn(
    "/bin/sh",
    ["-c", 'echo $$ > "$0/cgroup.procs"; exec "$@"', group, process.execPath, MAIN, "eval", ...args, "--json"],
    { stdio: ["ignore", "pipe", "pipe"] },
  );
  let out = "";
  let err = "";
  child.stdout.on("data", (text) => (out += text));
  child.stderr.on("data", (text) => (err += text));
  return new Promise((resolve) => {
    child.on("close", (code, signal) => {
      const read = (name) => readFileSync(join(group, name), "utf8").trim();
      const hits = isUnified ? /^max (\d+)/m.exec(read(names.hits))[1] : read(names.hits);
      const peak = (Number(read(names.peak)) / 2 ** 20).toFixed(0);
      const seconds = ((performance.now() - started) / 1000).toFixed(1);
      const refusal = err.split("\n").findLast((line) => line.startsWith('{"event":"error"'));
      const words = out === "" ? (refusal === undefined ? err.trim() : JSON.parse(refusal).message) : undefined;
      rmdirSync(group);
      const found = words ?? `perplexity ${JSON.parse(out).perplexity.toFixed(4)}`;
      resolve(`| ${mebibytes} | ${signal ?? code} | ${found} | ${peak} | ${hits} | ${seconds} |`);
    });
  });
}

console.log("| MiB | exit | result | peak MiB | limit hit | s |\n| --- | --- | --- | --- | --- | --- |");
for (const limit of limits) console.log(await run(limit));
