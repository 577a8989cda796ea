// What does work cost as it grows? Donors of the shapes of a 7B model, scaled; each command a process of its own, cold,
// flushed at the end, beside `cp -r` in the same minute; then `plan` over ever more tensors.
//   node bench/growth.mjs --shapes <config folder> --folder <scratch> [--scales 0.0066,0.066,0.26,1] [--type q8_0]
//                         [--tensors 1000,10000,100000]
// The full size needs 46 GB of scratch. Straight lines: seconds a gigabyte stay, MiB do not grow.
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, rmSync, statSync } from "node:fs";
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
    type: { type: "string", default: "q8_0" },
    tensors: { type: "string", default: "1000,10000,100000" },
  },
});
if (values.folder === undefined || values.shapes === undefined)
  throw new Error("give --shapes <config folder> and --folder <scratch>");
const MAIN = fileURLToPath(new URL("../dist/cli/main.js", import.meta.url));
const list = (text) => text.split(",").filter((part) => part !== "");
mkdirSync(values.folder, { recursive: true });
printMachine();

const rows = [["", "GB", "s", "s a GB", "of cp", "processor s", "peak MiB"]];
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
  const gigabytes = files.reduce((sum, file) => sum + statSync(join(donor, file)).size, 0) / 1e9;
  const cold = (command, args) => {
    dropCaches();
    return timed(command, args);
  };
  const copied = await cold("sh", ["-c", 'cp -r "$0" "$1" && cd "$1" && shift && sync "$@"', donor, copy, ...files]);
  rmSync(copy, { recursive: true });
  const add = (name, { seconds, cpuSeconds, peakBytes }) =>
    rows.push([
      name,
      gigabytes.toFixed(2),
      seconds.toFixed(2),
      (seconds / gigabytes).toFixed(2),
      (seconds / copied.seconds).toFixed(2),
      cpuSeconds.toFixed(1),
      (peakBytes / 2 ** 20).toFixed(0),
    ]);
  add("cp -r + fsync", copied);
  const physarium = (...args) => cold(process.execPath, [MAIN, ...args, "--quiet"]);
  add("surgery", await physarium("surgery", donor, operated));
  add("verify", await physarium("verify", donor, operated));
  add("pack", await physarium("pack", operated, packed));
  rmSync(packed, { recursive: true });
  add(`export ${values.type}`, await physarium("export", operated, gguf, "--type", values.type));
  for (const path of [donor, operated, gguf]) if (existsSync(path)) rmSync(path, { recursive: true });
}
