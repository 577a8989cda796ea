// One operation in many parts: what `prepare`, `status` and `finish` take on 100,000 tensors in sparse files, from 1 to 10,000
// parts, in seconds and MiB. Parts are run in this process, six at once, because 10,000 starts of Node would measure
// Node. --rows makes the tensors (256 columns, BF16) larger.
//
//   node bench/parts.mjs
//   node bench/parts.mjs --parts 1,10000 --tensors 100000
import { spawnSync } from "node:child_process";
import {
  closeSync,
  ftruncateSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { loadavg, tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { runPart } from "../dist/parts/part-run.js";
import { serializeHeader } from "../dist/safetensors/writer.js";
import { printMachine, printTable } from "./machine.mjs";

const MAIN = fileURLToPath(new URL("../dist/cli/main.js", import.meta.url));
const { values } = parseArgs({
  options: {
    parts: { type: "string", default: "1,100,10000" },
    tensors: { type: "string", default: "100000" },
    shards: { type: "string", default: "200" },
    rows: { type: "string", default: "16" },
  },
});
const tensorCount = Number(values.tensors);
const shardCount = Number(values.shards);
const TIMED = `process.on("exit", () => process.stderr.write("\\n" + JSON.stringify({ cpu: (process.resourceUsage().userCPUTime + process.resourceUsage().systemCPUTime) / 1e6, peak: process.resourceUsage().maxRSS * 1024 }) + "\\n"));`;

/** Experts of layers, three projections each, all of one small shape; files without a written byte behind the header. */
function writeDonor(folder) {
  mkdirSync(folder);
  const map = [];
  const number = (n) => String(n).padStart(5, "0");
  let bytes = 0;
  for (let shard = 1, next = 0; shard <= shardCount; shard++) {
    const file = `model-${number(shard)}-of-${number(shardCount)}.safetensors`;
    const tensors = [];
    for (const end = Math.floor((tensorCount * shard) / shardCount); next < end; next++) {
      const kind = ["gate_proj", "up_proj", "down_proj"][next % 3];
      const [layer, expert] = [Math.floor(next / 1152), Math.floor(next / 3) % 384];
      const name = `model.layers.${layer}.mlp.experts.${expert}.${kind}.weight`;
      tensors.push({ name, dtype: "BF16", shape: [Number(values.rows), 256] });
      map.push(`${JSON.stringify(name)}:"${file}"`);
    }
    const { bytes: header, fileByteLength } = serializeHeader(tensors);
    const descriptor = openSync(join(folder, file), "w");
    writeSync(descriptor, header);
    ftruncateSync(descriptor, fileByteLength);
    closeSync(descriptor);
    bytes += fileByteLength;
  }
  writeFileSync(join(folder, "model.safetensors.index.json"), `{"weight_map":{${map.join(",\n")}}}`);
  writeFileSync(join(folder, "config.json"), "{}");
  return bytes;
}

/** Seconds and peak of one command. */
function timed(...args) {
  const started = performance.now();
  const preload = ["--import", `data:text/javascript,${encodeURIComponent(TIMED)}`];
  const { status, stdout, stderr } = spawnSync(process.execPath, [...preload, MAIN, "parts", ...args], {
    encoding: "utf8",
    maxBuffer: 1 << 30,
  });
  if (status !== 0) throw new Error(stderr);
  const seconds = (performance.now() - started) / 1000;
  const { cpu, peak } = JSON.parse(stderr.trim().split("\n").at(-1));
  return { seconds, cpu, peak, stdout };
}

const words = ({ seconds, cpu, peak }) =>
  `${seconds.toFixed(2)} s (CPU ${cpu.toFixed(2)}), ${(peak / 2 ** 20).toFixed(0)} MiB`;

printMachine();
const folder = mkdtempSync(join(tmpdir(), "physarium-bench-parts-"));
try {
  const donor = join(folder, "donor");
  const bytes = writeDonor(donor);
  console.log(`${tensorCount} tensors in ${shardCount} shards, ${bytes} bytes, sparse\n`);
  const rows = [
    ["parts", "prepare", "status", "a run alone", "all runs here", "status, all done", "finish", "parts.json"],
  ];
  for (const asked of values.parts.split(",").map(Number)) {
    const output = join(folder, `output-${asked}`);
    const prepare = timed("prepare", donor, output, "--max-parts", String(asked), "--json");
    const { part_count } = JSON.parse(prepare.stdout);
    const planBytes = statSync(join(`${output}.parts`, "parts.json")).size;
    const before = timed("status", output, "--json");
    const alone = timed("run", output, "--part", "0", "--workers", "1", "--quiet");
    const started = performance.now();
    let next = 1;
    const runs = async () => {
      while (next < part_count) await runPart(output, next++, { workers: 0 });
    };
    await Promise.all(Array.from({ length: 6 }, runs));
    const running = (performance.now() - started) / 1000;
    const after = timed("status", output, "--json");
    const finish = timed("finish", output, "--quiet");
    rmSync(output, { recursive: true });
    rows.push([
      part_count,
      words(prepare),
      words(before),
      words(alone),
      `${running.toFixed(0)} s`,
      words(after),
      words(finish),
      `${(planBytes / 1e6).toFixed(2)} MB`,
    ]);
    console.error(`${part_count} parts: done, load ${loadavg()[0].toFixed(1)}`);
  }
  printTable(rows);
} finally {
  rmSync(folder, { recursive: true, force: true });
}
