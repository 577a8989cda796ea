// What does work cost as it grows? Donors of the shapes of a 7B model, scaled; each command a process of its own, cold,
// flushed at the end, beside `cat` and `cp -r` in the same minute; then `plan` over ever more tensors.
//   node bench/growth.mjs --shapes <config folder> --folder <scratch> [--scales 0.0066,0.066,0.26,1]
//                         [--types q8_0,q4_k_m] [--tensors 1000,10000,100000]
// The full size needs 46 GB of scratch. Straight lines: seconds a gigabyte stay, MiB do not grow. GB/s is what a command
// read and wrote together, to be held against that of `cat` and `cp`; a core's is what came in by processor time.
import { execFileSync } from "node:child_process";
import { mkdirSync, readdirSync, rmSync, statSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { synthesize } from "../dist/synth/synth.js";
import { dropCaches, timed } from "./cold.mjs";
import { printMachine, printTable } from "./machine.mjs";

const { values } = parseArgs({
  options: {
    shapes: { type: "string" },
    folder: { type: "string" },
    scales: { type: "string", default: "0.0066,0.066,0.26,1" },
    types: { type: "string", default: "q8_0,q4_k_m" },
    tensors: { type: "string", default: "1000,10000,100000" },
  },
});
if (values.folder === undefined || values.shapes === undefined)
  throw new Error("give --shapes <config folder> and --folder <scratch>");
const MAIN = fileURLToPath(new URL("../dist/cli/main.js", import.meta.url));
const list = (text) => text.split(",").filter((part) => part !== "");
mkdirSync(values.folder, { recursive: true });
printMachine();

const rows = [["", "GB in", "GB out", "s", "s a GB", "of cp", "GB/s", "processor s", "GB/s a core", "peak MiB"]];
for (const scale of list(values.scales).map(Number)) await measure(scale);
printTable(rows);
const plans = fileURLToPath(new URL("plan-scale.mjs", import.meta.url));
for (const tensors of list(values.tensors)) {
  const shards = String(Math.max(1, Math.round(Number(tensors) / 500)));
  console.log(execFileSync(process.execPath, [plans, "--tensors", tensors, "--shards", shards], { encoding: "utf8" }));
}

async function measure(scale) {
  const at = (name) => join(values.folder, `growth-${name}`);
  const [donor, copy, operated, packed, gguf] = ["donor", "copy", "operated", "packed", "gguf"].map(at);
  for (const path of [donor, copy, operated, packed, gguf]) rmSync(path, { recursive: true, force: true });
  await synthesize(values.shapes, donor, { scale });
  const files = readdirSync(donor);
  const cold = (command, args) => {
    dropCaches();
    return timed(command, args);
  };
  const read = await cold("sh", ["-c", 'cat "$0"/* > /dev/null', donor]);
  const copied = await cold("sh", ["-c", 'cp -r "$0" "$1" && cd "$1" && shift && sync "$@"', donor, copy, ...files]);
  const size = bytesOf(donor);
  rmSync(copy, { recursive: true });
  const add = (name, { seconds, cpuSeconds, peakBytes }, bytesIn, bytesOut) =>
    rows.push([
      name,
      (bytesIn / 1e9).toFixed(2),
      (bytesOut / 1e9).toFixed(2),
      seconds.toFixed(2),
      ((1e9 * seconds) / bytesIn).toFixed(2),
      (seconds / copied.seconds).toFixed(2),
      ((bytesIn + bytesOut) / 1e9 / seconds).toFixed(2),
      // A shell's own time is not that of what it runs.
      cpuSeconds < 0.1 ? "" : cpuSeconds.toFixed(1),
      cpuSeconds < 0.1 ? "" : (bytesIn / 1e9 / cpuSeconds).toFixed(2),
      (peakBytes / 2 ** 20).toFixed(0),
    ]);
  add("cat", read, size, 0);
  add("cp -r + fsync", copied, size, size);
  const physarium = (...args) => cold(process.execPath, [MAIN, ...args, "--quiet"]);
  add("surgery", await physarium("surgery", donor, operated), size, size);
  add("verify", await physarium("verify", donor, operated), 2 * size, 0);
  add("pack", await physarium("pack", operated, packed), size, bytesOf(packed));
  // Unpack and import are measured by what comes out, in the columns of what went in: the weights as a checkpoint has
  // them.
  add("unpack", await physarium("unpack", packed, copy), size, bytesOf(packed));
  for (const path of [packed, copy]) rmSync(path, { recursive: true });
  for (const type of list(values.types)) {
    add(`export ${type}`, await physarium("export", operated, gguf, "--type", type), size, bytesOf(gguf));
    add(`import ${type}`, await physarium("import", gguf, copy), size, bytesOf(gguf));
    for (const path of [gguf, copy]) rmSync(path, { recursive: true });
  }
  for (const path of [donor, operated]) rmSync(path, { recursive: true });
}

/** Bytes of a file, or of all files in a folder. */
function bytesOf(path) {
  if (statSync(path).isFile()) return statSync(path).size;
  return readdirSync(path).reduce((sum, name) => sum + bytesOf(join(path, name)), 0);
}
